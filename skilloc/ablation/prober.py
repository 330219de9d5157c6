"""Losses without a unit, by the route of its bank (`routes`)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from skilloc.ablation.routes import CLOSED, THROUGH, WHOLE, WITHIN, Trunk
from skilloc.ablation.tail import tail_losses
from skilloc.experiment import Suffix, edits_of
from skilloc.experiment.suffix import EVERYTHING
from skilloc.masks import Mask
from skilloc.tasks import IGNORE
from skilloc.units import Bank, Units


class Prober:
    """Measures ablated losses; every thread has its own, over one shared trunk."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk, self.experiment = trunk, trunk.experiment
        self._suffix = Suffix(trunk.experiment.model) if trunk.residuals else None
        self._bases: dict[int, Tensor] = {}

    @torch.no_grad()
    def effects(self, hook: str, positions: list[int]) -> Float64[Tensor, "example unit"]:
        """Return, per example, the loss without each unit minus the loss with it.

        Both losses come from the same code path, so that its rounding cancels.
        """
        route, bank = self.trunk.routes[hook], self.experiment.units.bank(hook)
        if route == CLOSED:
            return self._closed(bank, positions)
        if route == WHOLE:
            columns = [torch.from_numpy(self.experiment.losses(self._without(bank, p))) for p in positions]
            return torch.stack(columns, dim=1) - self.trunk.base[:, None]
        if route in (WITHIN, THROUGH):
            start = EVERYTHING if route == THROUGH else bank.layer
            masks = [self._without(bank, p) for p in positions]
            columns = [torch.cat([self._edited(start, mask, block) for block in self._blocks]) for mask in masks]
            return torch.stack(columns, dim=1) - self._base(start)[:, None]
        activation = self._activation(bank)
        columns = [torch.cat([self._after(bank, p, block, activation) for block in self._blocks]) for p in positions]
        return torch.stack(columns, dim=1) - self._base(bank.layer + 1)[:, None]

    @property
    def _blocks(self) -> list[slice]:
        return self.experiment.blocks

    @staticmethod
    def _without(bank: Bank, position: int) -> Mask:
        keep = torch.ones(bank.width, dtype=torch.bool)
        keep[position] = False
        return Mask(Units((bank,)), keep.numpy())

    def _losses(self, block: slice, start: int, residual: Tensor | None, mask: Mask | None = None) -> Tensor:
        assert self._suffix is not None
        examples, known = self.experiment.part(block)
        rows = self.experiment.rows_of(block)
        edits = {} if mask is None else edits_of(mask, self.experiment.held, rows, self.experiment.where)
        return self.experiment.metric(self._suffix.logits(examples.inputs, start, residual, edits), examples, known)

    def _residual(self, start: int, block: slice) -> Tensor | None:
        return None if start == EVERYTHING else self.trunk.residuals[start][self.experiment.rows_of(block)]

    def _base(self, start: int) -> Tensor:
        if start not in self._bases:
            parts = [self._losses(block, start, self._residual(start, block)) for block in self._blocks]
            self._bases[start] = torch.cat(parts)
        return self._bases[start]

    def _edited(self, start: int, mask: Mask, block: slice) -> Tensor:
        return self._losses(block, start, self._residual(start, block), mask)

    def _activation(self, bank: Bank) -> Tensor:
        assert self._suffix is not None
        found = []
        for block in self._blocks:
            entering = self.trunk.residuals[bank.layer][self.experiment.rows_of(block)]
            examples, _ = self.experiment.part(block)
            found.append(self._suffix.activation(examples.inputs, bank.name, bank.layer, entering))
        return torch.cat(found)

    def _delta(self, bank: Bank, position: int, rows: slice, activation: Tensor) -> Tensor:
        """Return the change of a neuron's activation, on `row pos`."""
        held = self.experiment.held.of(bank.name, bank, position, rows).to(activation)
        delta = held - activation[rows][..., position]
        return delta if self.experiment.where is None else delta * self.experiment.where[rows]

    def _after(self, bank: Bank, position: int, block: slice, activation: Tensor) -> Tensor:
        rows = self.experiment.rows_of(block)
        delta = self._delta(bank, position, rows, activation)
        write = self.experiment.face.write(bank.name)[position]
        residual = torch.addcmul(self.trunk.residuals[bank.layer + 1][rows], delta[..., None], write)
        return self._losses(block, bank.layer + 1, residual)

    def _closed(self, bank: Bank, positions: list[int]) -> Tensor:
        tail, examples, loss = self.trunk.tail, self.experiment.folded.examples, self.experiment.metric
        assert tail is not None
        assert loss.targets is not None
        activation = self._activation(bank)
        delta = torch.stack([self._delta(bank, p, slice(None), activation) for p in positions], dim=-1).flatten(0, 1)
        wanted = loss.targets(examples)
        scored = wanted != IGNORE
        # The base goes along as one more unit, which is left where it is.
        delta = torch.cat([delta, torch.zeros_like(delta[:, :1])], dim=1)
        weights = self.experiment.face.write(bank.name)[positions]
        weights = torch.cat([weights, torch.zeros_like(weights[:1])])
        residual = self.trunk.residuals[-1].flatten(0, 1)
        found = tail_losses(tail, residual, wanted.where(scored, 0).flatten(), delta, weights).double()
        table = (found.view(*scored.shape, -1) * scored[..., None]).sum(dim=1) / scored.sum(dim=1, keepdim=True).clamp(
            min=1
        )
        table = examples.per_example(table) / examples.per_example(torch.ones_like(table))
        return table[:, :-1] - table[:, -1:]
