"""Kills a command just before each of its changes on disk, starts it again, and compares with what it leaves alone.

    python -m faults.kills [--most N] [COMMAND ...]       (in tests/; without N, before every change)

prints a line per command: how many kills were tried, and which ended otherwise.
"""

import argparse
import re
import shutil
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from faults import ground
from faults.driver import Fault, copied, files, ran
from faults.ground import Command


def undisturbed(place: Path, before: Path, command: Command) -> tuple[dict[str, str], int]:
    """Return what a command leaves, and how often it changes something on disk."""
    home = copied(before, place)
    done = ran(home, command)
    assert done.status == 0, done.error
    found = left(home)
    shutil.rmtree(home)
    return found, done.operations


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
        found = left(home)
        apart = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        return f"killed at {at}, it leaves other files: {', '.join(apart[:6])}" if apart else ""
    finally:
        shutil.rmtree(home)


WHEN = re.compile(rb"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC|sha256 [0-9a-f]{64} of all lines above")
"""When a page was written, and its checksum."""


def left(home: Path) -> dict[str, str]:
    """Return what lies in a folder, as `files`, but for when pages were written, and how long passes took."""
    found = {name: "" if name in ground.TIMED else digest for name, digest in files(home).items()}
    pages = {path: WHEN.sub(b"", path.read_bytes()) for path in home.rglob("*.html")}
    return found | {page.relative_to(home).as_posix(): sha256(text).hexdigest() for page, text in pages.items()}


def sampled(operations: int, count: int) -> list[int]:
    """Return so many of the changes on disk, spread evenly, the first and last among them; at most all."""
    if count >= operations:
        return list(range(1, operations + 1))
    return sorted({1 + round(i * (operations - 1) / (count - 1)) for i in range(count)})


def main(names: Iterable[str], most: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        homes = ground.make_ground(Path(place))
        for name in names:
            command = ground.EVERY[name]
            wanted, operations = undisturbed(Path(place) / "whole", homes[name], command)
            tried = sampled(operations, most)
            wrong = [said for at in tried if (said := killed(Path(place) / "killed", homes[name], command, at, wanted))]
            print(f"{name}: {operations} changes, {len(tried)} kills, {len(wrong)} went wrong", flush=True)
            for said in wrong[:8]:
                print(f"    {said}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(ground.EVERY))
    parser.add_argument("--most", type=int, default=10**9)
    given = parser.parse_args()
    main(given.names, given.most)
