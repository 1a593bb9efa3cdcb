"""The one training loop and what it stands on: states, checkpoints, logs, stages."""
