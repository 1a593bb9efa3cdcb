"""ICT-FaceKit's heads: principal components of scanned heads, read from its OBJ files."""

from headjax.head.ict.model import read_ict
from headjax.head.ict.scene import ict_outer_surface_map, ict_scene

__all__ = ["ict_outer_surface_map", "ict_scene", "read_ict"]
