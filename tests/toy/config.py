"""The toy system's config: a linear map learned from noisy pairs."""

import ml_collections

PRESETS = {"plain": "forty steps", "long": "two hundred steps"}


def get_config(preset: str = "plain") -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "system": "toy",
            "seed": 3,
            "pairs": 50,
            "rates": (0.1, 0.01),
            "train": {
                "steps": {"plain": 40, "long": 200}[preset],
                "batch_size": 8,
                "learning_rate": 0.05,
                "noise": 0.01,
                "checkpoint_every": 10,
                "log_every": 5,
                "average": True,
            },
        }
    )
