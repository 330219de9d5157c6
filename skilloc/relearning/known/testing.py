"""The self-test: what the probe says of networks whose truth is known.

Each network is attacked beside its original and beside networks of its shape that never saw the skill, of other seeds.
The limits of the verdict are also tuned with each kind of network left out in turn, and stated on the kind left out, so
that a kind that nobody thought of is not judged by limits that were made for it.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from skilloc.locality.intervals import Interval, proportion_interval
from skilloc.relearning.brought import LIMITS, Limits
from skilloc.relearning.curves import envelope
from skilloc.relearning.known.hiding import HIDINGS
from skilloc.relearning.known.networks import Known, Shelf, Size, known_models, shelf_of
from skilloc.relearning.plasticity import with_plasticity
from skilloc.relearning.probe import relearn_probe
from skilloc.relearning.result import Relearning
from skilloc.relearning.rules import KEPT, WORDS
from skilloc.relearning.settings import ORIGINAL, Grid
from skilloc.relearning.verdict import verdict
from skilloc.store.progress import counter

GRID = Grid(rates=(3e-3, 1e-2, 3e-2), budgets=(1, 4, 16, 64), held_out=512, folds=8, repair=64)
"""Settings of the self-test."""

TRIED = (LIMITS, *(Limits(lead, quarter) for lead in (0.15, 0.25, 0.4, 0.6) for quarter in (0.2, 0.25, 0.3)))
"""Limits that are tuned among; the first of equally good ones counts."""

HIDDEN = tuple(hiding.name for hiding in HIDINGS)

QUICK, WHOLE = Size(originals=1, each=2), Size()
"""A part of the networks, and all of them."""


class Tested(NamedTuple):
    """A network of the self-test, and what the probe says of it.

    Attributes:
        known: the network and its truth.
        found: the losses of its probe.
        word: the verdict.
        back: share of the skill that the attack brought back, where it was read.
    """

    known: Known
    found: Relearning
    word: str
    back: Interval


def attacked(shelves: Sequence[Shelf], grid: Grid = GRID, seeds: Sequence[int] = (0, 1, 2)) -> list[Tested]:
    """Attack all networks, and return what the probe says."""
    listed: list[Tested] = []
    with counter(sum(len(shelf.known) for shelf in shelves), "self-test") as bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(there is one rate|the best rate is)")
        for shelf in shelves:
            models: dict[str, Any] = {ORIGINAL: shelf.original, **shelf_of(shelf, seeds)}
            models |= {known.name: known.model for known in shelf.known}
            found = relearn_probe(models, [shelf.attacked], shelf.attacked, grid, seeds, kept=shelf.kept)
            if shelf.new is not None:
                found = with_plasticity(found, models, shelf.new, grid, seeds)
            best = envelope(found)
            for known in shelf.known:
                told = verdict(found, known.name, best=best)
                share = told.removed.share
                back = Interval(1 - share.value, 1 - share.high, 1 - share.low)
                listed.append(Tested(known, found, told.word, back))
                bar.update(1)
    return listed


class Judged(NamedTuple):
    """What the probe says of one network, without its losses.

    Attributes:
        name: of the network.
        kind: what was done to it.
        truth: the word that is right.
        word: the verdict.
        left_out: the verdict with limits that were tuned on all networks of other kinds.
        left: share of the skill that is left.
        back: share of it that the attack brought back, where it was read.
    """

    name: str
    kind: str
    truth: str
    word: str
    left_out: str
    left: float
    back: Interval


def self_test(size: Size = WHOLE, *, seed: int = 0, seeds: Sequence[int] = (0, 1, 2)) -> list[Judged]:
    """Return what the probe says of networks whose truth is known.

    Args:
        size: how many networks.
        seed: of all of them.
        seeds: of the attack.
    """
    return judged(attacked(known_models(size, seed=seed), seeds=seeds))


def judged(found: Sequence[Tested]) -> list[Judged]:
    """Return the verdicts, with the limits as they are, and tuned without the kind of network that is judged."""
    best = {id(one.found): envelope(one.found) for one in found}

    def word(one: Tested, limits: Limits) -> str:
        return verdict(one.found, one.known.name, best=best[id(one.found)], limits=limits).word

    words = {limits: [word(one, limits) for one in found] for limits in TRIED}
    chosen = {kind: max(TRIED, key=lambda limits: _right(found, words[limits], kind)) for kind in _kinds(found)}
    return [
        Judged(k.name, k.kind, k.truth, one.word, words[chosen[k.kind]][i], k.left, one.back)
        for i, one in enumerate(found)
        for k in [one.known]
    ]


def _kinds(found: Sequence[Tested]) -> list[str]:
    return list(dict.fromkeys(one.known.kind for one in found))


def _right(found: Sequence[Tested], words: Sequence[str], kind: str) -> int:
    """Return how many words are right of networks of all kinds but one."""
    pairs = zip(found, words, strict=True)
    return sum(word == one.known.truth for one, word in pairs if one.known.kind != kind)


def confusion(found: Sequence[Judged], *, left_out: bool = False) -> str:
    """Return a table in Markdown: a row per truth, a column per word, and how many were right with Wilson's interval.

    Args:
        found: as of `self_test`.
        left_out: whether to judge by limits that were tuned without the kind of each network.
    """
    words = [word for word in WORDS if word != "not comparable"]
    lines = ["| truth | networks | " + " | ".join(words) + " | right |", "|---" * (len(words) + 3) + "|"]
    truths = [(truth, [one for one in found if one.truth == truth]) for truth in words]
    # What is hidden and what was never touched have the same right word, and are another question.
    hidden = [one for one in found if one.truth == KEPT and one.kind in HIDDEN]
    rest = [one for one in found if one.truth == KEPT and one.kind not in HIDDEN]
    rows = [(t, listed) for t, listed in truths if t != KEPT] + [("hidden", hidden), ("untouched", rest)]
    for truth, listed in rows:
        if listed:
            said = [one.left_out if left_out else one.word for one in listed]
            right = sum(word == one.truth for word, one in zip(said, listed, strict=True))
            share = proportion_interval(right, len(listed))
            counts = " | ".join(str(said.count(word)) for word in words)
            ends = f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"
            lines.append(f"| {truth} | {len(listed)} | {counts} | {ends} |")
    return "\n".join(lines)


def record_of(found: Sequence[Judged], command: str) -> dict[str, Any]:
    """Return what the package keeps of a self-test: per word, how many were called so, and how many were. JSON only."""
    called: dict[str, int] = {}
    right: dict[str, int] = {}
    for one in found:
        called[one.word] = called.get(one.word, 0) + 1
        right[one.word] = right.get(one.word, 0) + (one.word == one.truth)
    return {"command": command, "models": len(found), "called": called, "right": right}
