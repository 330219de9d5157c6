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
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from skilloc.ablation.cost import Sizes
from skilloc.ablation.pieces import CHECK_TOKENS, Piece, first_tokens, seen_piece
from skilloc.ablation.tail import Tail, read_tail
from skilloc.experiment import Experiment, Suffix, UnknownLayoutError
from skilloc.experiment.axes import by_unit
from skilloc.experiment.roomy import roomy
from skilloc.experiment.suffix import EVERYTHING, NOT_ALONE
from skilloc.models.losses import MAX_LOGITS
from skilloc.models.points import hooks_of_users
from skilloc.units import NEURON, Bank

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
        sizes: what the cost of a pass depends on.
        seconds: that the blocks and the unembedding took once, on all tokens.
    """

    experiment: Experiment
    residuals: list[Tensor]
    routes: dict[str, str]
    tail: Tail | None
    base: Float64[Tensor, " example"]
    sizes: Sizes
    seconds: float

    def cost(self, hook: str) -> float:
        """Cost of a unit, in operations."""
        depth, layer = self.sizes.depth, self.experiment.units.bank(hook).layer
        blocks = {AFTER: depth - 1 - layer, WITHIN: depth - layer, THROUGH: depth, WHOLE: depth}
        route = self.routes[hook]
        return self.sizes.closed() if route == CLOSED else self.sizes.flops(blocks[route])

    @property
    def pace(self) -> float:
        """Operations per second."""
        return self.sizes.flops(self.sizes.depth) / max(self.seconds, 1e-9)

    @property
    def memory(self) -> float:
        """Bytes that a process needs which measures."""
        return self.sizes.memory(
            self.experiment.entries or MAX_LOGITS, next(self.experiment.model.parameters()).element_size()
        )


@torch.no_grad()
def lay_trunk(experiment: Experiment, *, banks: Sequence[Bank] | None = None) -> Trunk:
    """Run the model once, keep its residual stream, and choose a route for some banks.

    Args:
        experiment: what is measured on what.
        banks: those whose units will be measured; all if not given; none where every item says its own route, which
            another process has found.
    """
    asked = experiment.units.banks if banks is None else banks
    began = _clock(experiment)
    base = torch.from_numpy(experiment.losses())
    every, seconds = dict.fromkeys(experiment.units.hooks, WHOLE), _clock(experiment) - began
    whole = Trunk(experiment, [], every, None, base, _sizes(experiment), seconds)
    hooks = hooks_of_users(experiment.model)
    if not experiment.face.stream:
        return whole
    try:
        if hooks:
            raise UnknownLayoutError(f"it has hooks of your own ({', '.join(hooks)}), which only its own pass honours")
        suffix = Suffix(experiment.model)
        began = _clock(experiment)
        residuals, outputs = _streamed(experiment, suffix)
        seconds = _clock(experiment) - began
        piece = seen_piece(experiment) if asked else None
        if piece is not None and not _same(piece.base, suffix.run(piece.inputs)[0], None):
            padded = experiment.folded.examples.mask is not None
            why = "padded examples need the mask that only its own pass makes"
            raise UnknownLayoutError(why if padded else "its modules alone compute something else than the bridge")
    except NOT_ALONE as error:
        said = str(error).partition("\n")[0]
        if asked:
            _log.warning("each unit needs a whole forward pass of this model, since %s; this is slow", said)
        return whole
    tail = _tail(experiment, suffix, residuals)
    sizes = _sizes(experiment, residuals[0].shape[-1], outputs)
    trunk = Trunk(experiment, residuals, {}, tail, base, sizes, seconds)
    if piece is not None:
        trunk.routes.update({bank.name: _route(trunk, suffix, bank, piece) for bank in asked})
    slow = [hook for hook, route in trunk.routes.items() if route == WHOLE]
    if slow:
        _log.warning("each unit of %s needs a whole forward pass of this model; this is slow", ", ".join(slow))
    return trunk


def _streamed(experiment: Experiment, suffix: Suffix) -> tuple[list[Tensor], int]:
    """Return the residual stream before each block and after the last, on all rows, and the number of outputs."""
    streams: dict[str, Tensor] = {}
    outputs, rows = 0, len(experiment.folded.examples.first)
    for block in experiment.blocks:
        logits, residuals = suffix.run(experiment.part(block)[0].inputs)
        named = {str(place): residual for place, residual in enumerate(residuals)}
        if not streams:
            outputs = logits.shape[-1]
            streams = roomy({place: (rows, *residual.shape[1:]) for place, residual in named.items()}, named)
        del logits  # of all blocks together, they would be the largest thing there is
        for place, residual in named.items():
            streams[place][experiment.rows_of(block)] = residual
    return list(streams.values()), outputs


def _sizes(experiment: Experiment, d_model: int = 0, outputs: int = 0) -> Sizes:
    """Return what the cost of a pass depends on; of a model without blocks, all weights are one."""
    examples, depth = experiment.folded.examples, experiment.face.depth
    shapes = [tuple(parameter.shape) for parameter in experiment.model.parameters()]
    total = sum(math.prod(shape) for shape in shapes)
    embeddings = sum(math.prod(shape) for shape in shapes if shape in ((outputs, d_model), (d_model, outputs)))
    tokens = len(examples.targets) * examples.positions
    return Sizes(depth, (total - embeddings) / depth, d_model, outputs, tokens, examples.positions, float(embeddings))


def _clock(experiment: Experiment) -> float:
    """Return the seconds that this thread has worked, or, where a device works for it, those of the clock."""
    return time.thread_time() if experiment.device.type == "cpu" else time.perf_counter()


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
    except NOT_ALONE as error:
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
