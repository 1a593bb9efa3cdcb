"""Head3D: full heads from a face generator, by distilling its tri-planes."""

from headjax.systems.head3d.pipeline import describe as describe
from headjax.systems.head3d.pipeline import stages as stages
