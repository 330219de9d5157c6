"""How much of a large result is shown, and what says where the rest is.

Subtasks, and circuits by their subtasks, come in the order in which they were asked for, which no measurement has
chosen. What is computed for a pair of subtasks is computed for those that are shown. Results on disk are whole.
"""

from dataclasses import replace
from typing import Any, TypeVar

from skilloc import store

SUBTASKS = 40
"""Subtasks in tables and pictures, at most: what a matrix can name."""

CIRCUITS = 24
"""Circuits on a page, at most."""

AXES = ("subtask", "source", "target")
"""Axes of results that are subtasks."""

Result = TypeVar("Result")


def first(result: Result) -> Result:
    """Return a typed result of the first subtasks only; one of few subtasks as it is."""
    given: Any = result
    if len(given.subtasks) <= SUBTASKS:
        return result
    cut = {
        name: getattr(given, name)[tuple(slice(SUBTASKS if axis in AXES else None) for axis in axes)]
        for name, axes in store.axes_of(type(given)).items()
    }
    found: Result = replace(given, subtasks=given.subtasks[:SUBTASKS], **cut)
    return found


def subtasks_words(every: int) -> tuple[str, ...]:
    """Say that only the first subtasks are shown, and where all are; nothing of few subtasks."""
    if every <= SUBTASKS:
        return ()
    return (
        f"Shown are the first {SUBTASKS} of {every:,} subtasks, in the order in which they were asked for. The effects "
        "on all are in the folder `effects`, which `skilloc.store.load` reads; `skilloc locality DIR --json` writes "
        "the scores of all.",
    )


def circuits_words(every: int) -> tuple[str, ...]:
    """Say that only the first circuits are shown; nothing of few."""
    if every <= CIRCUITS:
        return ()
    return (
        f"Shown are the circuits of the first {CIRCUITS} of {every:,} subtasks; each of the others has a file of its "
        "own (.json, .graphml) in the same folder.",
    )
