"""Runs of the attack that are kept on disk, each by itself under what it depends on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skilloc import store
from skilloc.relearning.question import Question
from skilloc.relearning.result import DIMS
from skilloc.store import Labelled

OUTER = ("model", "way", "size", "rate", "seed")
"""Axes of a result that one run does not have."""


def is_kept(question: Question, key: str) -> bool:
    """Whether a run, or a repair, is kept under a key."""
    return question.out is not None and store.is_complete(question.out / "runs" / key)


def read_run(out: Path | None, spec: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Return the arrays of a result folder, if it is there."""
    folder = None if out is None else out / "runs" / store.key(spec)
    if folder is None or not folder.is_dir():
        return None
    return {name: array.values for name, array in store.read(folder).arrays.items()}


def write_run(out: Path | None, spec: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> None:
    """Keep the arrays of a run, if there is a folder for them."""
    if out is not None:
        inner = {name: tuple(dim for dim in DIMS[name] if dim not in OUTER) for name in found}
        store.write(
            out / "runs" / store.key(spec), spec, {}, {name: Labelled(found[name], inner[name]) for name in found}
        )
