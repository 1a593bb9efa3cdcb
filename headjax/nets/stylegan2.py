"""StyleGAN2's synthesis network (Karras et al. 2020, "Analyzing and improving the image quality
of StyleGAN"), in the arithmetic of the public PyTorch code.

Alphabet: b batch, h w rows and columns, c i o channels, l style layers (`ws` is [b, l, d]).

Names follow the public state dict: `b{r}/const`, `b{r}/conv{0|1}/{weight, bias, noise_strength,
affine/weight, affine/bias}`, `b{r}/torgb/...`; `noise_const` lives in the collection "buffers".
Layouts differ, and `variables_from_state_dict` maps them:

    public                          here
    convolution weight  O I kh kw   kh kw I O
    affine weight       out in      in out
    const               C 4 4       4 4 C
    resample_filter     4 4         a constant of this file

Learning rates are equalised at run time: parameters are stored at unit variance and multiplied
by 1/sqrt(fan-in) when used, except where demodulation cancels that factor.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from headjax.nets.activations import constrain
from headjax.nets.remat import Remat, rematerialised
from headjax.nets.winograd import pays, winograd_conv

NoiseMode = Literal["none", "const", "random"]

LRELU_SLOPE = 0.2
LRELU_GAIN = 2.0**0.5
# The filter [1,3,3,1]/8 along one axis, times 2: the gain of doubling that axis.
FIR_TAPS = (0.25, 0.75, 0.75, 0.25)
# What the public state dict counts among the buffers.
BUFFERS = ("noise_const", "w_avg")


def at_least_float32(x: Array) -> jnp.dtype:
    """float32, or float64 where x is."""
    return jnp.promote_types(x.dtype, jnp.float32)


def leaky_relu(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Leaky rectifier of slope 0.2, scaled by sqrt(2) to keep unit variance."""
    return jax.nn.leaky_relu(x, LRELU_SLOPE) * LRELU_GAIN


def _pad_axis(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def smooth(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Filters by the outer product of `FIR_TAPS`, zero-padded by 1: an axis loses one pixel."""
    for axis in (1, 2):
        padded = _pad_axis(x, axis, 1, 1)
        size = x.shape[axis] - 1
        pieces = [jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(4)]
        x = FIR_TAPS[0] * (pieces[0] + pieces[3]) + FIR_TAPS[1] * (pieces[1] + pieces[2])
    return x


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Doubles height and width with `FIR_TAPS`, zeros beyond the border.

    Equals inserting zeros, padding by (2, 1) and filtering with gain 4; here by phases:
    out[2i] = .25 x[i-1] + .75 x[i] and out[2i+1] = .75 x[i] + .25 x[i+1] along each axis.
    """
    near, far = FIR_TAPS[1], FIR_TAPS[0]
    for axis in (1, 2):
        size = x.shape[axis]
        padded = _pad_axis(x, axis, 1, 1)
        before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
        after = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
        phases = jnp.stack([far * before + near * x, near * x + far * after], axis=axis + 1)
        x = phases.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def _interleave_taps(y: jax.Array, *, axis: int, tap_axis: int) -> jax.Array:
    """Adds three taps of stride 2 along `axis`: out[2q+k] += y_k[q], size n -> 2n + 1."""
    first, middle, last = (jax.lax.index_in_dim(y, k, tap_axis, keepdims=False) for k in range(3))
    even = _pad_axis(first, axis, 0, 1) + _pad_axis(last, axis, 1, 0)
    odd = _pad_axis(middle, axis, 0, 1)
    size = even.shape[axis]
    both = jnp.stack([even, odd], axis=axis + 1)
    both = both.reshape(*even.shape[:axis], 2 * size, *even.shape[axis + 1 :])
    return jax.lax.slice_in_dim(both, 0, 2 * size - 1, axis=axis)


def transposed_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b h2 w2 o"]:
    """Transposed convolution of stride 2 without padding: out[2q + k] += x[q] kernel[k].

    Sizes go from n to 2n + 1. One matrix product gives all nine taps, which are then added where
    they belong: XLA's CPU backend takes up to sixty times longer for the gradients of the dilated
    convolution that this equals.
    """
    y = jnp.einsum("bhwi,klio->bhwklo", x, kernel)
    y = _interleave_taps(y, axis=1, tap_axis=3)
    return _interleave_taps(y, axis=2, tap_axis=3)


def _conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], *, padding: str
) -> Float[Array, "b h2 w2 o"]:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=numbers)


