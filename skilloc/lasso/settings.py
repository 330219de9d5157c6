"""Settings of a localization."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast, get_args

from torch import Tensor

from skilloc.lasso.penalties import Penalty
from skilloc.mistakes import WrongValue, positive, real, whole
from skilloc.tasks import Examples
from skilloc.tasks.losses import Loss, as_loss, cross_entropy
from skilloc.training import TrainConfig

Solver = Literal["proximal", "subgradient"]


@dataclass(frozen=True)
class LocalizeConfig:
    """Settings of a localization.

    Attributes:
        training: steps, rate, optimiser and so on. Weight decay is 0 unless set: it would be a second penalty.
        penalty: "lasso", "half", "hoyer" or "l1"; see `lasso.penalties`.
        solver: "proximal", which gives exact zeros; or "subgradient", the paper's: the penalty is added to the loss,
            and in the end, groups with at most the norm `threshold` are set to zero.
        loss: what the kept subtasks are trained on: a `Loss`, the name of one that is ready, or a function of (logits,
            examples). It must have a gradient. One that compares with the untouched model compares with the model that
            is localized.
        strength: lambda of the penalty, in the loss's unit; 0 for plain finetuning. Where it is steered, its first
            value.
        wanted_live: steer the strength to this number of live units: it rises until there are no more, and is then 0,
            so that what is left recovers. With proximal steps, the number is met exactly.
        wanted_loss: steer the strength to this loss: the mean over the kept subtasks on the selection split.
        threshold: without proximal steps, a group of at most this norm is dead.
        kinds: kinds of unit that are penalised: "neuron", "head" and "expert" together; "residual" or "layer" alone; or
            what a description declares.
        examples: training examples per subtask and step.
        held_out: examples of the selection split per subtask.

    Example:
        >>> import skilloc as sk
        >>> sk.LocalizeConfig(sk.TrainConfig(steps=400), strength=1e-3).penalty
        'lasso'
    """

    training: TrainConfig = field(default_factory=lambda: TrainConfig(steps=10_000))
    penalty: Penalty = "lasso"
    solver: Solver = "proximal"
    loss: Loss | str | Callable[[Tensor, Examples], Tensor] = cross_entropy
    strength: float = 1e-3
    wanted_live: int | None = None
    wanted_loss: float | None = None
    threshold: float = 0.05
    kinds: tuple[str, ...] = ("neuron",)
    examples: int = 250
    held_out: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", as_loss(self.loss))
        for name, allowed in (("penalty", get_args(Penalty)), ("solver", get_args(Solver))):
            if getattr(self, name) not in allowed:
                raise WrongValue(f'unknown `{name}` "{getattr(self, name)}"; use one of {", ".join(allowed)}')
        real("strength", self.strength, 0.0)
        positive("threshold", self.threshold)
        if self.wanted_live is not None:
            whole("wanted_live", self.wanted_live)
        if self.wanted_loss is not None:
            positive("wanted_loss", self.wanted_loss)
        whole("examples", self.examples)
        whole("held_out", self.held_out)
        steered = self.wanted_live is not None or self.wanted_loss is not None
        if steered and self.strength == 0:
            raise WrongValue(f"`strength` is {self.strength}; use a positive number, from which it can be steered")
        if self.wanted_live is not None and self.wanted_loss is not None:
            raise WrongValue("`wanted_live` and `wanted_loss` are both given, but there is one strength; give one")
        if self.training.groups or self.training.optimiser == "muon":
            raise WrongValue(
                "`training` has `groups`, or the optimiser muon, but a penalty has one strength for all weights; use "
                "adam, adamw or sgd for all"
            )

    @property
    def metric(self) -> Loss:
        """The loss, whatever it was given as."""
        return cast(Loss, self.loss)

    def record(self) -> dict[str, Any]:
        """Return a JSON form, without what is recorded by itself: the settings of training."""
        plain = asdict(replace(self, loss=cross_entropy))
        return {name: value for name, value in plain.items() if name != "training"} | {"loss": self.metric.record()}
