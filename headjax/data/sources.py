"""The makers of heads that a data set renders: procedural persons and ICT-FaceKit's scans."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from headjax.data.config import HeadViewsConfig


@dataclass(frozen=True, eq=False)
class HeadState:
    """One head in one expression, ready to be rendered.

    Attributes:
        scene: `render.mesh.Scene`.
        identity_code: [p] float32, numbers that describe the person.
        expression_code: [e] float32, expression coefficients, 0 when neutral.
        uv_positions: [g, g, 3] float32, the outer visible surface over the UV square.
        uv_valid: [g, g], where `uv_positions` means something; positions are 0 elsewhere.
    """

    scene: Any
    identity_code: Float[np.ndarray, "p"]
    expression_code: Float[np.ndarray, "e"]
    uv_positions: Float[np.ndarray, "g g 3"]
    uv_valid: Bool[np.ndarray, "g g"]


@runtime_checkable
class HeadSource(Protocol):
    """A family of heads, indexed by seeds."""

    identity_size: int
    expression_size: int

    def head(self, seed: int, *, expression: Float[np.ndarray, "e"], uv_size: int) -> HeadState:
        """The head with this seed in this expression."""
        ...


class ProceduralSource:
    """headjax's own heads."""

    def __init__(self):
        from headjax.head import procedural

        self._procedural = procedural
        self.identity_size = len(procedural.person_code(procedural.sample_person(0)))
        self.expression_size = int(procedural.head_model().expression_basis.shape[-1])

    def head(self, seed: int, *, expression: Float[np.ndarray, "e"], uv_size: int) -> HeadState:
        """The person with this seed; see `HeadSource`."""
        person = self._procedural.sample_person(seed)
        shown = expression if expression.any() else None
        positions, valid = self._procedural.outer_surface_map(person, size=uv_size)
        return _head_state(
            self._procedural.person_scene(person, expression=shown),
            self._procedural.person_code(person),
            expression,
            (positions, valid),
        )


class IctSource:
    """ICT-FaceKit's principal components of scanned heads, coefficients ~ N(0, 1)."""

    def __init__(self, folder: str | Path):
        from headjax.head import ict

        self._ict = ict
        self._model = ict.read_ict(Path(folder))
        self.identity_size = int(self._model.identity_basis.shape[-1])
        self.expression_size = int(self._model.expression_basis.shape[-1])

    def head(self, seed: int, *, expression: Float[np.ndarray, "e"], uv_size: int) -> HeadState:
        """The scan-like head with this seed; see `HeadSource`."""
        identity = np.random.default_rng(seed).standard_normal(self.identity_size)
        identity = identity.astype(np.float32)
        shape = {"identity": identity, "expression": expression}
        return _head_state(
            self._ict.ict_scene(self._model, **shape, seed=seed),
            identity,
            expression,
            self._ict.ict_outer_surface_map(self._model, **shape, size=uv_size),
        )


@functools.lru_cache(maxsize=2)
def _source(kind: str, ict_folder: str) -> HeadSource:
    return ProceduralSource() if kind == "procedural" else IctSource(ict_folder)


def make_source(config: HeadViewsConfig) -> HeadSource:
    """The family of heads that a configuration names; made once a process.

    Raises:
        UserError: ICT-FaceKit's files are not where the configuration says.
    """
    return _source(config.source, config.ict_folder)


def sample_expression(seed: int, *, size: int) -> Float[np.ndarray, "e"]:
    """A random expression: one to three of `size` coefficients between 0.3 and 1, the others 0."""
    rng = np.random.default_rng([seed, 0xE])
    chosen = rng.choice(size, size=min(size, int(rng.integers(1, 4))), replace=False)
    coefficients = np.zeros(size, dtype=np.float32)
    coefficients[chosen] = rng.uniform(0.3, 1.0, size=len(chosen))
    return coefficients


def _head_state(scene: Any, code: Any, expression: Any, surface_map: tuple) -> HeadState:
    """A `HeadState` of NumPy float32 arrays, positions 0 where they are not valid."""
    positions, valid = (np.asarray(value) for value in surface_map)
    return HeadState(
        scene=scene,
        identity_code=np.asarray(code, dtype=np.float32),
        expression_code=np.asarray(expression, dtype=np.float32),
        uv_positions=np.where(valid[..., None], positions, 0.0).astype(np.float32),
        uv_valid=valid.astype(bool),
    )
