"""The books of one sweep: which cells there are, what became of them, and what is noted about them on the disk."""

import collections
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skilloc import store
from skilloc.mistakes import WrongValue

VISIBLE_WITHIN = 10.0
"""Seconds within which a result that a worker has written must be seen here; network file systems lag."""


@dataclass(frozen=True)
class Failure:
    """A cell that did not end well; the next run of the sweep tries it again.

    Attributes:
        key: the cell's key.
        spec: its spec as stored, with `cell` and `threads`.
        error: what happened, in short.
        traceback: where; for a dead worker, what the engine says.
    """

    key: str
    spec: Mapping[str, Any]
    error: str
    traceback: str = ""


@dataclass(frozen=True)
class Report:
    """What became of the cells of a sweep.

    Attributes:
        out: the folder that holds the results.
        keys: of all cells, in the order of the specs; `store.read(out / key)` reads one.
        done: keys of the cells that were finished meanwhile, by this run or by another on the same folder.
        cached: keys of the cells that were there before.
        failed: the others, with reasons.
    """

    out: Path
    keys: tuple[str, ...]
    done: tuple[str, ...]
    cached: tuple[str, ...]
    failed: tuple[Failure, ...]


@dataclass(frozen=True)
class Status:
    """The state of a sweep's folder: keys of the cells that are done, failures, and keys of the cells that are left."""

    done: tuple[str, ...]
    failed: tuple[Failure, ...]
    left: tuple[str, ...]


class Ledger:
    """What is known of each cell of one sweep.

    Args:
        out: the folder that holds the results.
        specs: the specs as stored; equal ones are one cell.
    """

    def __init__(self, out: Path, specs: Sequence[Mapping[str, Any]]) -> None:
        self.out = out
        self.specs = {store.key(spec): spec for spec in specs}
        self.words: dict[str, str] = {}
        self.failures: dict[str, Failure] = {}

    def look_up(self) -> dict[str, str]:
        """Note what is there already and, unless that is all, the plan; return the other specs as JSON by key.

        Raises:
            OSError: if there is something to do but the folder cannot be written.
        """
        states = self.states()
        if any(state != "cached" for state in states.values()):
            self._begin()
        noted = {path.stem for path in (self.out / "failed").glob("*.json")}
        for key, state in states.items():
            if state == "cached":
                self.words[key] = "cached"
                if key in noted:
                    self._forget(key)
            elif state == "damaged":
                self.note(
                    key, "failed", f"{self.out / key} is damaged; move the folder elsewhere and run the sweep again"
                )
        return {key: store.canonical(self.specs[key]) for key in self.unheard()}

    def _begin(self) -> None:
        try:
            _write(self.out / "plans" / f"{store.key({'keys': sorted(self.specs)})}.json", sorted(self.specs))
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write into {self.out} ({error.strerror or error}); free some space or choose an `out` that "
                "you may write to",
            ) from error

    def states(self) -> dict[str, str]:
        """Return "cached", "damaged" or "left" by key, from what lies on the disk; nothing is changed."""
        states = {}
        for key in self.specs:
            folder = self.out / key
            states[key] = "cached" if store.is_complete(folder) else "damaged" if folder.exists() else "left"
        return states

    def note(self, key: str, word: str, error: str = "", traceback: str = "") -> None:
        """Note what became of a cell; a failure goes to the disk too, if that can be written at all."""
        self.words[key] = word
        if word != "failed":
            self._forget(key)
            return
        self.failures[key] = Failure(key, self.specs[key], error, traceback)
        note = {"spec": self.specs[key], "error": error, "traceback": traceback}
        with contextlib.suppress(OSError):
            _write(self.out / "failed" / f"{key}.json", note)

    def unheard(self) -> list[str]:
        """Return the keys of the cells of which nothing is known yet."""
        return [key for key in self.specs if key not in self.words]

    def counts(self) -> dict[str, int]:
        """Return how many cells are done, cached and failed."""
        return dict(collections.Counter(self.words.values()))

    def check_visible(self) -> None:
        """Fail the cells whose results a worker has written, but that are not to be seen here."""
        until = time.monotonic() + VISIBLE_WITHIN
        for key in [key for key, word in self.words.items() if word == "done"]:
            while not store.is_complete(self.out / key):
                if time.monotonic() > until:
                    text = f"its worker has written {self.out / key}, which is not to be seen here"
                    self.note(key, "failed", f"{text}; put `out` on a file system that all workers share")
                    break
                time.sleep(0.1)

    def report(self) -> Report:
        """Return what became of the cells."""
        of = {word: tuple(key for key in self.specs if self.words.get(key) == word) for word in ("done", "cached")}
        failed = tuple(self.failures[key] for key in self.specs if self.words.get(key) == "failed")
        return Report(self.out, tuple(self.specs), of["done"], of["cached"], failed)

    def _forget(self, key: str) -> None:
        with contextlib.suppress(OSError):
            (self.out / "failed" / f"{key}.json").unlink()


def status(out: str | Path) -> Status:
    """Look at a sweep's folder, without running anything.

    Raises:
        FileNotFoundError: if no sweep was run there.
    """
    out = Path(out)
    plans = sorted((out / "plans").glob("*.json"))
    if not plans:
        raise FileNotFoundError(f"no sweep was run in {out}; pass the folder that a sweep was given as `out`")
    keys: dict[str, None] = {}
    for plan in plans:
        try:
            keys |= dict.fromkeys(json.loads(plan.read_text()))
        except (ValueError, TypeError) as error:
            raise WrongValue(f"{plan} is cut or altered ({error}); run the sweep again, which makes it anew") from error
    done = tuple(key for key in keys if store.is_complete(out / key))
    failures = {key: _failure(out, key) for key in keys.keys() - set(done)}
    failed = tuple(failure for key in keys if (failure := failures.get(key)))
    return Status(done, failed, tuple(key for key in keys if key in failures and failures[key] is None))


def _failure(out: Path, key: str) -> Failure | None:
    try:
        note = json.loads((out / "failed" / f"{key}.json").read_text())
    except FileNotFoundError:
        return None
    return Failure(key, note["spec"], note["error"], note["traceback"])


def _write(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON file aside and rename it into place."""
    with store.placed(path) as aside:
        aside.write_text(json.dumps(value, indent=1))