def _smooth_phases(even: jax.Array, odd: jax.Array, *, axis: int) -> jax.Array:
    """`smooth` along `axis` of what has every other pixel in `even` (n + 1 of them) and in `odd`.

    `odd` has a pixel of zeros at both ends (n + 2); the result has 2n.
    """
    size = even.shape[axis] - 1
    e0, e1 = (jax.lax.slice_in_dim(even, k, k + size, axis=axis) for k in range(2))
    o0, o1, o2 = (jax.lax.slice_in_dim(odd, k, k + size, axis=axis) for k in range(3))
    far, near = FIR_TAPS[:2]
    first = far * (o0 + e1) + near * (e0 + o1)
    second = far * (e0 + o2) + near * (o1 + e1)
    both = jnp.stack([first, second], axis=axis + 1)
    return both.reshape(*even.shape[:axis], 2 * size, *even.shape[axis + 1 :])


def _doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    padded = _pad_axis(_pad_axis(x, 1, 1, 1), 2, 1, 1)
    outer, middle = slice(None, None, -2), slice(1, 2)

    def rows(taps: slice) -> jax.Array:
        phases = (_conv(padded, kernel[taps, of], padding="VALID") for of in (outer, middle))
        return _smooth_phases(*phases, axis=2)

    return _smooth_phases(rows(outer), rows(middle), axis=1)


@jax.custom_jvp
def doubling_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b h2 w2 o"]:
    """smooth(transposed_conv(x, kernel)), from n to 2n.

    Along an axis, even pixels of the transposed convolution see two of the kernel's taps and odd
    ones the third: four ordinary convolutions give its four phases, which are smoothed as they lie.
    So the nine taps of every pixel are never stored, which takes two cores 0.55 times as long at
    256² and as long at 16². The gradients are those of `transposed_conv`, which are twice as fast.
    """
    return _doubled(x, kernel)


@doubling_conv.defjvp
def _doubling_conv_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    change = transposed_conv(dx, kernel) + transposed_conv(x, dkernel)
    return _doubled(x, kernel), smooth(change)


def _same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _conv(x, kernel, padding="SAME")


@jax.custom_jvp
def same_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"]
) -> Float[Array, "b h w o"]:
    """Convolution of stride 1, zeros beyond the border.

    Large ones go by `winograd_conv` on CPUs, unless they are differentiated.
    """
    if not pays(x, kernel):
        return _same(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=winograd_conv, default=_same)


@same_conv.defjvp
def _same_conv_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(_same, primals, tangents)


def modulated_conv(
    x: Float[Array, "b h w i"],
    weight: Float[Array, "kh kw i o"],
    *,
    styles: Float[Array, "b i"],
    demodulate: bool = True,
    up: bool = False,
) -> Float[Array, "b h2 w2 o"]:
    """Convolution whose weights are scaled for each sample by `styles` over input channels.

    Scaling the activations before and demodulating after equals convolving with
    w_b = weight * styles[b] / sqrt(sum (weight * styles[b])^2 + 1e-8) (sum over kh, kw, i), and
    needs one ordinary convolution for the batch. The size is kept, or doubled with `up`
    (transposed convolution, then the smoothing filter). Computes in x's dtype; the demodulation
    factors are float32.
    """
    if weight.shape[:2] == (1, 1):
        x = _pointwise(x, weight[0, 0], styles)
    else:
        kernel = weight.astype(x.dtype)
        x = x * styles[:, None, None, :].astype(x.dtype)
        x = doubling_conv(x, kernel) if up else same_conv(x, kernel)
    if demodulate:
        factors = _demodulation(weight, styles)
        x = x * factors[:, None, None, :].astype(x.dtype)
    return x


def _pointwise(
    x: Float[Array, "b h w i"], weight: Float[Array, "i o"], styles: Float[Array, "b i"]
) -> Float[Array, "b h w o"]:
    """A 1x1 convolution with weights of each sample's own: one product a sample.

    On CPUs a tenth of the time of scaled activations under an ordinary convolution where few
    channels come out, and a third of the gradients'.
    """
    own = (weight * styles[:, :, None]).astype(x.dtype)
    return jnp.einsum("bhwi,bio->bhwo", x, own)


