"""A grammar of bad inputs: command lines that worked until one thing about them was made wrong.

Numbers out of range, for every option that takes one; names that are no text, that other programs read as markup, that
lead out of a folder. What is right all the same is listed with its reason.

    python -m faults.grammar [COUNT]       (in tests/; without COUNT, all)
"""

import dataclasses
import shutil
import sys
import tempfile
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from faults import ground
from faults.driver import Ran, copied, ran
from faults.ground import COMMANDS, LONG

WHOLE = ("-1", "0", "-1000000", "1000000000000000000000000", "nan", "2.5", "")
REAL = ("nan", "inf", "-inf", "-1", "0", "1e300", "")
NAMES = (
    "",
    "..",
    "../x",
    "a/b",
    "/etc/x",
    "x" * 300,
    "[red]x",
    "[/b]",
    "$\\bad$",
    "a\nb",
    "a\x1b[2Jb",
    "\u202eab",
    "\udcff",
    "\x7f",
    "<b>x</b>",
    "a|b`c`",
    " ",
    ".",
)


class Try(NamedTuple):
    """One input: what was made wrong (an option, or a place), how, and the command line."""

    command: str
    what: str
    value: str
    line: tuple[str, ...]


RIGHT: dict[tuple[str, str, str], str] = {
    ("*", "--seed", "0"): "the first seed",
    ("*", "--workers", "0"): "the default: one per core",
    ("*", "--curvature", "0"): "leaves the correction out, as its help says",
    ("*", "--shots", "0"): "no answered examples before a prompt",
    ("*", "--rotation", "0"): "the split as it is",
    ("*", "--strength", "0"): "plain finetuning, the control",
    ("*", "--edges", "0"): "a circuit without edges",
    ("*", "--layers", "0"): "the first layer",
    ("*", "--sizes", "0"): "fresh examples at every step, as the help of relearn says",
    ("*", "--repair", "0"): "no repair",
    ("*", "--seconds", "0"): "begins nothing exact, and says what was not measured",
    ("effects", "--sample", "0"): "beside --top: none at random",
    ("two-stage", "--sample", "0"): "beside --top: none at random",
    ("two-stage", "--top", "0"): "beside --sample: none of the largest",
    **{
        ("effects", "subtask", name): "a name is text, shown as it is, and quoted where a file is called after it"
        for name in ("..", "../x", "a/b", "/etc/x", "[red]x", "[/b]", "$\\bad$", "<b>x</b>", "a|b`c`", ".")
    },
    ("sweep", "--threads", "0"): "divides the cores by the workers, as its help says",
    **{("table", "swept", here): "the folder that one is in; the results lie below" for here in ("", ".")},
    ("table", "swept", ".."): "a folder like any other, where results may lie below",
    **{("relearn", "model", name): "a name is text, which files can have" for name in ("[red]x", "a|b`c`")},
}
"""What looks wrong and is right, with the reason; `*` for every command."""


def right(one: Try) -> bool:
    return any((command, one.what, one.value) in RIGHT for command in (one.command, "*"))


def numbers() -> Iterator[Try]:
    """Give every option that takes a number each number that it must refuse."""
    for name, line in {**COMMANDS, **LONG}.items():
        for flag, kind in options(line):
            for value in WHOLE if kind is int else REAL:
                yield Try(name, flag, value, (*without(line, flag), flag, value))


def names() -> Iterator[Try]:
    """Give whatever takes a name each of the odd ones."""
    for bad in NAMES:
        line = ("effects", "net", "--out", "new", "--subtask", f"{bad}=parity_0", "--folds", "3")
        yield Try("effects", "subtask", bad, line)
        yield Try("localize", "keep", bad, (*without(COMMANDS["localize"], "--keep"), "--keep", bad))
        yield Try("relearn", "model", bad, ("relearn", "net", f"{bad}=small/model", *COMMANDS["relearn"][3:]))
        yield Try("relearn", "attack", bad, (*without(COMMANDS["relearn"], "--attack"), "--attack", bad))
        for name in ("removal", "circuit", "prune", "show", "report", "locality"):
            line = tuple(bad if part == "study" else part for part in COMMANDS[name])
            yield Try(name, "folder", bad, line)
        yield Try("circuit", "subtask", bad, (*COMMANDS["circuit"], "--subtask", bad))
        yield Try("removal", "units", bad, (*COMMANDS["removal"], "--out", "new", "--units", bad))
        for flag in ("--method", "--reference", "--loss", "--at", "--split", "--only", "--device", "--dtype"):
            yield Try("effects", flag, bad, (*without(COMMANDS["effects"], "--out"), "--out", "new", flag, bad))
        yield from later_names(bad)


