"""What a multi-view data set holds: its configuration and the table of its records."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headjax.data import views
from headjax.errors import UserError

SOURCES = ("procedural", "ict")
EXPRESSIONS = ("neutral", "per_identity", "per_view")
SPLITS = ("train", "val_views", "val_identities")

_RANGES = {
    "train_identities": (1, 10_000_000),
    "val_identities": (0, 10_000_000),
    "train_views": (3, 10_000),
    "val_views": (0, 48),
    "resolution": (8, 4096),
    "supersample": (1, 8),
    "max_pitch": (0, 80),
    "max_yaw": (20, 180),
    "uv_size": (4, 1024),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class HeadViewsConfig:
    """Identities × views on a full circle of yaw, or of the face's side alone.

    Attributes:
        source: 'procedural' (headjax's own heads) or 'ict' (ICT-FaceKit, needs `ict_folder`).
        train_identities: heads in `train` and `val_views`.
        val_identities: heads seen in `val_identities` only.
        train_views: training views a head, exact front, side and back included (of a frontal set
            the front).
        val_views: held-out views a head, at least 8° from all of its training views.
        resolution: pixels along the image's side.
        supersample: samples a pixel along each side.
        max_pitch: degrees; cameras lie within ± this pitch.
        max_yaw: degrees; below 180 the views are a frontal set: cameras within ± this yaw, uniform
            in area, without exact side and back views.
        uv_size: side of the UV position map.
        seed: of identities and cameras.
        expression: 'neutral', or a random one 'per_identity' (shared by all its views) or
            'per_view'.
        ict_folder: where ICT-FaceKit's OBJ files lie; only for source 'ict'.

    Raises:
        UserError: a field is outside its range.
    """

    source: str = "procedural"
    train_identities: int = 64
    val_identities: int = 16
    train_views: int = 32
    val_views: int = 8
    resolution: int = 64
    supersample: int = 3
    max_pitch: float | int = 30.0
    uv_size: int = 32
    seed: int = 0
    expression: str = "neutral"
    ict_folder: str = ""
    max_yaw: float | int = 180.0

    def __post_init__(self):
        _check_choice("source", self.source, choices=SOURCES)
        _check_choice("expression", self.expression, choices=EXPRESSIONS)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not low <= value <= high:
                raise UserError(f"data: {name} is {value!r}; it must be between {low} and {high}")
        if self.val_views == 1:
            raise UserError("data: val_views is 1; it must be 0 or between 2 and 48")
        if self.source == "ict" and not self.ict_folder:
            raise UserError("data: source 'ict' needs ict_folder, the folder of ICT-FaceKit's OBJs")

    def to_dict(self) -> dict:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


def _check_choice(name: str, value: str, *, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"data: {name} is {value!r}; it must be one of {', '.join(choices)}")


@dataclass(frozen=True)
class ViewList:
    """The views of one head that a split shows.

    Attributes:
        identity: its number: training heads count from 0, held-out ones go on from there.
        numbers: [v] the views' numbers, 0 … train_views − 1 for training views (0, 1, 2 are the
            exact front, side and back; of a frontal set 0 is the front), then the held-out ones.
        views: [v, 2] (yaw, pitch) in radians.
    """

    identity: int
    numbers: np.ndarray
    views: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


def split_heads(config: HeadViewsConfig, split: str) -> range:
    """The identities of a split."""
    check_split(split)
    if split == "val_identities":
        return range(config.train_identities, config.train_identities + config.val_identities)
    return range(config.train_identities)


def check_split(split: str) -> None:
    """Raises `UserError` unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")


def is_training_identity(config: HeadViewsConfig, identity: int) -> bool:
    """Whether the head is seen in training."""
    return identity < config.train_identities


def head_seed(config: HeadViewsConfig, identity: int) -> int:
    """The 32-bit seed of a head, independent of how many heads there are."""
    held_out = not is_training_identity(config, identity)
    number = identity - config.train_identities if held_out else identity
    return int(np.random.SeedSequence([config.seed, held_out, number]).generate_state(1)[0])


def latents(config: HeadViewsConfig) -> Float[np.ndarray, "n k"]:
    """The latents of a data set's heads, by identity, training heads first; float32.

    Standard normal numbers that the heads can be made from (`head.procedural.person_latent`). They
    follow from the seeds, so records do not hold them.

    Raises:
        UserError: the heads are not procedural.
    """
    from headjax.head.procedural import person_latent

    if config.source != "procedural":
        raise UserError(f"heads of source {config.source!r} have no latents; 'procedural' ones do")
    heads = range(config.train_identities + config.val_identities)
    return np.stack([person_latent(head_seed(config, identity)) for identity in heads])


def head_views(config: HeadViewsConfig, identity: int, *, split: str) -> ViewList:
    """The views of a head that a split shows.

    `val_identities` shows the exact front, side and back (of a frontal set the front) and all
    held-out views.
    """
    max_yaw = float(np.deg2rad(config.max_yaw))
    placed = views.place_views(
        head_seed(config, identity),
        train_views=config.train_views,
        held_out_views=config.val_views,
        max_pitch=float(np.deg2rad(config.max_pitch)),
        max_yaw=max_yaw,
    )
    exact = len(views.exact_views(max_yaw))
    train = np.arange(config.train_views)
    held_out = config.train_views + np.arange(config.val_views)
    if split == "train":
        return ViewList(identity=identity, numbers=train, views=placed.train)
    if split == "val_views":
        return ViewList(identity=identity, numbers=held_out, views=placed.held_out)
    check_split(split)
    return ViewList(
        identity=identity,
        numbers=np.concatenate([train[:exact], held_out]),
        views=np.concatenate([placed.train[:exact], placed.held_out]),
    )


def split_table(config: HeadViewsConfig, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The identity [n] and the view number [n] of every record of a split, int32, in order."""
    heads = split_heads(config, split)
    first = head_views(config, heads.start, split=split) if len(heads) else None
    numbers = first.numbers if first is not None else np.zeros(0)
    identities = np.repeat(np.arange(heads.start, heads.stop), len(numbers))
    return identities.astype(np.int32), np.tile(numbers, len(heads)).astype(np.int32)


def record_counts(config: HeadViewsConfig) -> dict[str, int]:
    """The number of records of every split."""
    return {split: len(split_table(config, split)[0]) for split in SPLITS}
