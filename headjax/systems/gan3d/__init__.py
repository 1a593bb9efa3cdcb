"""EG3D and PanoHead: tri-plane and tri-grid generators, trained adversarially."""

from headjax.systems.gan3d.pipeline import describe as describe
from headjax.systems.gan3d.pipeline import stages as stages
