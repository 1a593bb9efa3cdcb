"""The parameters and buffers of the public EG3D and PanoHead networks, by name and shape.

`expected` computes them from the arguments that built a network, in PyTorch's order: a module's
parameters, then its buffers, then its children. A damaged or foreign file is so told by the names
that are missing, odd or of another shape.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from headjax.errors import UserError

Kind = Literal["eg3d", "panohead"]
KINDS = ("eg3d", "panohead")
Shape = tuple[int, ...]
# A buffer that the original training code adds to G while it runs.
OPTIONAL = {"dataset_label_std"}
_FILTER: Shape = (4, 4)
_FEATURES, _HIDDEN, _SR_WIDTH = 32, 64, 512
# The class → (input resolution, (channels, resolution) of its two blocks, has a filter of its own).
_SUPER_RESOLUTIONS = {
    "SuperresolutionHybrid8XDC": (128, ((256, 256), (128, 512)), False),
    "SuperresolutionHybrid8X": (128, ((128, 256), (64, 512)), True),
    "SuperresolutionHybrid4X": (128, ((128, 128), (64, 256)), True),
    "SuperresolutionHybrid2X": (64, ((128, 64), (64, 128)), True),
}
_DISCRIMINATORS = {"eg3d": "DualDiscriminator", "panohead": "MaskDualDiscriminatorV2"}
_Named = Iterator[tuple[str, Shape]]


class _Arguments:
    """A network's arguments, each checked when it is asked for."""

    def __init__(self, values: Mapping[str, Any], place: str = ""):
        self._values, self._place = values, place

    def count(self, name: str, *, default: int | None = None, most: int = 1 << 20) -> int:
        value = self._values.get(name)
        value = default if value is None else value
        if type(value) is not int or not 0 <= value <= most:
            wanted = f"a whole number from 0 to {most}"
            raise UserError(f"its argument {self._place}{name} is {value!r:.60}, not {wanted}")
        return value

    def resolution(self, name: str) -> int:
        value = self.count(name, most=4096)
        if value < 8 or value & (value - 1):
            raise UserError(
                f"its argument {self._place}{name} is {value}, not a power of two from 8 to 4096"
            )
        return value

    def text(self, name: str) -> str:
        value = self._values.get(name)
        return value if isinstance(value, str) else ""

    def within(self, name: str) -> "_Arguments":
        value = self._values.get(name) or {}
        if not isinstance(value, Mapping):
            raise UserError(f"its argument {self._place}{name} is no dictionary")
        return _Arguments(value, f"{self._place}{name}.")

    def has(self, name: str) -> bool:
        return bool(self._values.get(name))


def kind_of(architecture: Mapping[str, Any]) -> Kind:
    """Which system a network with these arguments belongs to."""
    rendering = architecture.get("rendering_kwargs")
    has_grid = isinstance(rendering, Mapping) and "triplane_depth" in rendering
    is_mask = "Mask" in str(architecture.get("class_name", "")) or "seg_channels" in architecture
    return "panohead" if has_grid or is_mask else "eg3d"


