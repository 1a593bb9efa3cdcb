"""Writes pickles opcode by opcode, in the layout of the official network files.

No class is pickled and PyTorch is not needed: a small tree of `Global`, `Call`, `New` and plain
values is put into opcodes as Python's own pickler would put it, in protocols 2 to 4.
"""

import dataclasses
import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from headjax.io.network_names import expected

_FRAME = 64 * 1024
BUFFERS = ("resample_filter", "noise_const", "w_avg", "dataset_label_std")
SOURCE = "raise SystemExit('the source in the file was run')\n"


@dataclasses.dataclass(frozen=True)
class Global:
    """A name that the file refers to."""

    module: str
    name: str


@dataclasses.dataclass(eq=False)
class Call:
    """`function(*arguments)` by REDUCE; then BUILD with `state` and SETITEMS with `items`."""

    function: Any
    arguments: tuple
    state: Any = None
    items: dict | None = None


@dataclasses.dataclass(eq=False)
class New:
    """`cls.__new__(cls, *arguments)` by NEWOBJ; then as in `Call`."""

    function: Global
    arguments: tuple = ()
    state: Any = None
    items: dict | None = None


@dataclasses.dataclass(frozen=True)
class PersistentId:
    """A reference to something outside."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Raw:
    """Opcodes as they are; they must leave one value on the stack."""

    code: bytes


class _Writer:
    def __init__(self, protocol: int):
        assert 2 <= protocol <= 4
        self._protocol = protocol
        self._pieces: list[bytes] = []
        # Keeps each value alive, so that no id is used twice.
        self._memo: dict[Any, tuple[int, Any]] = {}

    def file(self, value: Any) -> bytes:
        self.value(value)
        self._put(b".")
        return bytes([0x80, self._protocol]) + b"".join(self._framed())

    def _framed(self):
        """Protocol 4 frames what is short; long byte strings stand between the frames."""
        frame = io.BytesIO()
        for piece in [*self._pieces, None]:
            if self._protocol < 4 and piece is not None:
                yield piece
                continue
            if (piece is None or len(piece) >= _FRAME) and frame.tell():
                yield b"\x95" + struct.pack("<Q", frame.tell()) + frame.getvalue()
                frame = io.BytesIO()
            if piece is not None and len(piece) >= _FRAME:
                yield piece
            elif piece is not None:
                frame.write(piece)

    def _put(self, *pieces: bytes) -> None:
        self._pieces.extend(pieces)

    def _remember(self, key: Any, value: Any) -> None:
        index = len(self._memo)
        self._memo[key] = (index, value)
        if self._protocol >= 4:
            self._put(b"\x94")
        else:
            self._put(b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index))

    def _recalled(self, key: Any) -> bool:
        if key not in self._memo:
            return False
        index = self._memo[key][0]
        self._put(b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index))
        return True

    def value(self, value: Any) -> None:
        """Writes one value; containers, calls, strings and names are shared by identity."""
        if isinstance(value, (str, Global, bytes)):
            key = (type(value), value)
        elif isinstance(value, (Call, New, list, dict, set)):
            key = id(value)
        else:
            self._simple(value)
            return
        if not self._recalled(key):
            getattr(self, f"_{type(value).__name__.lower()}")(value, key)

    def _simple(self, value: Any) -> None:
        if value is None or isinstance(value, bool):
            self._put({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._int(value)
        elif isinstance(value, float):
            self._put(b"G" + struct.pack(">d", value))
        elif isinstance(value, tuple):
            self._tuple(value)
        elif isinstance(value, PersistentId):
            self.value(value.value)
            self._put(b"Q")
        else:
            self._put(value.code)

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self._put(b"K" + bytes([value]))
        elif -(2**31) <= value < 2**31:
            self._put(b"J" + struct.pack("<i", value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self._put(b"\x8a" + bytes([len(data)]) + data)

    def _tuple(self, value: tuple) -> None:
        short = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}
        if len(value) > 3:
            self._put(b"(")
        for item in value:
            self.value(item)
        self._put(short.get(len(value), b"t"))

    def _str(self, value: str, key: Any) -> None:
        data = value.encode()
        if self._protocol >= 4 and len(data) < 256:
            self._put(b"\x8c" + bytes([len(data)]) + data)
        else:
            self._put(b"X" + struct.pack("<I", len(data)) + data)
        self._remember(key, value)

    def _bytes(self, value: bytes, key: Any) -> None:
        if self._protocol < 3:
            text = value.decode("latin1")
            self.value(Call(Global("_codecs", "encode"), (text, "latin1")))
            return
        head = (
            b"C" + bytes([len(value)]) if len(value) < 256 else b"B" + struct.pack("<I", len(value))
        )
        self._put(head + value)
        self._remember(key, value)

    def _global(self, value: Global, key: Any) -> None:
        if self._protocol >= 4:
            self.value(value.module)
            self.value(value.name)
            self._put(b"\x93")
        else:
            module = {"builtins": "__builtin__"}.get(value.module, value.module)
            self._put(f"c{module if self._protocol < 3 else value.module}\n{value.name}\n".encode())
        self._remember(key, value)

    def _list(self, value: list, key: Any) -> None:
        self._put(b"]")
        self._remember(key, value)
        if value:
            self._put(b"(")
            for item in value:
                self.value(item)
            self._put(b"e")

    def _dict(self, value: dict, key: Any) -> None:
        self._put(b"}")
        self._remember(key, value)
        self._setitems(value)

    def _setitems(self, items: Mapping) -> None:
        if items:
            self._put(b"(")
            for name, item in items.items():
                self.value(name)
                self.value(item)
            self._put(b"u")

    def _set(self, value: set, key: Any) -> None:
        if self._protocol < 4:
            self._call(Call(Global("builtins", "set"), (sorted(value),)), key)
            return
        self._put(b"\x8f")
        self._remember(key, value)
        self._put(b"(")
        for item in sorted(value):
            self.value(item)
        self._put(b"\x90")

    def _call(self, value: Call, key: Any, opcode: bytes = b"R") -> None:
        self.value(value.function)
        self.value(value.arguments)
        self._put(opcode)
        self._remember(key, value)
        self._setitems(value.items or {})
        if value.state is not None:
            self.value(value.state)
            self._put(b"b")

    def _new(self, value: New, key: Any) -> None:
        self._call(value, key, b"\x81")


def dumps(value: Any, *, protocol: int = 4) -> bytes:
    """The pickle of a tree of plain values and the nodes above."""
    return _Writer(protocol).file(value)


TYPES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage", "bfloat16": "BFloat16Storage",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def ordered(items: Mapping | None = None) -> Call:
    """An ordered dictionary, as the pickler writes it."""
    return Call(Global("collections", "OrderedDict"), (), items=dict(items or {}))


def easy(items: Mapping) -> New:
    """StyleGAN's dictionary with attribute access."""
    return New(Global("dnnlib.util", "EasyDict"), items=dict(items))


