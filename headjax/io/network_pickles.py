"""Network pickles of the StyleGAN family (EG3D, PanoHead), read without executing anything.

Such a file is a dictionary with the networks `G`, `D` and `G_ema`. Its modules carry the Python
source of their classes, which the original code executes when it loads the file. Here the source
stays a string, every class an inert record, and what is wanted are the records' states: the
parameters and buffers of each module, its children, and the arguments that built the network.

Names of classes that no network needs are kept as records too and listed. Names from Python's own
library, which is where attacks come from, end the reading.
"""

import dataclasses
import hashlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headjax.errors import UserError
from headjax.io.pickle_families import NUMPY, PLAIN
from headjax.io.pickle_values import Family, GlobalName, Record
from headjax.io.safe_pickle import loads, read_bytes
from headjax.io.torch_storages import MAX_BYTES, TENSOR_BUILDERS, Tensor

NETWORKS = ("G_ema", "G", "D")
_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_KNOWN = (_PERSISTENT, "torch.nn.modules.", "torch.device", "torch.float32", "torch.float16")
_OF_THE_ORIGINAL_CODE = ("training.", "torch_utils.", "dnnlib.", "metrics.")
_HARMLESS = (
    "argparse.Namespace", "collections.defaultdict", "collections.deque", "datetime.", "pathlib.",
    "types.SimpleNamespace",
)  # fmt: skip
_ARGUMENTS = {
    "generator": (
        "z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "sr_num_fp16_res",
        "mapping_kwargs", "rendering_kwargs", "sr_kwargs",
    ),
    "discriminator": ("c_dim", "img_resolution", "img_channels"),
}  # fmt: skip
_MOST_MODULES, _MOST_VALUES, _DEEPEST = 10_000, 10_000, 32


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of a file.

    Attributes:
      class_name: as the file gives it, such as "TriPlaneGenerator".
      source: the Python source that the file carries for that class; nothing runs it.
      tensors: public name → tensor, parameters and buffers, in PyTorch's order of registration.
      architecture: the arguments that built it, by their public names, fit for JSON; with
        `class_name`, and, where the network has them, its `rendering_kwargs` and
        `neural_rendering_resolution` of the time when it was saved.
      skipped: what of the arguments is no plain value, as "place (what it is)".
    """

    class_name: str
    source: str
    tensors: Mapping[str, Tensor]
    architecture: Mapping[str, Any]
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class NetworkFile:
    """What a network pickle holds.

    Attributes:
      networks: those of "G_ema", "G" and "D" that are there.
      unknown: names of classes and entries that the format does not have; they were left inert.
      sha256: of the file.
    """

    networks: Mapping[str, Network]
    unknown: tuple[str, ...]
    sha256: str


def read_networks(path: str | os.PathLike) -> NetworkFile:
    """Reads a network pickle of EG3D or PanoHead.

    Raises:
      UserError: the file is missing, damaged, names what no network needs, or is no such file.
    """
    data = read_bytes(path, max_bytes=MAX_BYTES)
    met: list[str] = []
    value = loads(data, family=_family(met), source=str(path))
    try:
        found = [which for which in NETWORKS if isinstance(value, dict) and which in value]
        networks = {which: _network(value[which], which) for which in found}
    except UserError as error:
        raise UserError(f"{path} was not read as a network file: {error}.") from error
    if not networks:
        raise UserError(f"{path} holds none of the networks {', '.join(NETWORKS)}.")
    entries = {*NETWORKS, "training_set_kwargs", "augment_pipe"}
    odd = [f"entry {str(key)[:80]!r}" for key in value if key not in entries]
    digest = hashlib.sha256(data).hexdigest()
    return NetworkFile(networks, unknown=(*met, *odd[:100]), sha256=digest)


def _family(met: list[str]) -> Family:
    """The family of network pickles; names that are kept but not known are added to `met`."""

    def accepts(name: str) -> bool:
        root = name.partition(".")[0]
        harmless = any(name.startswith(h) if h.endswith(".") else name == h for h in _HARMLESS)
        if not harmless and (root in sys.stdlib_module_names or root == "__builtin__"):
            return False
        if not name.startswith(_OF_THE_ORIGINAL_CODE):
            met.append(name[:120])
        return True

    easy = PLAIN.builders["collections.OrderedDict"]
    builders = {**TENSOR_BUILDERS, "dnnlib.util.EasyDict": easy}
    return NUMPY.extended("a network file", builders=builders, records=_KNOWN, accepts=accepts)


@dataclasses.dataclass
class _Walk:
    """Counts modules, so that shared references cannot multiply them."""

    modules: int = 0

    def tensors(
        self, module: Any, prefix: str = "", depth: int = 0
    ) -> Iterator[tuple[str, Tensor]]:
        """(public name, tensor) of a module and its children in PyTorch's order."""
        self.modules += 1
        if self.modules > _MOST_MODULES or depth > _DEEPEST:
            raise UserError("its modules are nested or shared without end")
        state = _state_of(module, prefix)
        fleeting = state.get("_non_persistent_buffers_set", ())
        fleeting = fleeting if isinstance(fleeting, (set, list, tuple)) else ()
        for group in ("_parameters", "_buffers"):
            for name, value in _entries(state, group, prefix):
                if value is None or name in fleeting:
                    continue
                if not isinstance(value, Tensor):
                    raise UserError(f"its {prefix + name!r:.100} is no tensor")
                yield prefix + name, value
        for name, child in _entries(state, "_modules", prefix):
            if child is not None:
                yield from self.tensors(child, f"{prefix}{name}.", depth + 1)


