"""Turns an official EG3D or PanoHead network pickle into a weights file of headjax.

python -m headjax.tools.convert eg3d ffhqrebalanced512-128.pkl eg3d.safetensors
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from headjax.errors import UserError
from headjax.io import network_names
from headjax.io.network_pickles import NETWORKS, Network, NetworkFile, read_networks
from headjax.io.weight_files import Weights, write_weights
from headjax.tools import command

_BUFFERS = ("resample_filter", "noise_const", "w_avg", *network_names.OPTIONAL)
_MOST_LISTED = 20

_HELP = """\
headjax convert: turns an official network pickle into a weights file, without executing anything
from it.

usage: python -m headjax.tools.convert KIND FILE.pkl OUT.safetensors [flags]

  KIND             eg3d or panohead: the code that FILE.pkl comes from
  --which=G_ema    which of its networks: G_ema (the one to use), G or D
  --overwrite      replace OUT.safetensors if it is there"""


@dataclasses.dataclass(frozen=True)
class _Request:
    kind: str
    source: Path
    output: Path
    which: str


def _parse(arguments: list[str]) -> _Request:
    parser = flags.FlagValues()
    flags.DEFINE_enum("which", "G_ema", NETWORKS, "", flag_values=parser)
    flags.DEFINE_bool("overwrite", False, "", flag_values=parser)
    rest = command.parsed(parser, arguments)
    if len(rest) != 3:
        raise UserError(
            f"three arguments are needed, KIND FILE.pkl OUT.safetensors, not {len(rest)} (--help "
            "explains them)"
        )
    kind, source, output = rest
    if kind not in network_names.KINDS:
        raise UserError(f"the kind {kind!r} is unknown; give {' or '.join(network_names.KINDS)}")
    if Path(output).suffix != ".safetensors":
        raise UserError(f"{output} must end in .safetensors")
    if Path(output).exists() and not parser.overwrite:
        raise UserError(f"{output} is already there; give another name or --overwrite")
    return _Request(kind, Path(source), Path(output), parser.which)


def _chosen(request: _Request, file: NetworkFile) -> Network:
    """The network asked for, of the kind asked for."""
    network = file.networks.get(request.which)
    if network is None:
        raise UserError(
            f"{request.source} holds no network {request.which}, only "
            f"{', '.join(file.networks)}; choose one by --which"
        )
    kind = network_names.kind_of(network.architecture)
    if kind != request.kind:
        raise UserError(
            f"{request.source} is a network of {kind}, not of {request.kind}; give {kind} as the "
            "first argument"
        )
    return network


def _checked_arrays(request: _Request, network: Network) -> dict[str, np.ndarray]:
    """The tensors as finite numbers, with the names and shapes of their architecture."""
    try:
        wanted = network_names.expected(
            request.kind, request.which, architecture=network.architecture
        )
        network_names.check({n: t.shape for n, t in network.tensors.items()}, wanted)
        arrays = {}
        for name, tensor in network.tensors.items():
            if not tensor.is_floating:
                raise UserError(f"its tensor {name} holds no floating-point numbers")
            arrays[name] = tensor.array()
            if not np.isfinite(arrays[name]).all():
                raise UserError(f"its tensor {name} holds numbers that are not finite")
    except UserError as error:
        raise UserError(f"{request.source}, network {request.which}: {error}") from error
    return arrays


def _summary(request: _Request, network: Network, file: NetworkFile) -> list[str]:
    buffers = {name for name in network.tensors if name.endswith(_BUFFERS)}
    sizes = {name: tensor.size for name, tensor in network.tensors.items()}
    parameters = sum(size for name, size in sizes.items() if name not in buffers)
    arguments = network.architecture
    lines = [
        f"headjax: wrote {request.which} of {request.source} to {request.output}",
        f"  {network.class_name} ({request.kind}): {len(sizes)} tensors, {parameters:,} "
        f"parameters, {sum(sizes.values()) - parameters:,} elements in buffers",
        "  architecture: "
        + ", ".join(f"{n}={v!r:.60}" for n, v in arguments.items() if not isinstance(v, dict)),
    ]
    lines += [f"  {n}: {', '.join(v)}" for n, v in arguments.items() if isinstance(v, dict) and v]
    left = [*file.unknown, *network.skipped]
    if left:
        lines.append(f"  left out as unknown, and not executed: {len(left)}")
        lines += [f"    {_printable(what)}" for what in left[:_MOST_LISTED]]
        lines += ["    …"] if len(left) > _MOST_LISTED else []
    return lines


def _printable(text: str) -> str:
    """The file's own words, with nothing in them that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _convert(arguments: list[str]) -> None:
    request = _parse(arguments)
    file = read_networks(request.source)
    network = _chosen(request, file)
    weights = Weights(
        kind=request.kind,
        which=request.which,
        architecture=network.architecture,
        tensors=_checked_arrays(request, network),
        source_sha256=file.sha256,
    )
    write_weights(request.output, weights)
    print("\n".join(_summary(request, network, file)))


def _convert_in_plain_words(arguments: list[str]) -> None:
    """`_convert`, whose complaints may quote the file."""
    try:
        _convert(arguments)
    except UserError as error:
        raise UserError(_printable(str(error))) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code (2 after a user's mistake)."""
    return command.run(_convert_in_plain_words, argv, help_text=_HELP)


if __name__ == "__main__":
    sys.exit(main())
