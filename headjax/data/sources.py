"""The makers of heads that a data set renders: procedural persons and ICT-FaceKit's scans."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from headjax.data.config import HeadViewsConfig

# Skin, lips, hair, brows and irises by r, g, b; blush, stubble, hairline: over many seeds.
_ICT_LOOKS_MEAN = np.array(
    [0.72, 0.54, 0.42, 0.68, 0.38, 0.34, 0.28, 0.2, 0.16, 0.22, 0.14, 0.1, 0.26, 0.22, 0.18]
    + [0.06, 0.08, 0.005]
)
_ICT_LOOKS_SPREAD = np.array(
    [0.15, 0.14, 0.14, 0.1, 0.07, 0.07, 0.17, 0.15, 0.14, 0.11, 0.08, 0.06, 0.06, 0.11, 0.19]
    + [0.023, 0.14, 0.014]
)


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
        from headjax.head.ict import read_ict, scene

        self._ict = scene
        self._model = read_ict(Path(folder))
        self._modes = int(self._model.identity_basis.shape[-1])
        self.identity_size = self._modes + len(self._appearance(0))
        self.expression_size = int(self._model.expression_basis.shape[-1])

    def head(self, seed: int, *, expression: Float[np.ndarray, "e"], uv_size: int) -> HeadState:
        """The scan-like head with this seed; see `HeadSource`."""
        identity = np.random.default_rng(seed).standard_normal(self._modes).astype(np.float32)
        shape = {"identity": identity, "expression": expression}
        return _head_state(
            self._ict.ict_scene(self._model, **shape, seed=seed),
            np.concatenate([identity, self._appearance(seed)]),
            expression,
            self._ict.ict_outer_surface_map(self._model, **shape, size=uv_size),
        )

    def _appearance(self, seed: int) -> Float[np.ndarray, "a"]:
        """The colours that `ict_scene` draws for a seed, of about unit variance."""
        looks = self._ict.sample_looks(seed)
        colors = [looks.skin, looks.lips, looks.hair, looks.brow, looks.iris]
        numbers = np.concatenate([*colors, [looks.blush, looks.stubble, looks.lift]])
        return ((numbers - _ICT_LOOKS_MEAN) / _ICT_LOOKS_SPREAD).astype(np.float32)


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
