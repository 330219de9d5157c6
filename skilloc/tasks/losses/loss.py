"""What a loss is: data that says what its numbers are called, and gives one per example from the logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks.examples import Examples
from skilloc.tasks.losses.nll import nll_slopes, wide

HOME = "skilloc.losses."
"""What the identities of these losses begin with, in records that are read for good."""

Value = Callable[[Tensor, Examples, Tensor | None], Tensor]
"""From logits `row *pos out`, examples, and what the loss prepared, to one number per example in float64."""

Upstream = tuple[Float[Tensor, "row *pos out"], Float64[Tensor, " example"]]
"""The gradient, with respect to the logits, of the summed negative log-likelihood of labels that are drawn from the
model, and how many labels each example has."""


Draw = Callable[[torch.Generator], Upstream]
"""Draws labels from the model once more."""


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes:
        name: how tables and axes call it.
        unit: "nats", "logits" or "share", or what a user's loss is in.
        value: from logits, examples and what was prepared to one number per example, larger = worse, float64.
        per_position: the same per position, on `row pos`, NaN where there is none; None where the loss has no such
            thing.
        targets: where the loss is the mean negative log-likelihood of targets: these targets, on `row *pos`. Closed
            forms apply then.
        differentiable: whether gradients say anything.
        flat: whether the gradient at the untouched model is zero, as that of a divergence from it.
        drawn: where the loss is a negative log-likelihood: see `Upstream`. Gives the curvature of an attribution.
        chance: loss of a model that knows nothing, from the number of outputs and the examples; None if not known.
        prepare: what the loss must know of the untouched model, from its logits, on `row ...`; None for nothing.
        identity: what names the loss in records; None where nothing does, and then results can neither be resumed nor
            made by other processes.
    """

    name: str
    unit: str
    value: Value
    per_position: Value | None = None
    targets: Callable[[Examples], Tensor] | None = None
    differentiable: bool = True
    flat: bool = False
    drawn: Callable[[Tensor, Examples], Draw] | None = None
    chance: Callable[[int, Examples], float] | None = None
    prepare: Callable[[Tensor, Examples], Tensor] | None = None
    identity: str | None = None

    def __call__(
        self, logits: Float[Tensor, "row *pos out"], examples: Examples, prepared: Tensor | None = None
    ) -> Float64[Tensor, " example"]:
        """Return the loss of each example.

        Raises:
            ValueError: if the loss gives something else than one finite-sized number per example.
        """
        found = self.value(logits, examples, prepared)
        if not isinstance(found, Tensor) or found.shape != (len(examples),):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise WrongValue(
                f'`loss` "{self.name}" gave {shape} for {len(examples)} examples; return a tensor with one number per '
                "example, larger = worse"
            )
        return found.to(wide(found.device))

    def slopes(
        self, logits: Float[Tensor, "row *pos out"], examples: Examples, prepared: Tensor | None = None
    ) -> Float[Tensor, "row *pos out"]:
        """Return the gradient of each example's loss with respect to the logits.

        Raises:
            ValueError: if the loss has no gradient.
        """
        self.check_differentiable()
        if self.targets is not None:
            return nll_slopes(logits, examples, self.targets(examples))
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_(True)
            total = self(leaf, examples, prepared).sum()
            if not total.requires_grad:
                raise WrongValue(
                    f'`loss` "{self.name}" does not depend on the logits in a way that can be differentiated; measure '
                    "it by ablation, or write it with differentiable operations"
                )
            return torch.autograd.grad(total, leaf)[0]

    def check_differentiable(self) -> None:
        """Refuse a loss that no gradient can say anything about.

        Raises:
            ValueError: if so.
        """
        if not self.differentiable:
            raise WrongValue(
                f'`loss` is "{self.name}", which is a count and has no gradient to attribute by; measure it by '
                "ablation, or attribute a smooth loss such as cross_entropy"
            )

    @property
    def ends(self) -> bool:
        """Whether it is known to have a least value, 0: a negative log-likelihood, or a divergence."""
        return self.drawn is not None

    def record(self) -> dict[str, Any]:
        """Return what names the loss. JSON only."""
        return {"name": self.name, "unit": self.unit, "identity": self.identity}

    @property
    def ready(self) -> bool:
        """Whether it is one that comes with the package, whose name says all that it does."""
        from skilloc.tasks.losses import READY  # which is made of losses

        return READY.get(self.name) == self
