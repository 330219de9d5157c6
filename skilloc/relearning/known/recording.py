"""What the package keeps of a self-test: how often each word was right, and what each verdict was made of."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from skilloc.locality.intervals import Interval
from skilloc.relearning.known.testing import Judged
from skilloc.relearning.rules import KEPT, UNCLEAR


def record_of(found: Sequence[Judged], command: str) -> dict[str, Any]:
    """Return per word, how many were called so, and how many were; and every network. JSON only.

    The words are those with limits that were tuned without the kind of each network.
    """
    called: dict[str, int] = {}
    right: dict[str, int] = {}
    for one in found:
        called[one.left_out] = called.get(one.left_out, 0) + 1
        right[one.left_out] = right.get(one.left_out, 0) + (one.left_out == one.truth)
    networks = [
        {
            "name": one.name,
            "kind": one.kind,
            "truth": one.truth,
            "word": one.word,
            "left_out": one.left_out,
            "left": one.left,
            "steps": list(one.seen.steps),
            "back": [_ends(share) for share in one.seen.back],
            "words": list(one.seen.words),
            "damage": _ends(one.seen.damage),
            "plasticity": _ends(one.seen.plasticity),
        }
        for one in found
    ]
    return {"command": command, "models": len(found), "called": called, "right": right, "networks": networks}


def blurred(words: Sequence[str]) -> bool:
    """Whether more budget blurred a verdict: a clear word became undecidable, or "not removed" something else."""
    return any(
        (before != UNCLEAR and after == UNCLEAR) or (before == KEPT and after != KEPT)
        for before, after in pairwise(words)
    )


def _ends(found: Interval) -> list[float | None]:
    return [round(float(end), 4) if np.isfinite(end) else None for end in found[:3]]
