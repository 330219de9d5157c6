"""One cell: its name, its spec as stored, and its run in whatever process it lands in."""

import contextlib
import dataclasses
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from skilloc import store
from skilloc.mistakes import WrongType, WrongValue
from skilloc.sweep.settings import settings_kind, settings_of

Outcome = Mapping[str, Any] | tuple[Mapping[str, Any], Mapping[str, store.Labelled]]
"""What a cell function returns: metrics, or metrics and arrays."""

OWN = ("cell", "threads")
"""Keys that the runner adds to a spec before it is hashed and stored."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def name_of(cell: str | Callable[..., Outcome]) -> str:
    """Return the import path `module:function` of a cell function; one given as a string is not imported.

    Raises:
        TypeError: if it cannot be found under a name: workers get a name, never a pickled function.
    """
    if isinstance(cell, str):
        module, colon, function = cell.partition(":")
        if not (module and colon and function):
            raise WrongType(f"`cell` is {cell!r}; pass an import path as 'module:function'")
        return cell
    module = getattr(cell, "__module__", "")
    name = f"{_script() if module == '__main__' else module}:{getattr(cell, '__qualname__', '')}"
    try:
        found = load(name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not callable(found) or getattr(found, "__code__", None) != getattr(cell, "__code__", None):
        raise WrongType(
            f"`cell` {cell!r} cannot be imported as {name!r}; pass a function defined at the top of a module, or its "
            "import path as 'module:function'"
        )
    return name


def load(name: str, home: str = "") -> Any:
    """Return the function at an import path `module:function`; arguments and errors as of `module_at`.

    Raises:
        AttributeError: if the module has no such function.
    """
    module, _, function = name.partition(":")
    return getattr(module_at(module, home), function)


def module_at(name: str, home: str = "") -> ModuleType:
    """Import a module.

    Args:
        name: of the module.
        home: a folder in which modules are looked for too, as beside a script that is run; empty for none.

    Raises:
        ImportError: if there is no such module, or `home` has it but another of that name was imported before.
    """
    if home and home not in sys.path:
        sys.path.insert(0, home)
    found = importlib.import_module(name)
    own, file = Path(home, f"{name}.py"), getattr(found, "__file__", None)
    if home and own.is_file() and (file is None or not own.samefile(file)):
        raise ImportError(
            f"`{name}` was imported from {file} before, not from {own}; give it another name, or start new workers"
        )
    return found


def home_of(name: str) -> str:
    """Return the folder of a cell function's module, so that workers find it; empty if it is a part of a package.

    Args:
        name: import path of the function, whose module has been imported.
    """
    module = sys.modules[name.partition(":")[0]]
    packaged = "." in module.__name__ or hasattr(module, "__path__")
    file = getattr(module, "__file__", None)
    # Links are kept: where they point to may differ between machines.
    return "" if packaged or file is None else str(Path(file).absolute().parent)


def stored_spec(name: str, spec: Any, threads: int) -> dict[str, Any]:
    """Return the spec as it is hashed and stored: with the cell's name and its number of threads.

    Both belong to the question: another function answers another one, and sums depend on the number of threads.

    Args:
        name: import path of the cell function.
        spec: a mapping, or a dataclass of settings.
        threads: number of threads.

    Raises:
        TypeError: if the spec is neither.
        ValueError: if the spec uses one of these keys itself.
    """
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        spec = dataclasses.asdict(spec)
    if not isinstance(spec, Mapping):
        raise WrongType(f"`specs` has {spec!r}; pass a mapping or a dataclass of settings for each cell")
    for own in OWN:
        if own in spec:
            raise WrongValue(f"the spec has the key `{own}`, which the sweep sets itself; use another key")
    return {"cell": name, "threads": threads, **spec}


def run_cell(text: str, out: str, home: str) -> tuple[str, str, str]:
    """Run one cell and write its result; only strings go in and come out, so that any engine can carry it.

    Args:
        text: the stored spec as JSON.
        out: the folder that holds the results.
        home: as `home_of` the cell function.

    Returns:
        "done" or "failed"; the error; the traceback.
    """
    stored = json.loads(text)
    folder = Path(out) / store.key(stored)
    # It was not there when the sweep looked; but another sweep may be at it, or the word of its end was lost.
    if store.is_complete(folder):
        return "done", "", ""
    # A cell that calls sys.exit must not end the worker.
    try:
        with threads(stored["threads"]):
            cell = load(stored["cell"], home)
            keep_threads(stored["threads"])
            outcome = _called(cell, {name: value for name, value in stored.items() if name not in OWN}, Path(out))
        metrics, arrays = outcome if isinstance(outcome, tuple) else (outcome, {})
        if not isinstance(metrics, Mapping) or not isinstance(arrays, Mapping):
            raise WrongType(
                f"{stored['cell']} returned {type(outcome).__name__}; return metrics as a dict, or a pair of metrics "
                "and arrays"
            )
        try:
            store.write(folder, stored, metrics, arrays)
        except FileNotFoundError:  # another sweep took the half-written one for that of a killed one, and cleared it
            store.write(folder, stored, metrics, arrays)
    except (Exception, SystemExit) as error:
        return "failed", f"{type(error).__name__}: {error}", traceback.format_exc()
    return "done", "", ""


def _called(cell: Callable[..., Any], spec: dict[str, Any], out: Path) -> Any:
    """Call a cell function with what it asks for: its settings or the plain spec, and the folder of the results."""
    kind = settings_kind(cell)
    more = {"results": out} if "results" in inspect.signature(cell).parameters else {}
    return cell(spec if kind is None else settings_of(kind, spec), **more)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of threads for torch, imported already or only by the cell, and put it back."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    torch_before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch_before is not None:
            keep_threads(torch_before)


def keep_threads(count: int) -> None:
    """Set the number of threads of torch, if that has been imported meanwhile."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _script() -> str:
    """Return the name under which a worker can import the script that is being run."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return main.__spec__.name
    return Path(getattr(main, "__file__", None) or "").stem
