"""One pass of some examples through the model, to go back through: delta x gradient, per unit."""

import torch
from torch import Tensor

from skilloc.experiment import Experiment
from skilloc.experiment.axes import at_positions, per_unit
from skilloc.models.face import Edit
from skilloc.tasks.losses.nll import wide
from skilloc.units import Bank

PerUnit = dict[str, Tensor]
"""Per bank: values on `row *pos unit`, or summed over positions."""


class Pass:
    """A forward pass of some examples that can be gone back through several times.

    The activations of the banks are moved by `shift` times delta first.
    """

    def __init__(
        self, experiment: Experiment, block: slice, banks: list[Bank] | None = None, *, shift: float = 0.0
    ) -> None:
        self.experiment = experiment
        self.examples, self._known = experiment.part(block)
        self.banks = list(experiment.units.banks) if banks is None else banks
        self._rows, self._shift = experiment.rows_of(block), shift
        # Made now: making them runs the model, which must not happen in the middle of a pass.
        self._held, self._where = experiment.held, experiment.where
        self._deltas: dict[str, Tensor] = {}
        self._leaves: dict[str, Tensor] = {}
        edits = {hook: self._opener(hook) for bank in self.banks for hook in bank.writes}
        with torch.enable_grad(), experiment.face.attached(edits):
            self.logits = experiment.face.run(self.examples.inputs)
        with torch.no_grad():
            self.losses = experiment.metric(self.logits.detach(), self.examples, self._known)

    def _opener(self, hook: str) -> Edit:
        def opened(value: Tensor) -> Tensor:
            delta = self._held.on(hook, self._rows).to(value) - value
            if self._where is not None:
                delta = delta * at_positions(self._where[self._rows], value)
            # A leaf of zeros added here receives the activation's gradient, whether or not the weights require one.
            self._deltas[hook], self._leaves[hook] = delta.detach(), torch.zeros_like(value, requires_grad=True)
            # What comes from earlier places of the same bank has moved too, and only 1 - shift of it goes on.
            moved = torch.add(value, delta, alpha=self._shift) if self._shift else value
            return moved + self._leaves[hook]

        return opened

    @property
    def activations(self) -> int:
        """How many numbers the units' activations are."""
        return sum(delta.numel() for delta in self._deltas.values())

    def slopes(self, *, keep: bool = False) -> PerUnit:
        """Return delta . gradient of the example's loss, per bank on `row *pos unit`."""
        return self.back(self.experiment.metric.slopes(self.logits.detach(), self.examples, self._known), keep=keep)

    def back(self, upstream: Tensor, *, keep: bool) -> PerUnit:
        """Return delta . gradient, per bank on `row *pos unit`, of what has this gradient with respect to the
        logits."""
        hooks = list(self._leaves)
        inputs = [self._leaves[hook] for hook in hooks]
        found = torch.autograd.grad(self.logits, inputs, upstream.to(self.logits), retain_graph=keep, allow_unused=True)
        products = {
            hook: self._deltas[hook].to(wide(leaf.device)) * (torch.zeros_like(leaf) if gradient is None else gradient)
            for hook, leaf, gradient in zip(hooks, inputs, found, strict=True)
        }
        return {
            bank.name: torch.stack([per_unit(products[hook], bank) for hook in bank.writes]).sum(dim=0)
            for bank in self.banks
        }
