"""A verdict in words, with what the probe gets right on models whose truth is known beside it."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skilloc.locality.intervals import Interval, proportion_interval
from skilloc.relearning.brought import SLOW, reference_of
from skilloc.relearning.result import Relearning
from skilloc.relearning.rules import APART, BROKEN, DAMAGED, KEPT, PARTLY, REMOVED, UNCLEAR, Verdict
from skilloc.relearning.settings import UNSEEN

RECORD = Path(__file__).parent / "self_test.json"
"""What the self-test found, and the command that made it."""


class HitRate(NamedTuple):
    """How often a word was right in the self-test.

    Attributes:
        right: models called so that were so.
        called: models called so.
        share: right / called with Wilson's interval.
        command: what measures it again.
    """

    right: int
    called: int
    share: Interval
    command: str


def hit_rate(word: str) -> HitRate | None:
    """Return how often a word was right in the self-test that is kept in the package; None if it was never said."""
    kept = _kept()
    right, called = kept.get("right", {}).get(word, 0), kept.get("called", {}).get(word, 0)
    if not called:
        return None
    return HitRate(right, called, proportion_interval(right, called), kept["command"])


@cache
def _kept() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def sentence_of(found: Relearning, verdict: Verdict) -> str:
    """Return a verdict in words."""
    parts = [_number(found, verdict)]
    if found.subtasks and verdict.damage.value > DAMAGED and not _unsure_of_damage(verdict):
        parts.append(f"It is damaged: {_missing(verdict)}.")
    if verdict.word in (BROKEN, REMOVED, PARTLY):
        parts.append(_learning(verdict))
    if verdict.word in (REMOVED, PARTLY) and len(set(found.made.get("digests", {}).get(UNSEEN, ()))) == 1:
        parts.append(f"One {UNSEEN} network was attacked: how much such trainings differ is not in the interval.")
    if verdict.word == APART:
        parts.append(
            "Not comparable, since no network that never saw the subtask was attacked beside it, and what any trained "
            "network learns faster than random weights would count as left over; train one of the model's shape on all "
            'other subtasks and give it as "never saw" (never_saw_like makes one of a small network)'
            "."
        )
    # No model is undecidable in truth, so that this word cannot be right.
    if verdict.word != UNCLEAR and (rate := hit_rate(verdict.word)) is not None:
        ends = f"[{rate.share.low:.2f}, {rate.share.high:.2f}]"
        parts.append(
            f"In the self-test, {rate.right} of {rate.called} models called {verdict.word} were so "
            f"({rate.share.value:.2f} {ends})."
        )
    return " ".join(part for part in parts if part)


def _number(found: Relearning, verdict: Verdict) -> str:
    removed, model = verdict.removed, verdict.model
    if removed.why:
        # What cannot be told is no reason for "not comparable", which has one of its own.
        word = UNCLEAR if verdict.word == APART else verdict.word
        return f"{model}: {word}, since {removed.why}."
    share, steps, last = removed.share, found.steps[removed.step], found.steps[removed.last]
    report, never = found.made.get("report", "the subtask"), reference_of(found)
    plural = "" if last == 1 else "s"
    most = "at least" if verdict.word == KEPT else "at most"
    said = (
        f"{model}: {verdict.word}. With up to {last} step{plural}, the attack brings back {most} {1 - share.value:.0%} "
        f"[{1 - share.high:.0%}, {1 - share.low:.0%}] (after {steps}) of what the original is ahead of the {never} "
        f"network on {report}."
    )
    if verdict.word == UNCLEAR:
        said += f" {_doubt(verdict)}; use more seeds."
    return said


def _doubt(verdict: Verdict) -> str:
    if _unsure_of_damage(verdict):
        return f"Whether it is damaged is within noise: {_missing(verdict)}"
    if verdict.plasticity.low < SLOW <= verdict.plasticity.high:
        ends = f"[{verdict.plasticity.low:.0%}, {verdict.plasticity.high:.0%}]"
        return f"Whether it can learn anything new is within noise: {ends} of what a fresh network of its shape does"
    return "That is too wide an interval to tell more"


def _unsure_of_damage(verdict: Verdict) -> bool:
    return bool(verdict.damage.low <= DAMAGED < verdict.damage.high)


def _missing(verdict: Verdict) -> str:
    damage = verdict.damage
    ends = f" [{damage.low:.0%}, {damage.high:.0%}]" if np.isfinite([damage.low, damage.high]).all() else ""
    return f"after repair, {damage.value:.0%}{ends} of a kept skill is missing"


def _learning(verdict: Verdict) -> str:
    plastic = verdict.plasticity
    if np.isnan(plastic.value):
        return "Whether it can still learn something new was not measured, or nothing of its shape learns it."
    said = f"Of a task that nobody has seen it learns {plastic.value:.0%} [{plastic.low:.0%}, {plastic.high:.0%}] of "
    said += "what a fresh network of its shape does"
    return said + (
        ": it cannot learn, so that nothing is said by what it does not learn." if plastic.high < SLOW else "."
    )
