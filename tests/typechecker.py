"""The runtime type checker of the test suite: beartype, lenient where JAX needs it.

JAX rebuilds `flax.struct` dataclasses with whatever a transformation carries (shapes, shardings,
vmap axes), so their generated `__init__` goes unchecked; every other function and dataclass of the
package is checked against its annotations, shapes included.
"""

import functools

from beartype import BeartypeConf, beartype

# An int is a float for Python's type checkers, and so it is here.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """`function` under beartype, except where JAX rebuilds a `flax.struct` dataclass."""
    checked = _beartype(function)
    if function.__name__ != "__init__":
        return checked

    @functools.wraps(checked)
    def init(self, *args, **kwargs):
        if getattr(type(self), "_flax_dataclass", False):
            return None
        return checked(self, *args, **kwargs)

    return init
