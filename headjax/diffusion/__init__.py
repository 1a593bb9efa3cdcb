"""Diffusion in parts: schedule, losses, samplers. Networks live in `headjax.nets`."""
