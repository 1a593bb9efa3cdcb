"""Weights of the networks that others trained: which files, where from, and how they are read.

Nothing is downloaded. A path that is not set makes a metric `Missing`, whose text says which file
is needed, where it is and which field to set; `require` makes that text an error.

State dicts keep their public names. `features.0.weight` becomes params['features']['0']['weight'];
running statistics go to the collection "buffers". Layouts change here and nowhere else:

    public                       here
    convolution    O I kh kw     kh kw I O
    matrix         out in        in out      (flattened pictures: C H W becomes H W C)
"""

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from headjax.errors import UserError
from headjax.io import torch_storages
from headjax.nets.perceptual import arcface, inception, lpips

Arrays = dict[str, np.ndarray]

TRUNK_NAMES = {"vgg": "torchvision's VGG-16", "alex": "torchvision's AlexNet"}


@dataclasses.dataclass(frozen=True)
class Asset:
    """A weights file of others.

    Attributes:
        field: its config field is `weights.<field>`.
        file: the name that it usually has.
        where: where it is to be found.
    """

    field: str
    file: str
    where: str


ASSETS = {
    asset.field: asset
    for asset in (
        Asset(
            "inception",
            "pt_inception-2015-12-05-6726825d.pth",
            "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
        ),
        Asset(
            "arcface",
            "model_ir_se50.pth",
            "the pretrained models of https://github.com/eladrich/pixel2style2pixel",
        ),
        Asset(
            "vgg",
            "vgg16-397923af.pth",
            "https://download.pytorch.org/models/vgg16-397923af.pth",
        ),
        Asset(
            "alex",
            "alexnet-owt-7be5be79.pth",
            "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Missing:
    """What stands in the place of a value that needs weights which are not there."""

    asset: Asset

    def __str__(self) -> str:
        return f"n/a ({self.needs()})"

    def needs(self) -> str:
        """What to get, where, and which field to set."""
        asset = self.asset
        return (
            f"needs {asset.file}, get it from {asset.where} and set "
            f"--config.weights.{asset.field}=PATH"
        )


@flax.struct.dataclass
class Network:
    """A module with its variables; calling it applies it.

    It is a tree of arrays: hand it to compiled functions as an argument. One that closes over it
    has its weights as constants, which take long to compile.
    """

    module: nn.Module = flax.struct.field(pytree_node=False)
    variables: Any

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.module.apply(self.variables, *inputs, **options)


def find(field: str, path: str | Path) -> Path | Missing:
    """The weights file of `weights.<field>`, or what says that it is not set.

    Raises:
        UserError: the path is set and there is no such file.
    """
    if not str(path):
        return Missing(ASSETS[field])
    if not Path(path).is_file():
        needs = Missing(ASSETS[field]).needs()
        raise UserError(f"--config.weights.{field}={path}: there is no such file; {needs}")
    return Path(path)


def require(field: str, path: str | Path, *, purpose: str) -> Path:
    """The weights file of `weights.<field>`.

    Raises:
        UserError: it is not set or not there; `purpose` says what needs it.
    """
    found = find(field, path)
    if isinstance(found, Missing):
        raise UserError(f"{purpose} {found.needs()}")
    return found


def load_lpips(path: Path, *, trunk: lpips.Trunk, precision: Any = None) -> Network:
    """LPIPS with the trunk of torchvision's file at `path` and the shipped linear heads.

    Raises:
        UserError: the file cannot be read, or is not this trunk's.
    """
    state = {k: v for k, v in load_state_dict(path).items() if k.startswith("features.")}
    module = lpips.LPIPS(trunk, precision=precision)
    picture = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return _network(
        module,
        {**state, **lpips_heads(trunk)},
        inputs=(picture, picture),
        path=path,
        what=TRUNK_NAMES[trunk],
    )


def lpips_heads(trunk: lpips.Trunk) -> Arrays:
    """LPIPS' linear heads, `lin{l}.model.1.weight` [1, c, 1, 1], shipped with the package."""
    file = resources.files("headjax") / "assets" / "lpips" / f"{trunk}.safetensors"
    return safetensors.numpy.load(file.read_bytes())


def load_inception(path: Path) -> Network:
    """Inception-v3 from the FID weights.

    Raises:
        UserError: the file cannot be read, or is another network's (torchvision's Inception too).
    """
    picture = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    state = load_state_dict(path)
    return _network(
        inception.InceptionV3(), state, inputs=(picture,), path=path, what="Inception-v3 for FID"
    )


def load_arcface(path: Path, *, precision: Any = None) -> Network:
    """ArcFace IR-SE50 from `model_ir_se50.pth`.

    Raises:
        UserError: the file cannot be read, or is another network's.
    """
    face = jax.ShapeDtypeStruct((1, arcface.SIZE, arcface.SIZE, 3), jnp.float32)
    state = load_state_dict(path)
    module = arcface.IRSE50(precision=precision)
    return _network(
        module,
        state,
        inputs=(face,),
        flattened=arcface.FLATTENED,
        path=path,
        what="ArcFace IR-SE50",
    )


def load_state_dict(path: Path) -> Arrays:
    """The named arrays of a `.safetensors` file, or of what PyTorch saved (nothing in it is run).

    Raises:
        UserError: no such file, or neither of the two.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return dict(torch_storages.load_state_dict(path))
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such weights file") from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        why = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a readable safetensors file ({why})") from error


def variables_from_state_dict(
    state: Mapping[str, np.ndarray], *, flattened: Mapping[str, tuple[int, int, int]] | None = None
) -> dict[str, dict]:
    """Public names and shapes as Flax variables {"params", "buffers"}, float32.

    Args:
        state: names to arrays; counters of batches are left out.
        flattened: matrices that read a flattened picture, with its C, H and W.
    """
    collections: dict[str, dict] = {"params": {}, "buffers": {}}
    for name, value in state.items():
        *_, last = path = tuple(name.split("."))
        if last == "num_batches_tracked":
            continue
        kind = "buffers" if last.startswith("running_") else "params"
        collections[kind][path] = _layout(np.asarray(value), (flattened or {}).get(name))
    unflatten = flax.traverse_util.unflatten_dict
    return {kind: unflatten(flat) for kind, flat in collections.items() if flat}


def _layout(value: np.ndarray, picture: tuple[int, int, int] | None) -> np.ndarray:
    value = value.astype(np.float32)
    if picture is not None:
        channels_last = value.reshape(len(value), *picture).transpose(2, 3, 1, 0)
        return np.ascontiguousarray(channels_last.reshape(-1, len(value)))
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(value.T)


def _network(
    module: nn.Module,
    state: Arrays,
    *,
    inputs: tuple[jax.ShapeDtypeStruct, ...],
    path: str | Path,
    what: str,
    flattened: Mapping[str, tuple[int, int, int]] | None = None,
) -> Network:
    """The module with the state's variables, if they are its own."""
    wanted = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    flat = flax.traverse_util.flatten_dict
    names = {".".join(key[1:]) for key in flat(wanted)}
    got = {key for key in state if not key.endswith("num_batches_tracked")}
    wrong = _difference(names, got)
    if not wrong:
        variables = variables_from_state_dict(state, flattened=flattened)
        shapes = {".".join(k[1:]): v.shape for k, v in flat(wanted).items()}
        arrays = {".".join(k[1:]): v for k, v in flat(variables).items()}
        odd = sorted(key for key, value in arrays.items() if value.shape != shapes[key])
        wrong = f"{odd[0]} has another shape, and {len(odd) - 1} more" if odd else ""
    if wrong:
        raise UserError(f"{path}: these are not the weights of {what}: {wrong}")
    return Network(module, jax.tree.map(jnp.asarray, variables))


def _difference(wanted: set[str], got: set[str]) -> str:
    """What is missing and what is too much, in words; empty if nothing."""
    words = []
    for what, names in (("missing", wanted - got), ("unknown", got - wanted)):
        if names:
            words.append(f"{len(names)} {what} ({', '.join(sorted(names)[:3])})")
    return ", ".join(words)
