"""Gaussian3Diff: 3D Gaussians on a UV map with local tri-planes, and diffusion over them."""

from headjax.systems.g3diff.model import Model as Model
from headjax.systems.g3diff.model import load as load
from headjax.systems.g3diff.pipeline import describe as describe
from headjax.systems.g3diff.pipeline import stages as stages