def _demodulation(
    weight: Float[Array, "kh kw i o"], styles: Float[Array, "b i"]
) -> Float[Array, "b o"]:
    """1 / sqrt(sum (weight * styles)^2 + 1e-8), float32 or wider.

    The taps are added one by one: XLA's CPU backend takes fifty times longer for `sum((0, 1))`.
    """
    squares = jnp.square(weight.astype(at_least_float32(weight)))
    energy = sum(squares.reshape(-1, *squares.shape[2:]))
    styles = styles.astype(at_least_float32(styles))
    return jax.lax.rsqrt(jnp.square(styles) @ energy + 1e-8)


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate: x @ weight / sqrt(d) * lr + bias * lr."""

    features: int
    bias_init: float = 0.0
    lr_multiplier: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b c"]:
        """Maps [b, d] to [b, features] in x's dtype."""
        fan_in = x.shape[-1]
        unit = nn.initializers.normal(1.0 / self.lr_multiplier)
        weight = self.param("weight", unit, (fan_in, self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias_init), (self.features,))
        gain = self.lr_multiplier / fan_in**0.5
        return x @ (weight * gain).astype(x.dtype) + (bias * self.lr_multiplier).astype(x.dtype)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky rectifier.

    Attributes:
        features: output channels.
        up: doubles the resolution.
        use_noise: holds `noise_strength` and the buffer `noise_const`; the noise itself is
            chosen at the call ("random" draws from the rng stream "noise").
        clamp: bound of the output's magnitude; None for none.
    """

    features: int
    up: bool = False
    use_noise: bool = True
    clamp: float | None = None
    kernel_size: int = 3

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w i"],
        w: Float[Array, "b d"],
        noise: NoiseMode = "none",
    ) -> Float[Array, "b h2 w2 o"]:
        """Applies the layer to `x` under the style vector `w`."""
        channels = x.shape[-1]
        size = (self.kernel_size, self.kernel_size, channels, self.features)
        weight = self.param("weight", nn.initializers.normal(1.0), size)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        styles = FullyConnected(channels, bias_init=1.0, name="affine")(w)
        x = modulated_conv(x, weight, styles=styles, up=self.up)
        if self.use_noise:
            x = self._add_noise(x, noise)
        x = leaky_relu(x + bias.astype(x.dtype))
        return x if self.clamp is None else jnp.clip(x, -self.clamp, self.clamp)

    def _add_noise(self, x: jax.Array, mode: NoiseMode) -> jax.Array:
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        grid = x.shape[1:3]
        if self.is_initializing():
            key = self.make_rng("params")
            self.variable("buffers", "noise_const", jax.random.normal, key, grid)
        if mode == "none":
            return x
        if mode == "random":
            drawn = jax.random.normal(self.make_rng("noise"), (x.shape[0], *grid, 1))
        else:
            drawn = self.get_variable("buffers", "noise_const")[None, :, :, None]
        return x + (drawn * strength).astype(x.dtype)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the output channels, without demodulation."""

    features: int
    clamp: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], w: Float[Array, "b d"]
    ) -> Float[Array, "b h w o"]:
        """Maps features to the output channels under the style vector `w`."""
        channels = x.shape[-1]
        weight = self.param("weight", nn.initializers.normal(1.0), (1, 1, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        styles = FullyConnected(channels, bias_init=1.0, name="affine")(w) / channels**0.5
        x = modulated_conv(x, weight, styles=styles, demodulate=False) + bias.astype(x.dtype)
        return x if self.clamp is None else jnp.clip(x, -self.clamp, self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution: two layers (one behind the constant at 4x4) and the skip to the image.

    Attributes:
        features, channels_out: channels of the features and of the image.
        first: the block at 4x4, which begins with a learned constant.
        up: doubles the resolution (a first block has nothing to double).
        use_noise, clamp: as in `SynthesisLayer`.
    """

    features: int
    channels_out: int
    first: bool = False
    up: bool = True
    use_noise: bool = True
    clamp: float | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w i"] | None,
        image: Float[Array, "b h w o"] | None,
        ws: Float[Array, "b l d"],
        noise: NoiseMode = "none",
    ) -> tuple[Float[Array, "b h2 w2 c"], Float[Array, "b h2 w2 o"]]:
        """Returns (features, image); `x` and `image` are None for the first block only."""
        layer = {"use_noise": self.use_noise, "clamp": self.clamp}
        if self.first:
            const = self.param("const", nn.initializers.normal(1.0), (4, 4, self.features))
            x = jnp.broadcast_to(const.astype(ws.dtype), (ws.shape[0], *const.shape))
        else:
            x = constrain(x, "heads")
            conv0 = SynthesisLayer(self.features, up=self.up, name="conv0", **layer)
            x = conv0(x, ws[:, 0], noise)
        x = constrain(x, "heads")
        x = SynthesisLayer(self.features, name="conv1", **layer)(x, ws[:, -2], noise)
        x = constrain(x, "heads")
        rgb = ToRGB(self.channels_out, clamp=self.clamp, name="torgb")(x, ws[:, -1])
        rgb = constrain(rgb.astype(at_least_float32(rgb)), "heads")
        if image is None:
            return x, rgb
        return x, rgb + (upsample(image) if self.up else image)


class SynthesisNetwork(nn.Module):
    """ws [b, num_ws, w_dim] -> image [b, resolution, resolution, channels_out], float32.

    Attributes:
        resolution: a power of two, at least 4.
        channels_out: channels of the image (3, or a tri-plane's).
        channel_base, channel_max: features(r) = min(channel_base // r, channel_max).
        use_noise: holds the noise parameters and buffers.
        clamp: the public `conv_clamp`; None (float32) or 256 (half precision).
        dtype: compute dtype of the layers; parameters and the image stay float32.
        remat: what each resolution's backward pass computes again (`headjax.nets.remat`).
    """

    resolution: int
    channels_out: int
    w_dim: int = 512
    channel_base: int = 32768
    channel_max: int = 512
    use_noise: bool = True
    clamp: float | None = None
    dtype: Any = jnp.float32
    remat: Remat = "none"

    def __post_init__(self) -> None:
        """Checks the resolution at construction."""
        r = self.resolution
        if r < 4 or r & (r - 1):
            raise ValueError(f"resolution is {r}; a power of two of at least 4 was expected")
        super().__post_init__()

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., resolution."""
        return tuple(2**k for k in range(2, self.resolution.bit_length()))

    @property
    def num_ws(self) -> int:
        """Number of style vectors: two a resolution (a toRGB shares the next block's first)."""
        return 2 * len(self.resolutions)

    def features(self, resolution: int) -> int:
        """Feature channels at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    @nn.compact
    def __call__(
        self, ws: Float[Array, "b l d"], *, noise: NoiseMode = "none"
    ) -> Float[Array, "b h w c"]:
        """Synthesises images; `noise` is "none", "const" (buffers) or "random" (rng "noise")."""
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws is {ws.shape}; [batch, {self.num_ws}, {self.w_dim}] was expected")
        ws = ws.astype(self.dtype)
        synthesis = rematerialised(SynthesisBlock, self.remat, static_argnums=(4,))
        x = image = None
        start = 0
        for resolution in self.resolutions:
            first = resolution == 4
            count = 2 if first else 3
            block = synthesis(
                self.features(resolution),
                self.channels_out,
                first=first,
                use_noise=self.use_noise,
                clamp=self.clamp,
                name=f"b{resolution}",
            )
            x, image = block(x, image, ws[:, start : start + count], noise)
            start += count - 1
        return image


def _layout(name: str, value: np.ndarray, *, public: bool = False) -> np.ndarray:
    """From the public layout to ours, or back."""
    if name == "const":
        return value.transpose(2, 0, 1) if public else value.transpose(1, 2, 0)
    if name != "weight":
        return value
    order = (3, 2, 0, 1) if public else (2, 3, 1, 0)
    return value.transpose(order) if value.ndim == 4 else value.transpose()


def variables_from_state_dict(
    state: Mapping[str, np.ndarray], *, prefix: str = ""
) -> dict[str, dict]:
    """Flax variables {"params": ..., "buffers": ...} of a public state dict.

    Args:
        state: arrays by public name, for example "b4.conv1.affine.weight", in PyTorch's layouts.
        prefix: only names that start with it are taken, without it ("backbone.synthesis.").
    Returns:
        Nested dicts of numpy arrays in this file's layouts; resampling filters are left out.
    """
    variables: dict[str, dict] = {"params": {}, "buffers": {}}
    for key, value in state.items():
        path = key.removeprefix(prefix).split(".")
        if not key.startswith(prefix) or path[-1] == "resample_filter":
            continue
        node = variables["buffers" if path[-1] in BUFFERS else "params"]
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = _layout(path[-1], np.asarray(value))
    return variables


def state_dict_from_variables(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `variables_from_state_dict`, in order of the names."""
    state = {}
    for tree in variables.values():
        for path, value in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            state[name] = _layout(name.rpartition(".")[2], np.asarray(value), public=True)
    return dict(sorted(state.items()))
