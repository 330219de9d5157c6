"""The ways to the exact losses of one hook's units, from the cheapest that is right for the model.

    closed    the last block's neurons: the closed form of `tail`
    after     other neurons: add delta (x) w to the residual after the block, run the blocks that follow
    within    heads, and neurons whose block does more than add them: run from the block itself with the hook edited
    whole     models whose blocks cannot be run alone: one forward pass of the bridge per unit

`after` and `within` are checked against the bridge's own hooks, on a short piece of the batch, before they are used.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from skilloc.ablation.tail import Tail, read_tail, tail_losses
from skilloc.intervene import (
    Edit,
    Folded,
    Reference,
    Suffix,
    UnknownLayoutError,
    attached,
    blocks_of_rows,
    example_losses,
    logits_of,
    widest,
)
from skilloc.models.weights import output_weight
from skilloc.tasks import IGNORE
from skilloc.units import Units, kind_of, layer_of

CHECK_TOKENS = 16
TOLERANCE = 1e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trunk:
    """What all ablations of one model on one batch share; safe to read from many threads.

    Attributes:
        model: the bridge.
        folded: the examples.
        reference: what units are held at.
        residuals: the residual stream before each block and after the last, `example pos d_model`; empty for `whole`.
        sizes: how many entries of the projection's input a unit has: 1 for a neuron, d_head for a head.
        routes: how each hook is measured.
        tail: the closed form, where there is one.
        base: per-example losses of the untouched model, in nats.
    """

    model: Any
    folded: Folded
    reference: Reference
    residuals: list[Tensor]
    sizes: dict[str, int]
    routes: dict[str, str]
    tail: Tail | None
    base: Float64[Tensor, "example"]

    def cost(self, hook: str) -> float:
        """Cost of a unit, in blocks run."""
        layer = layer_of(hook)
        depth = len(self.residuals) - 1 if self.residuals else 1 + max(map(layer_of, self.routes))
        costs = {"closed": 0.05, "after": depth - layer, "within": depth - layer + 1, "whole": depth + 1}
        return float(costs[self.routes[hook]])


@torch.no_grad()
def lay_trunk(model: Any, folded: Folded, units: Units, reference: Reference) -> Trunk:
    """Run the model once, keep its residual stream, and choose a route for every hook."""
    batch = folded.batch
    rows = blocks_of_rows(batch, widest(model))
    try:
        suffix = Suffix(model)
        runs = [suffix.run(batch.inputs[part]) for part in rows]
        if not _same(_bridge_logits(model, batch.inputs[:1]), suffix.run(batch.inputs[:1])[0]):
            raise UnknownLayoutError("its modules alone compute something else than the bridge")
    except UnknownLayoutError as error:
        _log.warning("each unit needs a whole forward pass of this model, since %s; this is slow", error)
        base = torch.cat([example_losses(_bridge_logits(model, batch.inputs[p]), batch.targets[p]) for p in rows])
        return Trunk(model, folded, reference, [], {}, dict.fromkeys(units.hooks, "whole"), None, base)
    residuals = [torch.cat([run[1][i] for run in runs]) for i in range(suffix.depth + 1)]
    base = torch.cat([example_losses(run[0], batch.targets[p]) for run, p in zip(runs, rows, strict=True)])
    short = residuals[-1][:1, :CHECK_TOKENS]
    piece = batch.inputs[:1, :CHECK_TOKENS]
    tail = read_tail(suffix.final_norm, suffix.unembed, short, lambda r: suffix.logits(piece, suffix.depth, r))
    trunk = Trunk(model, folded, reference, residuals, {}, {}, tail, base)
    for hook, width in zip(units.hooks, units.widths, strict=True):
        trunk.sizes[hook] = len(output_weight(model, hook)) // width
        trunk.routes[hook] = _route(trunk, suffix, hook)
    return trunk


def _bridge_logits(model: Any, inputs: Tensor) -> Tensor:
    return logits_of(model(inputs))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def _route(trunk: Trunk, suffix: Suffix, hook: str) -> str:
    """Ablate one unit of the hook by each way on a short piece, and take the cheapest that the bridge agrees with."""
    layer = layer_of(hook)
    inputs = trunk.folded.batch.inputs[:1, :CHECK_TOKENS]
    entering = trunk.residuals[layer][:1, :CHECK_TOKENS]
    activation = suffix.activation(inputs, hook, layer, entering)
    # The unit that is most active shows a wrong route best.
    strongest = int(activation.abs().amax(dim=(0, 1)).argmax())

    def silence(value: Tensor) -> Tensor:
        edited = value.clone()
        edited.flatten(2)[..., strongest] = 0
        return edited

    with attached(trunk.model, {hook: silence}):
        wanted = _bridge_logits(trunk.model, inputs)
    if not _same(suffix.logits(inputs, layer, entering, (hook, silence)), wanted):
        return "whole"
    if kind_of(hook) == "head":
        return "within"
    weights = output_weight(trunk.model, hook)
    after = trunk.residuals[layer + 1][:1, :CHECK_TOKENS] - activation[..., strongest, None] * weights[strongest]
    if not _same(suffix.logits(inputs, layer + 1, after), wanted):
        return "within"
    return "closed" if trunk.tail is not None and layer == suffix.depth - 1 else "after"


class Prober:
    """Measures ablated losses; every thread has its own, over one shared trunk."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk
        self._suffix = Suffix(trunk.model) if trunk.residuals else None
        self._rows = blocks_of_rows(trunk.folded.batch, widest(trunk.model))
        self._bases: dict[int, Tensor] = {}

    @torch.no_grad()
    def effects(self, hook: str, positions: list[int]) -> Float64[Tensor, "example unit"]:
        """Return, per example, the loss without each unit minus the loss with it, in nats.

        Both losses come from the same code path, so that its rounding cancels.
        """
        route = self.trunk.routes[hook]
        if route == "closed":
            return self._closed(hook, positions)
        if route == "whole":
            columns = [torch.cat([self._whole(hook, p, rows) for rows in self._rows]) for p in positions]
            return torch.stack(columns, dim=1) - self.trunk.base[:, None]
        if route == "within":
            columns = [torch.cat([self._within(hook, p, rows) for rows in self._rows]) for p in positions]
            return torch.stack(columns, dim=1) - self._base(layer_of(hook))[:, None]
        activation = self._activation(hook)
        columns = [torch.cat([self._after(hook, p, rows, activation) for rows in self._rows]) for p in positions]
        return torch.stack(columns, dim=1) - self._base(layer_of(hook) + 1)[:, None]

    def _losses(self, rows: slice, start: int, residual: Tensor, edit: Edit | None = None) -> Tensor:
        assert self._suffix is not None
        batch = self.trunk.folded.batch
        return example_losses(self._suffix.logits(batch.inputs[rows], start, residual, edit), batch.targets[rows])

    def _base(self, start: int) -> Tensor:
        if start not in self._bases:
            parts = [self._losses(rows, start, self.trunk.residuals[start][rows]) for rows in self._rows]
            self._bases[start] = torch.cat(parts)
        return self._bases[start]

    def _activation(self, hook: str) -> Tensor:
        assert self._suffix is not None
        layer, inputs = layer_of(hook), self.trunk.folded.batch.inputs
        entering = self.trunk.residuals[layer]
        return torch.cat([self._suffix.activation(inputs[r], hook, layer, entering[r]) for r in self._rows])

    def _after(self, hook: str, position: int, rows: slice, activation: Tensor) -> Tensor:
        layer = layer_of(hook)
        delta = self.trunk.reference.of(hook, position, rows) - activation[rows, :, position]
        write = output_weight(self.trunk.model, hook)[position]
        return self._losses(
            rows, layer + 1, torch.addcmul(self.trunk.residuals[layer + 1][rows], delta[..., None], write)
        )

    def _within(self, hook: str, position: int, rows: slice) -> Tensor:
        held = self.trunk.reference.of(hook, position, rows)
        held = held if kind_of(hook) == "head" else held[..., None]
        size = self.trunk.sizes[hook]

        def edit(value: Tensor) -> Tensor:
            edited = value.clone()
            edited[..., position * size : (position + 1) * size] = held
            return edited

        return self._losses(rows, layer_of(hook), self.trunk.residuals[layer_of(hook)][rows], (hook, edit))

    def _whole(self, hook: str, position: int, rows: slice) -> Tensor:
        held = self.trunk.reference.of(hook, position, rows)

        def edit(value: Tensor) -> Tensor:
            edited = value.clone()
            edited[:, :, position] = held
            return edited

        batch = self.trunk.folded.batch
        with attached(self.trunk.model, {hook: edit}):
            return example_losses(_bridge_logits(self.trunk.model, batch.inputs[rows]), batch.targets[rows])

    def _closed(self, hook: str, positions: list[int]) -> Tensor:
        tail, batch = self.trunk.tail, self.trunk.folded.batch
        assert tail is not None
        activation = self._activation(hook)[..., positions]
        held = [self.trunk.reference.of(hook, p, slice(None)).expand(activation.shape[:2]) for p in positions]
        delta = (torch.stack(held, dim=-1) - activation).flatten(0, 1)
        scored = batch.targets != IGNORE
        targets = batch.targets.where(scored, 0).flatten()
        # The base goes along as one more unit, which is left where it is.
        delta = torch.cat([delta, torch.zeros_like(delta[:, :1])], dim=1)
        weights = output_weight(self.trunk.model, hook)[positions]
        weights = torch.cat([weights, torch.zeros_like(weights[:1])])
        losses = tail_losses(tail, self.trunk.residuals[-1].flatten(0, 1), targets, delta, weights).double()
        losses = (losses.view(*scored.shape, -1) * scored[..., None]).sum(dim=1) / scored.sum(dim=1, keepdim=True)
        return losses[:, :-1] - losses[:, -1:]
