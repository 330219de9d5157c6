"""What the attack measured: losses of every model, under every setting, at every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from skilloc import store
from skilloc.mistakes import WrongValue
from skilloc.training.history import NATS

AXES = ("models", "ways", "sizes", "rates", "steps", "subtasks")


@dataclass(frozen=True)
class Relearning:
    """Losses under attack; NaN where a rate made training diverge, a way makes no sense for a model, or trains nothing.

    Attributes:
        selection: of the reported subtask, on the selection split: rates and budgets are chosen here.
        report: the same on the report split, by fold: numbers are stated here.
        kept: of the kept subtasks, on the report split.
        repair: of the kept subtasks, on the report split, before and after the repair.
        repair_steps: number of steps that the repair took.
        learned: what a model, and a fresh one of its shape, learned of a task that nobody has seen: skill on the report
            split; NaN where that was not tried. See `plasticity`.
        models: names on the model axis.
        ways: names of what was tried.
        sizes: numbers of training examples; None = fresh ones at every step.
        rates: learning rates.
        steps: numbers of attack steps, from 0.
        subtasks: names of the kept subtasks.
        chance: loss of a model that knows nothing (for cross-entropy, log of the number of classes), on the reported
            subtask.
        made: what made it. JSON only.
        unit: of all losses.
        chances: the same as `chance` on each kept subtask; that of the reported one where not given.
    """

    WHAT: ClassVar[str] = "relearning"
    LABELS: ClassVar[Mapping[str, str]] = {"stage": "STAGES", "learner": "LEARNERS"}
    STAGES: ClassVar[tuple[str, ...]] = ("before", "after")
    LEARNERS: ClassVar[tuple[str, ...]] = ("itself", "fresh")

    selection: Float[np.ndarray, "model way size rate step seed"]
    report: Float[np.ndarray, "model way size rate step seed fold"]
    kept: Float[np.ndarray, "model way size rate step seed subtask"]
    repair: Float[np.ndarray, "model stage seed subtask"]
    repair_steps: Float[np.ndarray, "model seed"]
    learned: Float[np.ndarray, "model learner seed fold"]
    models: tuple[str, ...]
    ways: tuple[str, ...]
    sizes: tuple[int | None, ...]
    rates: tuple[float, ...]
    steps: tuple[int, ...]
    subtasks: tuple[str, ...]
    chance: float
    made: Mapping[str, Any] = field(default_factory=dict)
    unit: str = NATS
    chances: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.chances:
            object.__setattr__(self, "chances", (self.chance,) * len(self.subtasks))

    def place(self, model: str) -> int:
        """Return the position of a model.

        Raises:
            ValueError: if there is no such model.
        """
        if model not in self.models:
            raise WrongValue(f'unknown model "{model}"; attacked were {", ".join(self.models)}')
        return self.models.index(model)


DIMS = store.axes_of(Relearning)


def over_seeds(parts: Sequence[Relearning]) -> Relearning:
    """Join the same question asked with different seeds.

    Raises:
        ValueError: if there is nothing to join, or the parts differ in more than their seeds.
    """
    if not parts:
        raise WrongValue("`parts` is empty; pass at least one result")
    first = parts[0]
    for part in parts:
        for name in (*AXES, "unit", "chance", "chances"):
            if getattr(part, name) != getattr(first, name):
                raise WrongValue(
                    f"`parts` differ in their {name}, {getattr(part, name)} and {getattr(first, name)}; join results "
                    "of the same models under the same attack"
                )
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=dims.index("seed"))
        for name, dims in DIMS.items()
    }
    seeds = [seed for part in parts for seed in part.made.get("seeds", [])]
    digests = {
        name: [digest for part in parts for digest in part.made.get("digests", {}).get(name, ())]
        for name in first.made.get("digests", {})
    }
    return replace(first, **joined, made={**first.made, "seeds": seeds, "digests": digests})