def expected(kind: Kind, which: str, *, architecture: Mapping[str, Any]) -> dict[str, Shape]:
    """Names and PyTorch shapes of all parameters and buffers, in PyTorch's order.

    Args:
      kind: "eg3d" or "panohead".
      which: "G_ema" or "G" for the generator, "D" for the discriminator.
      architecture: the network's arguments by their public names.

    Raises:
      UserError: an argument is missing or impossible, or names a part that is not known here; as
        the second half of a sentence about the file.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    arguments = _Arguments(architecture)
    return dict((_discriminator if which == "D" else _generator)(kind, arguments))


def _under(prefix: str, named: _Named) -> _Named:
    return ((f"{prefix}.{name}", shape) for name, shape in named)


def _generator(kind: Kind, arguments: _Arguments) -> _Named:
    rendering, width = arguments.within("rendering_kwargs"), arguments.count("w_dim")
    is_grid = kind == "panohead"
    size = rendering.resolution("triplane_size") if is_grid else 256
    depth = rendering.count("triplane_depth", most=64) if is_grid else 1
    channels = 3 * _FEATURES * depth
    yield from _under("backbone.synthesis", _synthesis(arguments, size=size, image=channels))
    yield from _under("backbone.mapping", _mapping(arguments, width=width, has_average=True))
    entry, blocks = _super_resolution(rendering, image=arguments.count("img_channels", most=64))
    yield from _under("superresolution", blocks)
    for index, shape in ((0, (_HIDDEN, _FEATURES)), (2, (1 + _FEATURES, _HIDDEN))):
        yield from _under(f"decoder.net.{index}", _linear(*shape))
    if is_grid:
        yield from _panohead_parts(arguments, rendering, entry=entry)


def _panohead_parts(arguments: _Arguments, rendering: _Arguments, *, entry: int) -> _Named:
    if rendering.has("use_torgb_raw"):
        yield from _under("torgb", _to_rgb(_FEATURES, 3, arguments.count("w_dim")))
    if rendering.has("use_background"):
        background = _synthesis(arguments, size=entry, image=_FEATURES, halved=True)
        yield from _under("bcg_synthesis", background)
    yield from _under("t_mapping", _mapping(arguments, width=3, has_average=True))


def _linear(outputs: int, inputs: int) -> _Named:
    yield "weight", (outputs, inputs)
    yield "bias", (outputs,)


def _mapping(arguments: _Arguments, *, width: int, has_average: bool) -> _Named:
    """A mapping network to `width` numbers; the discriminator's has no latent and no average."""
    options = arguments.within("mapping_kwargs")
    layers = options.count("num_layers", default=8, most=64)
    label = arguments.count("c_dim", most=4096)
    embedding = options.count("embed_features", default=width) if label else 0
    hidden = options.count("layer_features", default=width)
    latent = arguments.count("z_dim") if has_average else 0
    if has_average:
        yield "w_avg", (width,)
    if label:
        yield from _under("embed", _linear(embedding, label))
    sizes = [latent + embedding, *[hidden] * (layers - 1), width]
    for index, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        yield from _under(f"fc{index}", _linear(outputs, inputs))


