"""Which array library a function works in: JAX as soon as one argument is a JAX array."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

AnyArray = np.ndarray | jax.Array
Numbers = ArrayLike | Sequence[Any]


def namespace(*values: Any) -> ModuleType:
    """`jax.numpy` if any of `values` is a JAX array (tracers included), otherwise `numpy`."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def as_float(value: Any, xnp: ModuleType) -> Any:
    """`value` as an array of `xnp`; floating arrays keep their dtype, all else turns float32."""
    dtype = getattr(value, "dtype", None)
    keeps = dtype is not None and jnp.issubdtype(dtype, jnp.floating) and np.ndim(value) > 0
    return xnp.asarray(value, dtype=dtype if keeps else xnp.float32)
