"""Ray marching: of given samples (`op.ray_march`), and through a field (`fused.march_field`)."""

from pallas_kernels.ray_march.fields import Field as Field
from pallas_kernels.ray_march.fields import GaussianField as GaussianField
from pallas_kernels.ray_march.fields import TriplaneField as TriplaneField
from pallas_kernels.ray_march.fields import gaussian_field as gaussian_field
from pallas_kernels.ray_march.fields import triplane_field as triplane_field
from pallas_kernels.ray_march.fused import march_field as march_field
from pallas_kernels.ray_march.fused import march_field_twice as march_field_twice
from pallas_kernels.ray_march.fused_reference import decode as decode
from pallas_kernels.ray_march.op import ray_march as ray_march
from pallas_kernels.ray_march.types import Color as Color
from pallas_kernels.ray_march.types import Decoder as Decoder
from pallas_kernels.ray_march.types import DecoderOptions as DecoderOptions
from pallas_kernels.ray_march.types import FieldMarched as FieldMarched
from pallas_kernels.ray_march.types import Marched as Marched
from pallas_kernels.ray_march.types import MarchOptions as MarchOptions
from pallas_kernels.ray_march.types import Rays as Rays
from pallas_kernels.ray_march.types import Rule as Rule
