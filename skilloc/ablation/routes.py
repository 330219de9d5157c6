"""The ways to the exact losses of one bank's units, from the cheapest that is right for the model.

    closed    the last block's neurons under a negative log-likelihood: the closed form of `tail`
    after     other neurons: add delta (x) w to the residual after the block, run the blocks that follow
    within    heads, layers, and neurons whose block does more than add them: run from the block itself under an edit
    through   units of many places: run everything without the bridge's hook points
    whole     models whose blocks cannot be run alone: one forward pass of the model under hooks per unit

Every way but `whole` is checked against the model's own hooks before it is used: on a piece of every example, or, where
rows are padded, on some whole ones, by the change that ablating the most active unit makes. A way that fails gives way
to the next, and says so.
"""

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from skilloc.ablation.pieces import CHECK_TOKENS, Piece, first_tokens, seen_piece
from skilloc.ablation.tail import Tail, read_tail, tail_losses
from skilloc.experiment import Experiment, Suffix, UnknownLayoutError, edits_of
from skilloc.experiment.axes import by_unit
from skilloc.experiment.suffix import EVERYTHING
from skilloc.masks import Mask
from skilloc.models.points import hooks_of_users
from skilloc.tasks import IGNORE
from skilloc.units import NEURON, Bank, Units

CLOSED, AFTER, WITHIN, THROUGH, WHOLE = "closed", "after", "within", "through", "whole"

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""How far the change that a way computes may be from that of the model's own hooks, as a part of its largest entry."""

ROUNDING = 32
"""Changes below this many times the rounding of the largest logit are noise."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trunk:
    """What all ablations of one experiment share; safe to read from many threads.

    Attributes:
        experiment: the model, its examples, and what units are held at.
        residuals: the residual stream before each block and after the last, `row pos d_model`; empty where there is
            none.
        routes: how each bank is measured.
        tail: the closed form, where there is one.
        base: per-example losses of the untouched model.
    """

    experiment: Experiment
    residuals: list[Tensor]
    routes: dict[str, str]
    tail: Tail | None
    base: Float64[Tensor, " example"]

    def cost(self, hook: str) -> float:
        """Cost of a unit, in blocks run."""
        depth, layer = self.experiment.face.depth, self.experiment.units.bank(hook).layer
        costs = {CLOSED: 0.05, AFTER: depth - layer, WITHIN: depth - layer + 1, THROUGH: depth, WHOLE: depth + 1}
        return float(costs[self.routes[hook]])


@torch.no_grad()
def lay_trunk(experiment: Experiment) -> Trunk:
    """Run the model once, keep its residual stream, and choose a route for every bank."""
    base = torch.from_numpy(experiment.losses())
    every = dict.fromkeys(experiment.units.hooks, WHOLE)
    hooks = hooks_of_users(experiment.model)
    if not experiment.face.stream:
        return Trunk(experiment, [], every, None, base)
    try:
        if hooks:
            raise UnknownLayoutError(f"it has hooks of your own ({', '.join(hooks)}), which only its own pass honours")
        suffix = Suffix(experiment.model)
        runs = [suffix.run(experiment.part(block)[0].inputs) for block in experiment.blocks]
        residuals = [torch.cat([run[1][i] for run in runs]) for i in range(suffix.depth + 1)]
        piece = seen_piece(experiment)
        if not _same(piece.base, suffix.run(piece.inputs)[0], None):
            padded = experiment.folded.examples.mask is not None
            why = "padded examples need the mask that only its own pass makes"
            raise UnknownLayoutError(why if padded else "its modules alone compute something else than the bridge")
    except (UnknownLayoutError, RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        said = str(error).partition("\n")[0]
        _log.warning("each unit needs a whole forward pass of this model, since %s; this is slow", said)
        return Trunk(experiment, [], every, None, base)
    tail = _tail(experiment, suffix, residuals)
    trunk = Trunk(experiment, residuals, {}, tail, base)
    for bank in experiment.units.banks:
        trunk.routes[bank.name] = _route(trunk, suffix, bank, piece)
    slow = [hook for hook, route in trunk.routes.items() if route == WHOLE]
    if slow:
        _log.warning("each unit of %s needs a whole forward pass of this model; this is slow", ", ".join(slow))
    return trunk


def _tail(experiment: Experiment, suffix: Suffix, residuals: list[Tensor]) -> Tail | None:
    if experiment.metric.targets is None:
        return None
    tokens = max(2, CHECK_TOKENS // len(residuals[-1]))
    short, piece = residuals[-1][:, :tokens], first_tokens(experiment.folded.examples.inputs, tokens)
    return read_tail(suffix.final_norm, suffix.unembed, short, lambda r: suffix.logits(piece, suffix.depth, r))


def _same(a: Tensor, b: Tensor, base: Tensor | None) -> bool:
    """Whether two logits are equal: up to rounding, or, beside a base, up to a part of what has changed."""
    if a.shape != b.shape:
        return False
    a, b = a.double(), b.double()
    kind = torch.float32 if base is None else base.dtype
    size = float(b.abs().max())
    change = size if base is None else float((b - base.double()).abs().max())
    allowed = max(TOLERANCE[kind] * change, ROUNDING * torch.finfo(kind).eps * size)
    apart = (a - b).abs()
    return bool(apart.isnan().logical_or(apart <= allowed).all()) and bool((a.isnan() == b.isnan()).all())


def _route(trunk: Trunk, suffix: Suffix, bank: Bank, piece: Piece) -> str:
    """Ablate one unit of the bank by each way on a short piece, and take the cheapest that the model agrees with."""
    try:
        return _checked_route(trunk, suffix, bank, piece)
    except (UnknownLayoutError, RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        _log.warning("%s cannot be measured by the blocks alone, since %s", bank.name, str(error).partition("\n")[0])
        return WHOLE


def _checked_route(trunk: Trunk, suffix: Suffix, bank: Bank, piece: Piece) -> str:
    experiment, layer, inputs = trunk.experiment, bank.layer, piece.inputs
    strongest = piece.strongest[bank.name]

    def silence(value: Tensor) -> Tensor:
        edited = value.clone()
        by_unit(edited, bank)[..., strongest, :] = 0
        return edited

    silenced = dict.fromkeys(bank.places, silence)
    with experiment.face.attached(silenced):
        wanted = experiment.face.run(inputs)
    if len(bank.places) > 1:
        return THROUGH if _same(suffix.logits(inputs, EVERYTHING, None, silenced), wanted, piece.base) else WHOLE
    entering = piece.of(trunk.residuals[layer])
    if not _same(suffix.logits(inputs, layer, entering, silenced), wanted, piece.base):
        return WHOLE
    if bank.kind != NEURON or bank.axis != -1:
        return WITHIN
    activation = suffix.activation(inputs, bank.name, layer, entering)
    weights = experiment.face.write(bank.name)
    after = piece.of(trunk.residuals[layer + 1]) - activation[..., strongest, None] * weights[strongest]
    if not _same(suffix.logits(inputs, layer + 1, after), wanted, piece.base):
        return WITHIN
    return CLOSED if trunk.tail is not None and layer == suffix.depth - 1 else AFTER


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
