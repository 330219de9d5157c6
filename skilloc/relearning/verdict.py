"""The verdict about each model: the word of the rules, its number, and all of it in a sentence."""

from skilloc.relearning.brought import LIMITS, Limits
from skilloc.relearning.curves import Envelope, envelope
from skilloc.relearning.result import Relearning
from skilloc.relearning.rules import (
    APART,
    UNCLEAR,
    Verdict,
    damage,
    information_removed,
    plasticity_of,
    words_by_budget,
)
from skilloc.relearning.saying import sentence_of
from skilloc.relearning.settings import CONTROLS, UNSEEN


def verdict(found: Relearning, model: str, *, best: Envelope | None = None, limits: Limits = LIMITS) -> Verdict:
    """Return the verdict about one model, by the rules of `rules`."""
    best = best or envelope(found)
    removed, lacking = information_removed(found, best, model, limits), damage(found, model)
    plastic = plasticity_of(found, model)
    word = UNCLEAR if removed.why else words_by_budget(found, best, model, limits)[-1]
    if UNSEEN not in found.models:
        word = APART
    made = Verdict(model, word, removed, lacking, plastic, "")
    return made._replace(sentence=sentence_of(found, made))


def verdicts(found: Relearning) -> list[Verdict]:
    """Return a verdict about every model that is not a control."""
    best = envelope(found)
    return [verdict(found, name, best=best) for name in found.models if name not in CONTROLS]


def missing(found: Relearning) -> list[str]:
    """Return the controls that were not there."""
    return [name for name in CONTROLS if name not in found.models]
