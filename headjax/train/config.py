"""Configs: finding, loading and overriding them, and the copy that each work directory keeps.

A config file is Python with `get_config(preset) -> ml_collections.ConfigDict` and, by convention,
`PRESETS`, a dict from preset name to one line about it, the default preset first. It must have a
field `system`, and it imports nothing of its neighbours: `g3diff:smoke` names the file inside an
installed headjax, `configs/g3diff.py:smoke` the one of a clone. Config files are code; one that
came with a checkpoint is never run, the resolved values are kept as JSON.
"""

import dataclasses
import difflib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

import headjax
from headjax.errors import UserError
from headjax.train.stages import plain, read_json, what_it_computes, write_json

DEFAULT_PRESET = "default"
FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class Config:
    """A resolved configuration.

    Attributes:
        name: the config file's name without its ending.
        preset: which of its presets.
        values: the values, frozen.
    """

    name: str
    preset: str
    values: ml_collections.FrozenConfigDict


def shipped() -> dict[str, Path]:
    """The configs that come with headjax: by name, from the wheel or the clone."""
    package = Path(headjax.__file__).parent
    for folder in (package / "_configs", package.parent / "configs"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("[!_]*.py"))}
    return {}


def load(spec: str, *, overrides: Sequence[str] = ()) -> Config:
    """Loads `<file or name>[:preset]` and applies overrides of the form `--config.a.b=value`.

    Raises:
        UserError: no such config, preset or field, or a value of the wrong type.
    """
    source, _, preset = spec.partition(":")
    path = find(source)
    module = _import(path)
    known = _presets(module)
    if preset and known and preset not in known:
        raise UserError(
            f"{path.name} has no preset {preset!r}{did_you_mean(preset, known)}; "
            f"it has {', '.join(known)}"
        )
    values = module.get_config(preset) if preset else module.get_config()
    values.lock()
    _override(values, list(overrides))
    if "system" not in values:
        raise UserError(f"{path} makes a config without the field 'system', which names what runs")
    return Config(
        path.stem,
        preset or next(iter(known), DEFAULT_PRESET),
        ml_collections.FrozenConfigDict(values),
    )


def find(source: str) -> Path:
    """The config file that `source`, a path or the name of a shipped config, stands for."""
    path, known = Path(source), shipped()
    if path.is_file():
        return path
    if source in known:
        return known[source]
    names = ", ".join(known) or "none"
    raise UserError(
        f"there is no config file {source}{did_you_mean(source, known)}; the shipped configs are: "
        f"{names}"
    )


def presets(name: str) -> dict[str, str]:
    """The presets of a shipped config, each with one line about it."""
    return _presets(_import(shipped()[name]))


def keep(workdir: Path, config: Config) -> bool:
    """Writes `config.json` into the work directory; returns whether the same was there already.

    Groups that say how a run runs (its mesh) may differ: a run goes on wherever it finds room.

    Raises:
        UserError: the directory belongs to another configuration; every differing field is named.
    """
    path = workdir / FILE
    values = plain(config.values)
    if path.exists():
        before = plain(read(workdir).values)
        changes = differences(*map(what_it_computes, (before, values)))
        if changes:
            raise UserError(
                f"{workdir} was made with another config ({'; '.join(changes)}); use another "
                f"--workdir, or delete that one to start over"
            )
        return True
    write_json(
        path,
        {
            "config": config.name,
            "preset": config.preset,
            "headjax_version": headjax.__version__,
            "values": values,
        },
    )
    return False


def read(workdir: Path) -> Config:
    """The configuration that a work directory was made with.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = Path(workdir) / FILE
    if not path.is_file():
        raise UserError(f"{workdir} is no work directory of headjax: it has no {FILE}")
    kept = read_json(path)
    try:
        values = ml_collections.FrozenConfigDict(kept["values"])
        return Config(kept["config"], kept["preset"], values)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged (not headjax's config); delete {workdir}") from error


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields that differ, each as `a.b: old → new`, in alphabetical order."""
    before, after = flatten(old), flatten(new)
    absent = object()

    def show(value):
        return "(absent)" if value is absent else repr(value)

    return [
        f"{name}: {show(before.get(name, absent))} → {show(after.get(name, absent))}"
        for name in sorted({*before, *after})
        if before.get(name, absent) != after.get(name, absent)
    ]


def flatten(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name; empty groups stay, as empty dicts."""
    flat = {}
    for name, value in plain(values).items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, prefix=f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def field(values: Any, name: str) -> Any:
    """The field of a configuration by its dotted name."""
    for part in name.split("."):
        values = values[part]
    return values


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean …?)`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parsed(parser: flags.FlagValues, arguments: Iterable[str]) -> list[str]:
    """Reads the arguments that `parser` knows into it; returns the others.

    Raises:
        UserError: a value that its flag does not take.
    """
    try:
        return parser(["headjax", *arguments], known_only=True)[1:]
    except flags.Error as error:
        raise UserError(f"{flag_sentence(error)} (--help lists all flags)") from error


def flag_sentence(error: flags.Error) -> str:
    """absl's complaint about a flag, as one line."""
    text = str(error).removeprefix("flag ").split("\n")[0]
    return text.split(": (")[0] + ": give true or false" if "Non-boolean" in text else text


def _presets(module: ModuleType) -> dict[str, str]:
    """Preset names with a line about each; a bare list of names has no lines."""
    named = getattr(module, "PRESETS", {})
    return dict(named) if isinstance(named, Mapping) else dict.fromkeys(named, "")


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"headjax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no config file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path} is not Python: {error}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} is no config file: it has no function get_config")
    return module


def _override(values: ml_collections.ConfigDict, overrides: list[str]) -> None:
    """Applies `--config.a.b=value` arguments in place."""
    for argument in overrides:
        _check_field(values, argument)
    parser = flags.FlagValues()
    arguments = ["headjax", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", values, flag_values=parser, sys_argv=arguments)
        rest = parser(arguments)[1:]
    except flags.Error as error:
        raise UserError(flag_sentence(error)) from error
    if rest:
        raise UserError(
            f"unexpected argument {rest[0]!r}; overrides look like --config.field=value"
        )


def _check_field(values: ml_collections.ConfigDict, argument: str) -> None:
    """Says which field is unknown, with what it may have meant."""
    name = argument.lstrip("-").partition("=")[0]
    if name.partition(".")[0] not in ("config", "noconfig"):
        return
    group = values
    parts = name.split(".")[1:]
    for depth, part in enumerate(parts):
        part = part.partition("[")[0]
        if not isinstance(group, ml_collections.ConfigDict) or part not in group:
            known = list(group) if isinstance(group, ml_collections.ConfigDict) else []
            where = ".".join(["config", *parts[:depth]])
            raise UserError(
                f"--{name}: {where} has no field {part!r}{did_you_mean(part, known)}; "
                f"it has {', '.join(sorted(known)) or 'no fields'}"
            )
        group = group[part]
