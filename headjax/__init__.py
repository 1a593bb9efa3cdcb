"""headjax: 3D heads, generated, reconstructed, animated and edited, in JAX."""

import os
from typing import Any

__version__ = "0.1.0"


def load(workdir: str | os.PathLike) -> Any:
    """The trained model of a work directory: parameters with `sample`, `render` and `query`.

    Example:
      model = headjax.load("runs/g3diff-default")
      heads = model.sample(jax.random.key(1), count=4)

    Raises:
      headjax.errors.UserError: there is no trained model in that directory.
    """
    import importlib
    from pathlib import Path

    from headjax.train import config

    system = config.read(Path(workdir)).values.system
    return importlib.import_module(f"headjax.systems.{system}").load(workdir)