def later_names(bad: str) -> Iterator[Try]:
    """Give an odd name to what works on a language model, to sweeps, and to what is fetched."""
    for name, place in PLACES:
        yield Try(name, place, bad, tuple(bad if part == place else part for part in COMMANDS[name]))
    for name, flag in OPTIONS:
        yield Try(name, flag, bad, (*without(COMMANDS[name], flag), flag, bad))
    yield Try("sweep", "slope", bad, (*COMMANDS["sweep"], "--set", f"slope={bad}"))
    yield Try("fetch", "name", bad, ("fetch", bad))


PLACES = (
    ("positions", "texts"),
    ("export", "llama"),
    ("export", "narrow"),
    ("check", "llama"),
    ("evaluate", "llama"),
    ("evaluate", "legs.yaml"),
    ("evaluate", "texts"),
    ("sweep", "grid.toml"),
    ("table", "swept"),
)
"""By what is tried: what of its line names a model, a folder or a file that must be there."""

OPTIONS = (
    ("positions", "--names"),
    ("positions", "--device"),
    ("positions", "--dtype"),
    ("export", "--attacks"),
    ("check", "--device"),
    ("evaluate", "--subtask"),
    ("sweep", "--set"),
    ("sweep", "--gpus"),
    ("sweep", "--tls"),
)


def options(line: tuple[str, ...]) -> list[tuple[str, type]]:
    """Return the options of a command that take numbers, and whether these are whole."""
    kind = import_module(f"skilloc.cli.{line[0]}").Command
    actions = get_args(typing.get_type_hints(kind).get("action"))
    return list(_numeric(next((one for one in actions if one.__name__.lower() == line[1]), kind)))


def _numeric(kind: type) -> Iterator[tuple[str, type]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint: Any = hints[field.name]
        while get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        if dataclasses.is_dataclass(hint):
            yield from _numeric(hint)
            continue
        parts = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union, tuple) else (hint,)
        for one in (int, float):
            if one in parts:
                yield f"--{field.name.replace('_', '-')}", one


def without(line: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """Return a command line without an option and its values."""
    if flag not in line:
        return line
    start = line.index(flag)
    end = next((i for i in range(start + 1, len(line)) if line[i].startswith("--")), len(line))
    return line[:start] + line[end:]


def wrong_about(one: Try, status: int, said: str) -> str:
    """Return what is wrong with how an input was taken; "" if nothing."""
    if "Traceback" in said:
        return "a traceback"
    if status == 0:
        return "" if right(one) else "accepted in silence"
    if status != 2:
        return f"exit status {status}"
    lines = [line for line in said.splitlines() if line.startswith("skilloc: ")]
    if not lines and not any(word in said for word in ("Parsing error", "Error parsing", "rror: ", "required")):
        return f"said nothing of it: {said[:200]}"
    return ""


def every() -> list[Try]:
    """Return all inputs."""
    return [*numbers(), *names()]


def tried(one: Try, homes: dict[str, Path], place: Path) -> tuple[str, Ran]:
    """Give an input to a copy of the ground; return what is wrong with how it was taken, and what became of it."""
    home = copied(homes[one.command], place)
    try:
        done = ran(home, one.line)
        outside = [path.name for path in place.parent.iterdir() if not path.name.isdigit() and path != place]
        return wrong_about(one, done.status, done.error) or ("wrote outside" if outside else ""), done
    finally:
        shutil.rmtree(home)


def main() -> None:
    """Try so many of them, evenly spread, or all."""
    with tempfile.TemporaryDirectory() as place:
        homes = ground.make_ground(Path(place))
        counts = {"tried": 0, "refused": 0, "rightly accepted": 0, "wrong": 0}
        chosen = every()
        chosen = chosen[:: max(1, len(chosen) // int(sys.argv[1]))] if sys.argv[1:] else chosen
        for one in chosen:
            said, done = tried(one, homes, Path(place) / "tried")
            counts["tried"] += 1
            counts["wrong" if said else "rightly accepted" if done.status == 0 else "refused"] += 1
            if said:
                print(f"{one.command} {one.what} {one.value!a}: {said}; {done.error.strip()[-160:]!a}", flush=True)
        print(counts)


if __name__ == "__main__":
    main()
