"""A sweep's configuration: a TOML file that names an experiment, fixed settings, and a grid.

    experiment = "token-budget"
    threads = 1

    [settings]
    length = 64

    [grid.product]
    sequences = [8, 16, 32]
    seed = [0, 1, 2]

A configuration is data. It can name what the package lists under `EXPERIMENTS` and nothing else, so reading or running
one executes no code of its own.
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from skilloc import store
from skilloc.experiments import EXPERIMENTS
from skilloc.sweep import grid
from skilloc.sweep.grid import put

_TOP = ("experiment", "threads", "settings", "grid")
_GRID = ("product", "zip", "list")


@dataclass(frozen=True)
class Plan:
    """A configuration that was read and checked.

    Attributes:
        experiment: its name.
        cell: import path of the cell function.
        specs: one per cell, complete, without doubles.
        threads: number of threads per cell; 0 for the machine's cores divided by the workers.
    """

    experiment: str
    cell: str
    specs: tuple[dict[str, Any], ...]
    threads: int


def read_plan(config: Path, changes: Sequence[str] = ()) -> Plan:
    """Read a configuration.

    Args:
        config: the TOML file.
        changes: `key=value` settings that go over those of the file in every cell, the grid's included; cells that
            become equal are one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not TOML, or names what is not known; the message has the nearest right name.
    """
    try:
        content = tomllib.loads(config.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no configuration {config}; pass a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is not TOML: {error}") from None
    try:
        return _plan(content, changes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{config}: {error}") from None


def defaults(settings: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the default of each setting by its dotted name; nested dataclasses are entered."""
    names: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            names |= defaults(field.type, f"{prefix}{field.name}.")
        else:
            made = field.default_factory() if callable(field.default_factory) else "(no default)"
            names[prefix + field.name] = made if field.default is dataclasses.MISSING else field.default
    return names


def _plan(content: Mapping[str, Any], changes: Sequence[str]) -> Plan:
    _refuse_unknown(content, _TOP, "key")
    name = content.get("experiment")
    if not isinstance(name, str):
        raise ValueError(f'no experiment is named; write experiment = "NAME" with one of {", ".join(EXPERIMENTS)}')
    _refuse_unknown([name], EXPERIMENTS, "experiment")
    threads = content.get("threads", 1)
    if not isinstance(threads, int) or isinstance(threads, bool):
        raise ValueError(f"`threads` is {threads!r}; use a number")
    known = defaults(EXPERIMENTS[name].settings)
    fixed = _section(content, "settings", known)
    axes = content.get("grid", {})
    if not isinstance(axes, dict):
        raise ValueError(f"`grid` is {axes!r}; make it a table [grid.product], [grid.zip] or [[grid.list]]")
    _refuse_unknown(axes, _GRID, "part of the grid")
    listed = axes.get("list", [])
    if not isinstance(listed, list):
        raise ValueError("`grid.list` is one table; write [[grid.list]] with double brackets, once per cell")
    base: dict[str, Any] = {}
    for setting, value in fixed.items():
        put(base, setting, value)
    specs = grid(
        base,
        _section(axes, "product", known),
        zipped=_section(axes, "zip", known),
        listed=[_section({"list": entry}, "list", known) for entry in listed],
    )
    if both := fixed.keys() & set().union(*(_dotted(part) for part in [axes.get("product", {}), axes.get("zip", {})])):
        raise ValueError(f"`{min(both)}` is fixed in [settings] and varied in the grid; keep it in one of them")
    overrides = dict(_change(change, known) for change in changes)
    checked = {}
    for spec in specs:
        for setting, value in overrides.items():
            put(spec, setting, value)
        complete = _checked(EXPERIMENTS[name].settings, spec)
        checked[store.key(complete)] = complete
    return Plan(name, EXPERIMENTS[name].cell, tuple(checked.values()), threads)


def _section(content: Mapping[str, Any], name: str, known: Iterable[str]) -> dict[str, Any]:
    """Return a table's settings by dotted name, all of them known."""
    section = content.get(name, {})
    if not isinstance(section, dict):
        raise ValueError(f"`{name}` is {section!r}; make it a table of settings")
    found = _dotted(section)
    _refuse_unknown(found, known, "setting")
    return found


def _dotted(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in section.items():
        found |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _refuse_unknown(found: Iterable[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            cure = f'did you mean "{near[0]}"?' if near else f"use one of {', '.join(known)}"
            raise ValueError(f'unknown {what} "{name}"; {cure}')


def _change(change: str, known: Iterable[str]) -> tuple[str, Any]:
    """Return the setting and the value of `key=value`; the value is read as TOML, and as plain text if it is none."""
    setting, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f'--set "{change}" has no value; write --set key=value')
    _refuse_unknown([setting.strip()], known, "setting")
    try:
        value = tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        value = text
    return setting.strip(), value


def _checked(settings: type[Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec with the defaults filled in, its types checked; an integer for a float becomes one."""
    try:
        # JSON, because strict checking of JSON takes a list for a tuple, and nothing else for anything else.
        checked = TypeAdapter(settings).validate_json(store.canonical(spec), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        given = f" but is {json.dumps(first['input'])}" if first["type"] != "missing" and place else ""
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"`{place}`: {reason}{given}" if place else reason) from None
    plain: dict[str, Any] = json.loads(store.canonical(dataclasses.asdict(checked)))
    return plain
