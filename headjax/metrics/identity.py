"""Identity: how alike two faces are, by the cosine of their ArcFace embeddings."""

import numpy as np
from jaxtyping import Float


def cosines(a: Float[np.ndarray, "*n d"], b: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n"]:
    """Cosine of each pair of rows, −1..1; 1 is the same face."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / lengths


def similarity(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> float:
    """The mean cosine of faces with their counterparts.

    Head3D's ID1 and ID2 (table 1) are this of swapped heads with the heads that gave the one part
    and the other; its ID of table 4 compares generated full heads with the original faces.
    """
    return float(cosines(a.astype(np.float64), b.astype(np.float64)).mean())