def storage_id(key: str, count: Any, *, kind: str = "float32", **other: Any) -> PersistentId:
    """The persistent id of a storage."""
    place, view = other.get("place", "cpu"), other.get("view", (None,))
    name = other.get("name") or Global("torch", TYPES[kind])
    return PersistentId(("storage", name, key, place, count, *view))


def legacy_file(
    value: Any,
    storages: Mapping[str, bytes],
    *,
    itemsizes: Mapping[str, int],
    system: Any = None,
    protocol: int = 1001,
    counts: Mapping[str, int] | None = None,
    keys: Any = None,
) -> bytes:
    """PyTorch's older stream: five pickles, then each storage's count and data."""
    keys = sorted(storages) if keys is None else keys
    parts = [MAGIC, protocol, SYSTEM if system is None else system, value, keys]
    data = [dumps(part, protocol=2) for part in parts]
    for key in sorted(storages):
        count = (counts or {}).get(key, len(storages[key]) // itemsizes[key])
        data += [struct.pack("<q", count), storages[key]]
    return b"".join(data)


def storage_blob(flat: np.ndarray, *, kind: str | None = None, **changes: Any) -> bytes:
    """One storage as `_load_from_bytes` gets it."""
    kind = kind or flat.dtype.name
    reference = storage_id("94210", flat.size, kind=kind, place="cuda:0")
    sizes = {"94210": flat.dtype.itemsize}
    return legacy_file(reference, {"94210": flat.tobytes()}, itemsizes=sizes, **changes)


def storage(flat: np.ndarray, **options: Any) -> Call:
    """A storage inside a network pickle."""
    return Call(Global("torch.storage", "_load_from_bytes"), (storage_blob(flat, **options),))


def tensor(values: np.ndarray, *, on: Any = None, offset: int = 0, strides: Any = None) -> Call:
    """A tensor; by default on a storage of its own, contiguous."""
    if strides is None:
        strides = tuple(
            step // values.itemsize for step in np.empty(values.shape, values.dtype).strides
        )
    on = storage(np.ravel(values)) if on is None else on
    arguments = (on, offset, tuple(values.shape), strides, False, ordered())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def parameter(values: Any) -> Call:
    """A parameter around a tensor."""
    inner = tensor(values) if isinstance(values, np.ndarray) else values
    return Call(Global("torch._utils", "_rebuild_parameter"), (inner, True, ordered()))


def module_state(parameters: Mapping, buffers: Mapping, children: Mapping, **attributes) -> dict:
    """What `torch.nn.Module` keeps in its dictionary, in its order."""
    return {
        "training": False,
        "_parameters": ordered(parameters),
        "_buffers": ordered(buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": ordered(),
        "_is_full_backward_hook": None,
        "_forward_hooks": ordered(),
        "_forward_pre_hooks": ordered(),
        "_state_dict_hooks": ordered(),
        "_load_state_dict_pre_hooks": ordered(),
        "_modules": ordered(children),
        **attributes,
    }


def persistent(class_name: str, state: dict, *, source: str = SOURCE) -> Call:
    """An object of a persistent class, its source embedded."""
    meta = {
        "type": "class",
        "version": 6,
        "module_src": source,
        "class_name": class_name,
        "state": state,
    }
    return Call(Global("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))


def _plain_class(path: str) -> Global | None:
    """The class of a module that is pickled by its name; None for the persistent ones."""
    names = {
        "decoder": Global("training.triplane", "OSGDecoder"),
        "decoder.net": Global("torch.nn.modules.container", "Sequential"),
        "decoder.net.1": Global("torch.nn.modules.activation", "Softplus"),
        "renderer": Global("training.volumetric_rendering.renderer", "ImportanceRenderer"),
    }
    return names.get(path)


def _tree(arrays: Mapping[str, Any]) -> dict:
    """Dotted names as nested dictionaries, in order."""
    tree: dict = {}
    for name, value in arrays.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def _module(tree: Mapping, path: str, **top: Any) -> Call | New:
    children = {n: v for n, v in tree.items() if isinstance(v, dict)}
    leaves = {n: v for n, v in tree.items() if n not in children}
    if path == "decoder.net":
        children = {"0": children["0"], "1": {}, "2": children["2"]}
    nodes = {
        name: _module(child, f"{path}.{name}" if path else name) for name, child in children.items()
    }
    state = module_state(
        {n: parameter(v) for n, v in leaves.items() if n not in BUFFERS},
        {
            n: tensor(v) if isinstance(v, np.ndarray) else v
            for n, v in leaves.items()
            if n in BUFFERS
        },
        nodes,
        **top.pop("attributes", {}),
    )
    plain = _plain_class(path)
    if plain is not None:
        return New(plain, state=state)
    return persistent(top.get("class_name", "Layer"), state, source=top.get("source", SOURCE))


def arrays_for(kind: str, which: str, architecture: Mapping, *, seed: int = 0) -> dict:
    """Random numbers under every name that the architecture has."""
    rng = np.random.default_rng(seed)
    shapes = expected(kind, which, architecture=architecture)
    return {n: rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}


def network(arrays: Mapping[str, Any], architecture: Mapping, **options: Any) -> Call:
    """A network whose arguments are stored as the persistence stores them."""
    arguments = {
        n: v
        for n, v in architecture.items()
        if n not in ("class_name", "neural_rendering_resolution")
    }
    attributes = {
        "_init_args": (),
        "_init_kwargs": easy(arguments),
        **{
            n: architecture[n]
            for n in ("rendering_kwargs", "neural_rendering_resolution")
            if n in architecture
        },
        "_last_planes": None,
    }
    if "rendering_kwargs" in attributes:
        attributes["rendering_kwargs"] = easy(attributes["rendering_kwargs"])
    attributes.update(options.pop("attributes", {}))
    tree = _tree(arrays)
    if "decoder" in tree:
        tree = {"renderer": {}, **tree}
    return _module(
        tree, "", class_name=architecture["class_name"], attributes=attributes, **options
    )


def network_file(networks: Mapping[str, Any], *, protocol: int = 4, **entries: Any) -> bytes:
    """A whole file."""
    value = {
        "training_set_kwargs": easy({"class_name": "training.dataset.ImageFolderDataset"}),
        **networks,
        "augment_pipe": None,
        **entries,
    }
    return dumps(value, protocol=protocol)


_RENDERING = {
    "superresolution_module": "training.superresolution.SuperresolutionHybrid2X",
    "superresolution_noise_mode": "none", "sr_antialias": True, "c_gen_conditioning_zero": False,
    "c_scale": 1.0, "depth_resolution": 12, "depth_resolution_importance": 12, "ray_start": 2.25,
    "ray_end": 3.3, "box_warp": 1, "clamp_mode": "softplus", "disparity_space_sampling": False,
    "decoder_lr_mul": 1.0, "avg_camera_pivot": [0, 0, 0.2],
}  # fmt: skip
_GENERATOR = {
    "z_dim": 8, "c_dim": 25, "w_dim": 512, "img_resolution": 128, "img_channels": 3,
    "channel_base": 256, "channel_max": 4, "fused_modconv_default": "inference_only",
    "num_fp16_res": 0, "sr_num_fp16_res": 4, "conv_clamp": None,
    "mapping_kwargs": {"num_layers": 2}, "sr_kwargs": {"channel_base": 256, "channel_max": 4},
    "neural_rendering_resolution": 64, "class_name": "TriPlaneGenerator",
}  # fmt: skip
_TRIGRID = {
    "triplane_size": 64, "triplane_depth": 3, "use_torgb_raw": True, "use_background": True,
    "decoder_activation": "none",
}  # fmt: skip
ARCHITECTURES = {
    ("eg3d", "G_ema"): {**_GENERATOR, "rendering_kwargs": _RENDERING},
    ("panohead", "G_ema"): {**_GENERATOR, "rendering_kwargs": {**_RENDERING, **_TRIGRID}},
    ("eg3d", "D"): {
        "c_dim": 25, "img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 4,
        "mapping_kwargs": {}, "epilogue_kwargs": {"mbstd_group_size": 4}, "disc_c_noise": 0,
        "class_name": "DualDiscriminator",
    },
    ("panohead", "D"): {
        "c_dim": 25, "img_resolution": 16, "img_channels": 3, "seg_resolution": 16,
        "seg_channels": 1, "channel_base": 64, "channel_max": 4, "mapping_kwargs": {},
        "class_name": "MaskDualDiscriminatorV2",
    },
}  # fmt: skip
