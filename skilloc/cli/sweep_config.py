"""A sweep's configuration: a TOML file that names a cell function, fixed settings, and a grid.

    cell = "token_budget:measure_budget"
    threads = 1

    [settings]
    length = 64

    [grid.product]
    sequences = [8, 16, 32]
    seed = [0, 1, 2]

The function lies in a module beside the file, or in a package that is installed. Its first argument is annotated with
a dataclass, which says what settings there are. Nothing else of the file is code.
"""

import dataclasses
import difflib
import inspect
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from skilloc import store
from skilloc.mistakes import WrongValue
from skilloc.sweep import grid
from skilloc.sweep.cells import module_at, name_of
from skilloc.sweep.grid import put
from skilloc.sweep.settings import settings_kind

_TOP = ("cell", "threads", "settings", "grid")
_GRID = ("product", "zip", "list")


@dataclass(frozen=True)
class Plan:
    """A configuration that was read and checked.

    Attributes:
        cell: import path `module:function` of the cell function, which has been imported.
        specs: one per cell, complete, without doubles.
        threads: number of threads per cell; 0 for the machine's cores divided by the workers.
    """

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
        raise WrongValue(f"{config} is not TOML: {error}") from None
    try:
        return _plan(content, config.absolute().parent, changes)
    except (ValueError, TypeError) as error:
        raise WrongValue(f"{config}: {error}") from None


def _cell(content: Mapping[str, Any], folder: Path) -> Callable[..., Any]:
    """Import the function that a configuration in a folder names."""
    name = content.get("cell")
    if not isinstance(name, str) or not all(name.partition(":")):
        raise WrongValue(f'`cell` is {name!r}; write cell = "MODULE:FUNCTION" for the function whose settings follow')
    module, _, function = name.partition(":")
    try:
        found = vars(module_at(module, str(folder)))
    except Exception as error:  # whatever the module raises
        raise WrongValue(
            f"`cell`: {module} cannot be imported ({type(error).__name__}: {error}); put {module}.py beside the "
            "configuration, or install and mend it"
        ) from error
    functions = {own: one for own, one in found.items() if inspect.isroutine(one)}
    _refuse_unknown([function], functions, f"function of {module}")
    if settings_kind(functions[function]) is None:
        raise WrongValue(
            f"`cell`: {name} does not say what settings it has; annotate its first argument with a dataclass of them"
        )
    return functions[function]


def _plan(content: Mapping[str, Any], folder: Path, changes: Sequence[str]) -> Plan:
    _refuse_unknown(content, _TOP, "key")
    cell = _cell(content, folder)
    settings = settings_kind(cell)
    assert settings is not None
    threads = content.get("threads", 1)
    if not isinstance(threads, int) or isinstance(threads, bool):
        raise WrongValue(f"`threads` is {threads!r}; use a number")
    known = _names(settings)
    fixed = _section(content, "settings", known)
    axes = content.get("grid", {})
    if not isinstance(axes, dict):
        raise WrongValue(f"`grid` is {axes!r}; make it a table [grid.product], [grid.zip] or [[grid.list]]")
    _refuse_unknown(axes, _GRID, "part of the grid")
    listed = axes.get("list", [])
    if not isinstance(listed, list):
        raise WrongValue("`grid.list` is one table; write [[grid.list]] with double brackets, once per cell")
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
        raise WrongValue(f"`{min(both)}` is fixed in [settings] and varied in the grid; keep it in one of them")
    overrides = dict(_change(change, known) for change in changes)
    checked = {}
    for spec in specs:
        for setting, value in overrides.items():
            put(spec, setting, value)
        complete = _checked(settings, spec)
        checked[store.key(complete)] = complete
    return Plan(name_of(cell), tuple(checked.values()), threads)


def _names(settings: type[Any], prefix: str = "") -> list[str]:
    """Return the names of all settings; nested dataclasses are entered, with dots."""
    names: list[str] = []
    kinds = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kind = kinds[field.name]
        nested = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        names += _names(kind, f"{prefix}{field.name}.") if nested else [prefix + field.name]
    return names


def _section(content: Mapping[str, Any], name: str, known: Iterable[str]) -> dict[str, Any]:
    """Return a table's settings by dotted name, all of them known."""
    section = content.get(name, {})
    if not isinstance(section, dict):
        raise WrongValue(f"`{name}` is {section!r}; make it a table of settings")
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
            raise WrongValue(f'unknown {what} "{name}"; {cure}')


def _change(change: str, known: Iterable[str]) -> tuple[str, Any]:
    """Return the setting and the value of `key=value`; the value is read as TOML, and as plain text if it is none."""
    setting, equals, text = change.partition("=")
    if not equals:
        raise WrongValue(f'--set "{change}" has no value; write --set key=value')
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
        raise WrongValue(f"`{place}`: {reason}{given}" if place else reason) from None
    plain: dict[str, Any] = json.loads(store.canonical(dataclasses.asdict(checked)))
    return plain
