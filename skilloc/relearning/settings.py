"""Settings of the attack, and what may be attacked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from torch import Tensor, nn

from skilloc.mistakes import WrongValue, positive, whole
from skilloc.relearning.ways import WAYS, Way
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.losses import Loss, as_loss, cross_entropy
from skilloc.training.settings import check_loss

Model = nn.Module | Sequence[nn.Module]
"""A model, or one per seed: another draw of a random control, or a network that was trained with that seed."""

ORIGINAL, NEVER, UNSEEN = "original", "never trained", "never saw"
RANDOM, PLAIN = "random mask", "plain finetuning"

CONTROLS: Mapping[str, str] = {
    ORIGINAL: "the network before anything was done to it",
    RANDOM: "the original without as many units on every hook, chosen at random",
    NEVER: "a network of the pruned one's shape with fresh initial values",
    UNSEEN: "a network that was trained on everything but the subtask",
    PLAIN: "the original after finetuning for as long as localizing took, without the penalty",
}
"""Names of models that are controls; every other model is a candidate, and gets a verdict."""


@dataclass(frozen=True)
class Grid:
    """Settings of the attack. Every combination of way, rate, size and seed is one run; budgets are read off it.

    Attributes:
        rates: learning rates of Adam, rising; the attacker's best is chosen per model, size and budget.
        budgets: numbers of steps, rising.
        sizes: numbers of different training examples per attacked subtask; None = fresh ones at every step.
        examples: examples per attacked subtask and step.
        held_out: examples per subtask, on the selection split and again on the report split.
        folds: disjoint parts of the report examples.
        repair: steps of training on the kept subtasks before the attack, at most.
        repair_rate: the rate of these.
        loss: what is trained on and measured: a `Loss`, the name of one that is ready, or a function of (logits,
            examples). It must have a gradient and a known chance.
        ways: all that is tried; the best counts. `PLAIN_WAYS` is gradient descent alone.
        wider: how often the rates are widened, by a factor of 3 at an end, while the best rate lies there.
    """

    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    budgets: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    sizes: tuple[int | None, ...] = (None,)
    examples: int = 64
    held_out: int = 512
    folds: int = 8
    repair: int = 256
    repair_rate: float = 1e-3
    loss: Loss | str | Callable[[Tensor, Examples], Tensor] = cross_entropy
    ways: tuple[Way, ...] = WAYS
    wider: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", as_loss(self.loss))
        for name in ("rates", "budgets"):
            values = getattr(self, name)
            for value in values:
                positive(name, value) if name == "rates" else whole(name, value)
            if not values or list(values) != sorted(set(values)):
                raise WrongValue(f"`{name}` is {values}; use at least one, all positive, rising")
        numbers = [1 if size is None else size for size in self.sizes]
        for number in numbers:
            whole("sizes", number)
        if not numbers or len(set(self.sizes)) < len(numbers):
            raise WrongValue(f"`sizes` is {self.sizes}; use different numbers from 1 up, or None for fresh examples")
        for name, least in (("examples", 1), ("folds", 2), ("held_out", self.folds), ("repair", 0), ("wider", 0)):
            whole(name, getattr(self, name), least)
        if not self.ways or len({way.name for way in self.ways}) < len(self.ways):
            raise WrongValue(
                f"`ways` has {len(self.ways)}; use at least one, such as PLAIN_WAYS, each with its own name"
            )
        positive("repair_rate", self.repair_rate)

    @property
    def steps(self) -> tuple[int, ...]:
        """Where the losses are measured: before the attack, and after every budget."""
        return (0, *self.budgets)

    @property
    def metric(self) -> Loss:
        """The loss, whatever it was given as."""
        return cast(Loss, self.loss)

    def record(self) -> dict[str, Any]:
        """Return a JSON form."""
        plain = asdict(replace(self, loss=cross_entropy, ways=WAYS[:1]))
        return {**plain, "ways": [way.name for way in self.ways], "loss": self.metric.record()}


def attack_kind(attack: Sequence[Subtask], report: Subtask, kept: Sequence[Subtask]) -> str:
    """Return what an attack trains on, in words."""
    names, held = {subtask.name for subtask in attack}, {subtask.name for subtask in kept}
    if names == {report.name}:
        return "the subtask itself"
    if names <= held:
        return "kept data only"
    return "the subtask among others" if report.name in names else "related data"


def check_attack(grid: Grid, *, kept: bool) -> None:
    """Refuse a loss that an attack cannot be measured in.

    Args:
        grid: the settings.
        kept: whether runs are kept on disk, for a later call.

    Raises:
        ValueError: if the loss has no gradient, is measured from a model, has no known chance, or runs are to be kept
            under a name that it has not.
    """
    loss = grid.metric
    check_loss(loss, kept=kept)
    if loss.prepare is not None:
        raise WrongValue(
            f'`loss` is "{loss.name}", which compares with a model as it was, and the models under attack have not one '
            "such in common; use a loss of logits and examples, such as cross_entropy"
        )
    if loss.chance is None:
        raise WrongValue(
            f'`loss` is "{loss.name}", of which a model that knows nothing has an unknown value, so that nothing can '
            "be said to be back; pass custom(function, chance=...)"
        )


def check_models(models: Mapping[str, Model], seeds: Sequence[int]) -> None:
    """Refuse models that cannot be compared.

    Raises:
        ValueError: if the original, a network that never learned the subtask, or a candidate is missing, or the number
            of models of one name is not that of seeds.
    """
    if ORIGINAL not in models or not {NEVER, UNSEEN} & set(models):
        raise WrongValue(
            f'`models` are {", ".join(models)}; "{ORIGINAL}" must be there, and "{NEVER}" or "{UNSEEN}": build them '
            "with `relearn_controls(original, pruned, seeds=...)`"
        )
    if not set(models) - set(CONTROLS):
        raise WrongValue("`models` are all controls; add the model that the question is about, under another name")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise WrongValue(f"`seeds` is {tuple(seeds)}; use different numbers of at least 0, 3 or more for intervals")
    for name, model in models.items():
        if not isinstance(model, nn.Module) and len(model) != len(seeds):
            raise WrongValue(f'`models` has {len(model)} of "{name}" for {len(seeds)} seeds; pass one, or one per seed')
