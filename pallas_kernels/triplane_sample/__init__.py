"""Tri-plane and tri-grid lookup: see `op.triplane_sample`."""

from pallas_kernels.triplane_sample.op import triplane_sample as triplane_sample
from pallas_kernels.triplane_sample.types import EG3D_AXES as EG3D_AXES
from pallas_kernels.triplane_sample.types import LN3DIFF_AXES as LN3DIFF_AXES
from pallas_kernels.triplane_sample.types import PANOHEAD_AXES as PANOHEAD_AXES
from pallas_kernels.triplane_sample.types import XY_XZ_YZ as XY_XZ_YZ
from pallas_kernels.triplane_sample.types import LookupOptions as LookupOptions