def _meta(module: Any) -> dict:
    """What a persistent object was saved with; empty for a plain module."""
    if not isinstance(module, Record) or module.global_name != _PERSISTENT:
        return {}
    meta = module.args[0] if len(module.args) == 1 else None
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise UserError("it holds a persistent object that is no class's")
    return meta


def _state_of(module: Any, prefix: str) -> dict:
    """The dictionary of a module's attributes."""
    state = _meta(module).get("state") or (module.state if isinstance(module, Record) else None)
    if not isinstance(state, dict) or "_parameters" not in state:
        raise UserError(f"its {prefix.rstrip('.') or 'network'!r:.100} is no module of PyTorch")
    return state


def _entries(state: dict, group: str, prefix: str) -> list[tuple[str, Any]]:
    entries = state.get(group, {})
    if not isinstance(entries, dict):
        raise UserError(f"its {prefix + group!r:.100} is no dictionary")
    for name in entries:
        is_name = isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable()
        if not is_name or "." in name:
            raise UserError(f"its {prefix + group!r:.100} has the odd name {str(name)[:40]!r}")
    return list(entries.items())


def _network(module: Any, which: str) -> Network:
    tensors = dict(_Walk().tensors(module))
    if not tensors:
        raise UserError(f"its network {which} has no parameters")
    meta, state = _meta(module), _state_of(module, "")
    class_name = meta.get("class_name") or getattr(module, "global_name", "").split(".")[-1]
    plain = _Plain()
    architecture = _arguments(state, which)
    for name in ("rendering_kwargs", "neural_rendering_resolution"):
        if name in state:
            architecture[name] = state[name]
    architecture = plain(architecture, which)
    architecture["class_name"] = str(class_name)[:100]
    source = meta.get("module_src")
    return Network(
        class_name=architecture["class_name"],
        source=source if isinstance(source, str) else "",
        tensors=tensors,
        architecture=architecture,
        skipped=tuple(plain.skipped),
    )


def _arguments(state: dict, which: str) -> dict:
    """The arguments that built a network, by name."""
    given, named = state.get("_init_args", ()), state.get("_init_kwargs", {})
    if not isinstance(given, (tuple, list)) or not isinstance(named, dict):
        raise UserError(f"its network {which} has malformed arguments")
    names = _ARGUMENTS["discriminator" if which == "D" else "generator"]
    if len(given) > len(names):
        raise UserError(f"its network {which} has {len(given)} arguments without a name")
    return {**dict(zip(names, given, strict=False)), **named}


class _Plain:
    """Turns arguments into what JSON can hold; `skipped` lists the rest."""

    def __init__(self):
        self.skipped: list[str] = []
        self._count = 0

    def __call__(self, value: Any, place: str, depth: int = 0) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES or depth > _DEEPEST:
            raise UserError("the arguments of its network unfold into too much")
        if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size <= 64):
            value = value.tolist()
        if isinstance(value, dict):
            return self._dictionary(value, place, depth + 1)
        if isinstance(value, (list, tuple)):
            items = enumerate(value)
            return [self(item, f"{place}[{index}]", depth + 1) for index, item in items]
        if _is_json(value):
            return value
        self._skip(value, place)
        return None

    def _dictionary(self, value: dict, place: str, depth: int) -> dict:
        result = {}
        for key, item in value.items():
            here = f"{place}.{str(key)[:60]}"
            if not isinstance(key, str) or len(key) > 100:
                self._skip(key, here)
            elif isinstance(item, (dict, list, tuple, np.generic, np.ndarray)) or _is_json(item):
                result[key] = self(item, here, depth)
            else:
                self._skip(item, here)
        return result

    def _skip(self, value: Any, place: str) -> None:
        if isinstance(value, GlobalName):
            what = value.name
        else:
            what = value.global_name if isinstance(value, Record) else type(value).__name__
        self.skipped.append(f"{place} ({what[:80]})")


def _is_json(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= 1000 and value.isprintable()
    return value is None or isinstance(value, bool) or (type(value) is int and abs(value) < 2**53)
