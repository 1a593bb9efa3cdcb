"""K-nearest Gaussian blending: see `op.knn_blend`."""

from pallas_kernels.knn_blend.op import knn_blend as knn_blend
from pallas_kernels.knn_blend.types import BlendOptions as BlendOptions
from pallas_kernels.knn_blend.types import GaussianTable as GaussianTable
