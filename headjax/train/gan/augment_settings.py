"""What the augmentation may do: relative probabilities and ranges, and presets of them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Relative probabilities of the transformations (0: never), and their ranges."""

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    imgfilter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    # Ranges: shares of the image's size, standard deviations of log2 factors, shares of pi.
    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    imgfilter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    imgfilter_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    @property
    def moves(self) -> bool:
        """Whether pixels ever change their places."""
        return any(getattr(self, name) > 0 for name in (*_GROUPS["b"], *_GROUPS["g"]))

    @property
    def recolours(self) -> bool:
        """Whether colours ever change."""
        return any(getattr(self, name) > 0 for name in _GROUPS["c"])


_GROUPS = {
    "b": ("xflip", "rotate90", "xint"),
    "g": ("scale", "rotate", "aniso", "xfrac"),
    "c": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "f": ("imgfilter",),
    "n": ("noise",),
    "k": ("cutout",),
}
PRESETS = ("none", "b", "g", "c", "bg", "bgc", "bgcf", "bgcfn", "all")


def preset(name: str) -> Augmentation:
    """Groups of transformations, all of relative probability 1.

    b: flips, quarter turns, whole-pixel shifts; g: scaling, rotation, stretching, shifts;
    c: brightness, contrast, luma flip, hue, saturation; f: filtering; n: noise. "bgc" is the
    paper's choice and EG3D's (AFHQ); "all" adds filtering, noise and cut-outs.

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"augmentation {name!r}: one of {', '.join(PRESETS)}")
    letters = {"none": "", "all": "bgcfnk"}.get(name, name)
    return Augmentation(**{field: 1.0 for letter in letters for field in _GROUPS[letter]})
