"""How effects settle with the number of tokens that they are measured on.

Effects are means over examples, so their noise falls as one over the root of the number of tokens. A score made of
them has its own noise and, where `locality` does not correct it, a bias. The cells of this experiment draw more and
more text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from skilloc.experiments.specs import settings_of

if TYPE_CHECKING:
    from skilloc.store import Labelled
    from skilloc.tasks import Subtask


@dataclass(frozen=True)
class TokenBudget:
    """The spec of one cell."""

    sequences: int = 64
    """examples per subtask; every number of tokens is `sequences * length`"""
    length: int = 96
    """tokens per example"""
    seed: int = 0
    """which examples are drawn"""
    model: str = "embedded"
    """any name that `open_model` knows"""
    sources: tuple[str, ...] = ("python", "cpp", "english")
    """where texts come from, one subtask each; all are drawn from the report split"""
    kinds: tuple[str, ...] = ("neuron",)
    """kinds of unit: neuron, head"""
    folds: int = 8
    """disjoint parts of the examples"""
    curvature: int = 8
    """label draws for the curvature of the attribution; 0 leaves it out"""
    device: str = "cpu"
    """where the model runs; cuda is the worker's own GPU"""

    def __post_init__(self) -> None:
        for name, least in (("sequences", 1), ("length", 1), ("folds", 3), ("curvature", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least {least}")
        if self.folds > self.sequences:
            raise ValueError(
                f"`folds` is {self.folds} but `sequences` is {self.sequences}; each fold needs a sequence of its own"
            )


def measure_budget(spec: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, Labelled]]":
    """Attribute a model's loss to its units on some text, and score how local that is.

    Args:
        spec: the fields of `TokenBudget`.

    Returns:
        Tokens per subtask; per subtask the loss in nats per token, the effective number of units, Gini and Hoyer scores
        with their intervals, and the reliability of the effects; and the effects on `fold subtask unit`, in nats.
    """
    # Late: `skilloc sweep list` reads this file, and must not wait for torch.
    from skilloc.attribution import attribution_effects
    from skilloc.experiment import Experiment
    from skilloc.locality import plain, reliability, scores
    from skilloc.models.language import digest
    from skilloc.store import Labelled

    settings = settings_of(TokenBudget, spec)
    model, subtasks = _prepared(settings.model, settings.device, settings.sources, settings.length)
    experiment = Experiment(
        model, subtasks, kinds=settings.kinds, folds=settings.folds, count=settings.sequences, seed=settings.seed
    )
    effects = attribution_effects(experiment, curvature=settings.curvature, seed=settings.seed)
    agreement = reliability(effects.values)
    # The spec names the model and the texts; these digests say what they were.
    metrics: dict[str, Any] = {
        "tokens": settings.sequences * settings.length,
        "model": digest(model),
        "units": len(effects.units),
        "subtasks": {},
    }
    for place, name in enumerate(effects.subtasks):
        found = scores(effects.values[:, place])
        metrics["subtasks"][name] = {
            "examples": experiment.examples[name].digest,
            "loss": effects.baseline[:, place].mean(),
            "reliability": agreement.value[place],
            # The score of the mean effects as they are, with the bias of their noise.
            "effective_number_plain": plain(effects.mean(name))["effective_number"],
            **{part: found[part].record() for part in ("effective_number", "gini", "hoyer", "mass")},
        }
    array = Labelled(effects.values, ("fold", "subtask", "unit"), {"subtask": effects.subtasks})
    return metrics, {"effects": array}


@lru_cache(maxsize=1)
def _prepared(name: str, device: str, sources: tuple[str, ...], length: int) -> "tuple[Any, Mapping[str, Subtask]]":
    """Open a model and read the texts, once per worker: that takes longer than most cells."""
    from skilloc.models.language import open_model
    from skilloc.study.draws import subtasks_of

    opened = open_model(name, device=device)
    return opened.model, subtasks_of(opened, {source: source for source in sources}, length=length)
