"""The self-test: what the probe says of networks whose truth is known.

Each network is attacked beside its original and beside networks of its shape that never saw the skill, of other seeds.
The limits of the verdict are also tuned with each kind of network left out in turn, and stated on the kind left out, so
that a kind that nobody thought of is not judged by limits that were made for it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product, starmap
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from skilloc import store
from skilloc.locality.intervals import Interval, proportion_interval
from skilloc.models.language import digest
from skilloc.relearning.brought import LIMITS, Limits, readings
from skilloc.relearning.curves import envelope
from skilloc.relearning.known.decoders import HIDING_PLACES
from skilloc.relearning.known.hidings import HIDINGS
from skilloc.relearning.known.networks import Size, known_models, never_saw
from skilloc.relearning.known.shelves import Shelf, Truth
from skilloc.relearning.plasticity import with_plasticity
from skilloc.relearning.probe import relearn_probe
from skilloc.relearning.result import Relearning
from skilloc.relearning.rules import KEPT, WORDS, damage, plasticity_of, words_by_budget
from skilloc.relearning.settings import ORIGINAL, UNSEEN, Grid
from skilloc.relearning.verdict import verdict
from skilloc.store.progress import counter

GRID = Grid(rates=(3e-3, 1e-2), budgets=(1, 4, 16, 64), held_out=256, folds=8, repair=64)
"""Settings of the self-test."""

TRIED = (LIMITS, *starmap(Limits, product((0.15, 0.25, 0.4, 0.6), (0.2, 0.25, 0.3), (0.5, 0.75, 0.9))))
"""Limits that are tuned among; the first of equally good ones counts."""

HIDDEN = (*(hiding.name for hiding in HIDINGS), *(place.name for place in HIDING_PLACES))

QUICK, WHOLE = Size(originals=1, each=2), Size()
"""A part of the networks, and all of them."""


class Tested(NamedTuple):
    """A network of the self-test, and what the probe says of it.

    Attributes:
        known: its truth.
        found: the losses of its probe.
        word: the verdict.
        back: share of the skill that the attack brought back, where it was read.
    """

    known: Truth
    found: Relearning
    word: str
    back: Interval


def attacked(
    shelves: Sequence[Shelf], grid: Grid = GRID, seeds: Sequence[int] = (0, 1, 2), *, out: Path | None = None
) -> list[Tested]:
    """Attack all networks, and return what the probe says.

    Args:
        shelves: the networks.
        grid: the settings.
        seeds: of the attack.
        out: a folder for what was found, a folder per shelf in it: those that are there are read.
    """
    listed: list[Tested] = []
    with counter(sum(len(shelf.known) for shelf in shelves), "self-test") as bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(there is one rate|the best rate is)")
        never: dict[Any, list[nn.Module]] = {}
        for shelf in shelves:
            listed += told(_losses(shelf, grid, seeds, out, never), shelf.known)
            bar.update(len(shelf.known))
    return listed


def told(found: Relearning, known: Sequence[Truth]) -> list[Tested]:
    """Return what the losses of a shelf say of its networks."""
    best = envelope(found)
    listed = []
    for one in known:
        said = verdict(found, one.name, best=best)
        share = said.removed.share
        back = Interval(1 - share.value, 1 - share.high, 1 - share.low)
        listed.append(Tested(Truth(one.name, one.kind, one.truth, one.left), found, said.word, back))
    return listed


def recorded(out: Path) -> list[Tested]:
    """Return what the probe says of the networks that an earlier self-test attacked, from its losses alone."""
    listed: list[Tested] = []
    for folder in sorted(out.glob("* learned")):
        found = store.load(Relearning, folder)
        listed += told(found, [Truth(**one) for one in found.made["known"]])
    return listed


def _losses(
    shelf: Shelf, grid: Grid, seeds: Sequence[int], out: Path | None, never: dict[Any, list[nn.Module]]
) -> Relearning:
    """Attack the networks of a shelf, and let those learn something new that need to, or read what came of it."""
    models: dict[str, Any] = {ORIGINAL: shelf.original, **{known.name: known.model for known in shelf.known}}
    digests = [digest(model) for model in models.values()]
    key = store.key({"models": digests, "grid": grid.record(), "seeds": list(seeds)})
    first, second = (None if out is None else out / name for name in (key, f"{key} learned"))
    if second is not None and store.is_complete(second):
        return store.load(Relearning, second)
    if first is not None and store.is_complete(first):
        found = store.load(Relearning, first)
    else:
        first_of = shelf.known[0].model
        shapes = tuple((name, tuple(weight.shape)) for name, weight in first_of.named_parameters())
        alike = (shapes, *(subtask.name for subtask in shelf.kept))
        if alike not in never:
            never[alike] = never_saw(first_of, shelf.kept, seeds=seeds)
        models[UNSEEN] = never[alike]
        found = relearn_probe(models, [shelf.attacked], shelf.attacked, grid, seeds, kept=shelf.kept)
        truths = [asdict(Truth(one.name, one.kind, one.truth, one.left)) for one in shelf.known]
        found = replace(found, made={**found.made, "known": truths})
        if first is not None:
            store.save(found, first)
    if shelf.new is not None:
        found = with_plasticity(found, models, shelf.new, grid, seeds)
    if second is not None:
        store.save(found, second)
    return found


class Seen(NamedTuple):
    """What a verdict is made of.

    Attributes:
        steps: budgets that counted.
        back: share that each brought back.
        words: verdict with each of them as the longest.
        damage: see `rules.damage`.
        plasticity: see `rules.plasticity_of`.
    """

    steps: tuple[int, ...]
    back: tuple[Interval, ...]
    words: tuple[str, ...]
    damage: Interval
    plasticity: Interval


class Judged(NamedTuple):
    """What the probe says of one network, without its losses.

    Attributes:
        name: of the network.
        kind: what was done to it.
        truth: the word that is right.
        word: the verdict.
        left_out: the verdict with limits that were tuned on all networks of other kinds.
        left: share of the skill that is left; None for a damaged one.
        back: share of it that the attack brought back, where it was read.
        seen: what the word was made of.
    """

    name: str
    kind: str
    truth: str
    word: str
    left_out: str
    left: float | None
    back: Interval
    seen: Seen


def self_test(
    size: Size = WHOLE, *, seed: int = 0, seeds: Sequence[int] = (0, 1, 2), out: Path | None = None
) -> list[Judged]:
    """Return what the probe says of networks whose truth is known.

    Args:
        size: how many networks.
        seed: of all of them.
        seeds: of the attack.
        out: see `attacked`.
    """
    return judged(attacked(known_models(size, seed=seed), seeds=seeds, out=out))


def judged(found: Sequence[Tested]) -> list[Judged]:
    """Return the verdicts, with the limits as they are, and tuned without the kind of network that is judged."""
    best = {id(one.found): envelope(one.found) for one in found}

    def word(one: Tested, limits: Limits) -> str:
        return verdict(one.found, one.known.name, best=best[id(one.found)], limits=limits).word

    words = {limits: [word(one, limits) for one in found] for limits in TRIED}
    chosen = {kind: max(TRIED, key=lambda limits: _right(found, words[limits], kind)) for kind in _kinds(found)}
    return [
        Judged(k.name, k.kind, k.truth, one.word, words[chosen[k.kind]][i], k.left, one.back, seen(one))
        for i, one in enumerate(found)
        for k in [one.known]
    ]


def seen(one: Tested) -> Seen:
    """Return what the verdict about a network is made of."""
    name, best = one.known.name, envelope(one.found)
    listed = readings(one.found, best, name)
    return Seen(
        tuple(one.found.steps[reading.step] for reading in listed),
        tuple(reading.back for reading in listed),
        tuple(words_by_budget(one.found, best, name)),
        damage(one.found, name),
        plasticity_of(one.found, name),
    )


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
