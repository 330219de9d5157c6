"""Kills a command just before each of its changes on disk, starts it again, and compares with what it leaves alone.

    python -m faults.kills [--most N | --kinds | --lives] [COMMAND ...]       (in tests/; all changes by default)

prints a line per command: how many kills were tried, and which ended otherwise. `--kinds` kills before the first and
the last change of each kind; `--lives` kills again and again in one folder until the command has come to its end, each
time some changes later than before: one, or so many that N lives will do.
"""

import argparse
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path

from faults import ground
from faults.driver import Fault, copied, files, ran
from faults.ground import Command


def undisturbed(place: Path, before: Path, command: Command) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return what a command leaves, and what it changes on disk, one after the other."""
    home = copied(before, place)
    done = ran(home, command)
    assert done.status == 0, done.error
    found = left(home)
    shutil.rmtree(home)
    return found, done.changes


def killed(place: Path, before: Path, command: Command, at: int, wanted: dict[str, str]) -> str:
    """Kill a command before one of its changes, start it again, and say what differs from `wanted`, if anything."""
    home = copied(before, place)
    try:
        first = ran(home, command, Fault(kill_at=at))
        if first.status != -9:
            return f"killed at {at}, but it ended with {first.status}: {first.error[-300:]}"
        again = ran(home, command)
        if again.status != 0:
            return f"killed at {at}, it does not go on: {again.error[-300:]}"
        apart = differing(left(home), wanted)
        return f"killed at {at}, it leaves other files: {apart}" if apart else ""
    finally:
        shutil.rmtree(home)


def outlived(place: Path, before: Path, command: Command, wanted: dict[str, str], *, step: int = 1) -> tuple[int, str]:
    """Kill a command before its first change, in the same folder `step` changes later, and so on, until it ends.

    Returns how often it was killed, and what differs from `wanted` then, if anything."""
    home = copied(before, place)
    try:
        for kills in count():
            done = ran(home, command, Fault(kill_at=1 + step * kills))
            if done.status == 0:
                apart = differing(left(home), wanted)
                return kills, f"killed {kills} times, it leaves other files: {apart}" if apart else ""
            if done.status != -9:
                return kills, f"killed {kills} times, it does not go on: {done.error[-300:]}"
        raise AssertionError
    finally:
        shutil.rmtree(home)


def differing(found: dict[str, str], wanted: dict[str, str]) -> str:
    """Return some of the names of files that are not the same."""
    return ", ".join(sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))[:6])


WHEN = re.compile(rb"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC|sha256 [0-9a-f]{64} of all lines above")
"""When a page was written, and its checksum."""


def left(home: Path) -> dict[str, str]:
    """Return what lies in a folder, as `files`, but for when pages were written, and how long passes took."""
    found = {name: "" if name in ground.TIMED else digest for name, digest in files(home).items()}
    pages = {path: WHEN.sub(b"", path.read_bytes()) for path in home.rglob("*.html")}
    return found | {page.relative_to(home).as_posix(): sha256(text).hexdigest() for page, text in pages.items()}


NUMBERS = re.compile(r"\d+|[0-9a-f]{8,}")


def of_each_kind(changes: Sequence[str]) -> list[int]:
    """Return the first and the last change of each kind: those that differ in numbers only are of one kind."""
    kinds = [NUMBERS.sub("#", change) for change in changes]
    ends = {kind: at for at, kind in enumerate(kinds, 1)}
    starts = {kind: at for at, kind in reversed(list(enumerate(kinds, 1)))}
    return sorted({*starts.values(), *ends.values()})


def sampled(operations: int, most: int) -> list[int]:
    """Return so many of the changes on disk, spread evenly, the first and last among them; at most all."""
    if most >= operations:
        return list(range(1, operations + 1))
    return sorted({1 + round(i * (operations - 1) / max(1, most - 1)) for i in range(most)})


def main(names: Iterable[str], most: int, kinds: bool, lives: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        homes = ground.make_ground(Path(place))
        for name in names:
            command, killing = ground.EVERY[name], Path(place) / "killed"
            wanted, changes = undisturbed(Path(place) / "whole", homes[name], command)
            if lives:
                tries, said = outlived(killing, homes[name], command, wanted, step=-(-len(changes) // most))
                wrong = [said] if said else []
            else:
                tried = of_each_kind(changes) if kinds else sampled(len(changes), most)
                tries = len(tried)
                wrong = [said for at in tried if (said := killed(killing, homes[name], command, at, wanted))]
            print(f"{name}: {len(changes)} changes, {tries} kills, {len(wrong)} went wrong", flush=True)
            for said in wrong[:8]:
                print(f"    {said}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(ground.EVERY))
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--kinds", action="store_true")
    parser.add_argument("--lives", action="store_true")
    given = parser.parse_args()
    main(given.names, given.most, given.kinds, given.lives)
