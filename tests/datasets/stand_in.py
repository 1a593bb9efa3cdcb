"""A head of eight triangles: an octahedron whose size and colour are its seed's."""

import numpy as np

from headjax.data.sources import HeadState
from headjax.render.mesh import Scene, Surface

FACES = np.array(
    [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]],
    dtype=np.int32,
)


class StandInSource:
    """Octahedra in place of heads, so that tests of the data path are quick."""

    identity_size = 4
    expression_size = 3

    def __init__(self):
        self.made = 0

    def head(self, seed, *, expression, uv_size):
        self.made += 1
        code = np.random.default_rng(seed).uniform(0.5, 1.0, 4).astype(np.float32)
        corners = np.concatenate([np.eye(3), -np.eye(3)])[[0, 3, 1, 4, 2, 5]]
        vertices = (0.2 * code[0] * (1 + 0.2 * expression[0]) * corners).astype(np.float32)
        albedo = np.broadcast_to(code[1:], (6, 3)).astype(np.float32)
        valid = np.zeros((uv_size, uv_size), dtype=bool)
        valid[1:-1] = True
        return HeadState(
            scene=Scene((Surface(vertices=vertices, faces=FACES, albedo=albedo, part=1),)),
            identity_code=code,
            expression_code=expression,
            uv_positions=np.where(valid[..., None], code[1:], 0).astype(np.float32),
            uv_valid=valid,
        )