def _channels(arguments: _Arguments, resolution: int, *, halved: bool = False) -> int:
    base = arguments.count("channel_base", default=32768, most=1 << 24) // (2 if halved else 1)
    return min(base // resolution, arguments.count("channel_max", default=512))


def _resolutions(size: int) -> list[int]:
    return [2**power for power in range(2, size.bit_length())]


def _synthesis(arguments: _Arguments, *, size: int, image: int, halved: bool = False) -> _Named:
    """StyleGAN2's synthesis network with skips up to `size`, `image` channels out."""
    width, inputs = arguments.count("w_dim"), 0
    for resolution in _resolutions(size):
        outputs = _channels(arguments, resolution, halved=halved)
        block = _block(inputs, outputs, resolution=resolution, image=image, width=width)
        yield from _under(f"b{resolution}", block)
        inputs = outputs


def _block(inputs: int, outputs: int, *, resolution: int, image: int, width: int) -> _Named:
    if not inputs:
        yield "const", (outputs, resolution, resolution)
    yield "resample_filter", _FILTER
    if inputs:
        yield from _under("conv0", _layer(inputs, outputs, resolution=resolution, width=width))
    yield from _under("conv1", _layer(outputs, outputs, resolution=resolution, width=width))
    yield from _under("torgb", _to_rgb(outputs, image, width))


def _layer(inputs: int, outputs: int, *, resolution: int, width: int) -> _Named:
    yield "weight", (outputs, inputs, 3, 3)
    yield "noise_strength", ()
    yield "bias", (outputs,)
    yield "resample_filter", _FILTER
    yield "noise_const", (resolution, resolution)
    yield from _under("affine", _linear(inputs, width))


def _to_rgb(inputs: int, outputs: int, width: int) -> _Named:
    yield "weight", (outputs, inputs, 1, 1)
    yield "bias", (outputs,)
    yield from _under("affine", _linear(inputs, width))


def _super_resolution(rendering: _Arguments, *, image: int) -> tuple[int, _Named]:
    """The resolution that the super-resolution takes, and its names and shapes."""
    name = rendering.text("superresolution_module").split(".")[-1]
    if name not in _SUPER_RESOLUTIONS:
        known = ", ".join(_SUPER_RESOLUTIONS)
        raise UserError(f"its super-resolution is {name[:60]!r}; known are {known}")
    entry, blocks, has_filter = _SUPER_RESOLUTIONS[name]

    def named() -> _Named:
        if has_filter:
            yield "resample_filter", _FILTER
        inputs = _FEATURES
        for index, (outputs, resolution) in enumerate(blocks):
            block = _block(inputs, outputs, resolution=resolution, image=image, width=_SR_WIDTH)
            yield from _under(f"block{index}", block)
            inputs = outputs

    return entry, named()


def _discriminator(kind: Kind, arguments: _Arguments) -> _Named:
    name = arguments.text("class_name").split(".")[-1]
    if name != _DISCRIMINATORS[kind]:
        raise UserError(f"its discriminator is {name[:60]!r}; known is {_DISCRIMINATORS[kind]}")
    size = arguments.resolution("img_resolution")
    image = 2 * arguments.count("img_channels", most=64)
    image += arguments.count("seg_channels", most=64) if kind == "panohead" else 0
    deepest = _channels(arguments, 4)
    label = arguments.count("cmap_dim", default=deepest) if arguments.count("c_dim") else 0
    yield "resample_filter", _FILTER
    for resolution in reversed(_resolutions(size)[1:]):
        named = _down_block(arguments, resolution, image=image if resolution == size else 0)
        yield from _under(f"b{resolution}", named)
    if label:
        yield from _under("mapping", _mapping(arguments, width=label, has_average=False))
    yield from _under("b4", _epilogue(arguments, deepest, label=label))


def _down_block(arguments: _Arguments, resolution: int, *, image: int) -> _Named:
    """One halving of the discriminator; `image` channels enter at the first."""
    inputs, outputs = _channels(arguments, resolution), _channels(arguments, resolution // 2)
    yield "resample_filter", _FILTER
    if image:
        yield from _under("fromrgb", _convolution(image, inputs, kernel=1))
    yield from _under("conv0", _convolution(inputs, inputs, kernel=3))
    yield from _under("conv1", _convolution(inputs, outputs, kernel=3))
    yield "skip.weight", (outputs, inputs, 1, 1)
    yield "skip.resample_filter", _FILTER


def _convolution(inputs: int, outputs: int, *, kernel: int) -> _Named:
    yield "weight", (outputs, inputs, kernel, kernel)
    yield "bias", (outputs,)
    yield "resample_filter", _FILTER


def _epilogue(arguments: _Arguments, channels: int, *, label: int) -> _Named:
    options = arguments.within("epilogue_kwargs")
    extra = options.count("mbstd_num_channels", default=1, most=64)
    yield from _under("conv", _convolution(channels + extra, channels, kernel=3))
    yield from _under("fc", _linear(channels, channels * 16))
    yield from _under("out", _linear(label or 1, channels))


def check(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> None:
    """Compares names and shapes.

    Raises:
      UserError: what is missing, odd or of another shape, as the second half of a sentence.
    """
    missing = [name for name in wanted if name not in found]
    odd = [name for name in found if name not in wanted and name not in OPTIONAL]
    other = [name for name in wanted if name in found and tuple(found[name]) != wanted[name]]
    shapes = [f"{name} {tuple(found[name])} instead of {wanted[name]}" for name in other]
    complaints = [
        f"{what} {len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("it lacks", missing), ("it has unknown", odd), ("wrong shape", shapes))
        if names
    ]
    if complaints:
        raise UserError("its tensors are not those of its architecture: " + "; ".join(complaints))
