"""Atomic adds that order no other access, which Pallas' Triton dialect has no public name for.

`triton.atomic_add` is an acquire and a release: on the device a fence before, which waits for all
earlier accesses, and one after, which empties the cache of what was read. Sums need neither. JAX's
own rules make the operation here, and its memory order is changed afterwards; where a JAX has other
rules inside, the public one serves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.pallas import triton as plgpu

# Triton's number for `relaxed`.
_RELAXED = 1
logger = logging.getLogger("pallas_kernels")


def _relaxed() -> Callable[..., Any]:
    """A function like `triton.atomic_add`, made of JAX's private parts."""
    from jax._src.lib.mlir import ir
    from jax._src.pallas.triton import lowering, primitives
    from jax._src.state.primitives import get_ref_and_transforms
    from jax.extend.core import Primitive

    primitive = Primitive("relaxed_atomic_add")
    primitive.def_effectful_abstract_eval(primitives._atomic_abstract_eval)

    @lowering.register_lowering(primitive)
    def lower(ctx, *args, **params):
        before = primitives._atomic_lowering_rule(ctx, *args, **params)
        number = ir.IntegerType.get_signless(32)
        before.owner.attributes["sem"] = ir.IntegerAttr.get(number, _RELAXED)
        return before

    def relaxed_add(ref, index: tuple, value: jax.Array, *, mask: jax.Array | None):
        ref, transforms = get_ref_and_transforms(ref, index, "relaxed_atomic_add")
        flat, tree = jax.tree.flatten((ref, transforms, value, mask))
        kind = primitives.AtomicOpType.ADD
        return primitive.bind(*flat, args_tree=tree, atomic_type=kind)

    return relaxed_add


try:
    add = _relaxed()
except (ImportError, AttributeError) as error:
    logger.info("atomic adds are fences too, because of this JAX: %s", error)
    add = plgpu.atomic_add
