"""Runs of a circuit with some of its edges that begin at each target's own block.

Where all heads and neurons of a model are units, and all but those of the circuit are at their reference, what enters
block L is linear in what the circuit's units are:

    stream[L] = reference stream[L] + wire[inputs, B] (tokens - reference[inputs])
                                    + sum over units A before block L of wire[A, B] (A[wires] - reference[A]) W_A

with W_A what A writes by. So a unit costs its own block, and the outputs cost the unembedding. Whether a model's parts
simply add up so is tried, not believed: the first examples also go the long way (`wires`).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from skilloc.circuits.blocks import at_reference
from skilloc.circuits.nodes import Node
from skilloc.experiment import Experiment, Reference, Suffix
from skilloc.experiment.suffix import NOT_ALONE
from skilloc.models.points import hooks_of_users
from skilloc.units import HEAD, KINDS, NEURON

_log = logging.getLogger(__name__)
CLOSE = 1e-4
"""Parts add up where the two ways differ by at most this share of the largest change of a logit."""


class Streams(NamedTuple):
    """Of some examples, the stream with every unit and the inputs at their reference.

    Attributes:
        before: each block, and after the last.
        tokens: what the tokens become, minus the inputs' reference.
    """

    before: list[Float[Tensor, "row pos d_model"]]
    tokens: Float[Tensor, "row pos d_model"]


@dataclass(frozen=True)
class Streamed:
    """A model that can be run from any block.

    Attributes:
        experiment: what is run on what.
        ends: what inputs are held at.
        suffix: the blocks.
        known: the streams of examples that were run before, by first example and end.
    """

    experiment: Experiment
    ends: Reference
    suffix: Suffix
    known: dict[tuple[int, int], Streams] = field(default_factory=dict)

    def streams(self, part: slice) -> Streams:
        """Return the stream at the reference, on some examples."""
        key = (part.start, part.stop)
        if key not in self.known:
            own = self.experiment
            some, rows = own.part(part)[0], own.rows_of(part)
            with torch.no_grad():
                tokens = self.suffix.run(some.inputs)[1][0]
                assert own.face.entry is not None
                entering = self.ends.on(own.face.entry, rows).to(tokens).expand_as(tokens)
                edits = {bank.name: at_reference(own.held.on(bank.name, rows)) for bank in own.units.banks}
                before = self.suffix.run(some.inputs, entering, edits)[1]
            self.known[key] = Streams(before, tokens - entering)
        return self.known[key]

    def entering(
        self, part: slice, layer: int, sources: Mapping[Node, tuple[Tensor, Tensor]], opened: Tensor
    ) -> Float[Tensor, "row pos d_model"]:
        """Return what enters a block, or the final norm.

        Args:
            part: the examples.
            layer: index of the block; their number for the final norm.
            sources: of each unit before it, its wire, and its activation minus its reference.
            opened: the wire from the inputs.
        """
        streams = self.streams(part)
        found = streams.before[layer] + opened.to(streams.tokens) * streams.tokens
        for hook in dict.fromkeys(node.hook for node in sources):
            own = {node: source for node, source in sources.items() if node.hook == hook}
            wires = torch.stack([wire for wire, _ in own.values()]).to(found)
            moved = torch.stack([moved for _, moved in own.values()], dim=2)  # row pos unit, d_unit of heads
            d_unit = 1 if moved.ndim == 3 else moved.shape[-1]
            weight = self.experiment.face.write(hook).detach()
            weight = torch.cat([weight[d_unit * node.position : d_unit * (node.position + 1)] for node in own])
            # The wires act on the weights, which are smaller than the activations.
            found = found + moved.flatten(2) @ (wires.repeat_interleave(d_unit)[:, None] * weight)
        return found


def streamed(experiment: Experiment, ends: Reference, agrees: Callable[[Streamed], bool]) -> Streamed | None:
    """Return what runs a circuit from any block; None where a model's parts do not simply add up.

    Args:
        experiment: what is run on what.
        ends: what inputs are held at.
        agrees: whether it gives what the long way gives.
    """
    face, units = experiment.face, experiment.units
    parts = [bank for bank in face.banks() if bank.kind in KINDS]
    if not face.stream or hooks_of_users(experiment.model):
        return None
    if {bank.kind for bank in parts} - {HEAD, NEURON} or {bank.name for bank in parts} != set(units.hooks):
        return None
    try:
        found = Streamed(experiment, ends, Suffix(experiment.model))
        return found if agrees(found) else None
    except NOT_ALONE as error:
        _log.info("edges are tested by whole passes, since %s", str(error).partition("\n")[0])
        return None
