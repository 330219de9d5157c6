"""A circuit with only some of its edges: every unit reads the others through the edges that are kept, and nothing else.

    B[wires] = B's activation when every earlier unit A of the circuit is at
                   reference[A] + wire[A, B] (A[wires] - reference[A])
               and every other unit at its reference

in forward order, and the outputs likewise. With all wires at 1 that is the circuit alone, as `faithfulness` holds it;
with all at 0 it is the floor, with the inputs at their reference too. An edge here is what A itself adds to what B
reads, since everything between them stands where its own wires put it: no path goes around. It costs a run per unit of
the circuit, up to that unit; of a transformer all of whose heads and neurons are units, one block per unit
(`streamed`). In a chain of linear maps (an `MLP`) it has a closed form, and costs one run in all:

    B[wires] = activation(p_B + sum over A of wire[A, B] (A[wires] - reference[A]) w_AB),    p_B with all A at reference
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from skilloc.circuits.blocks import ONE_BY_ONE, inputs_at_reference, outputs_of, places_of
from skilloc.circuits.graph import INPUT, OUTPUT
from skilloc.circuits.nodes import Node, nodes_of, spread_out
from skilloc.circuits.streamed import CLOSE, Streamed, streamed
from skilloc.experiment import Experiment, Reference
from skilloc.experiment.axes import one
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.face import Edit
from skilloc.models.points import hooks_of_users
from skilloc.units import Bank

MOST_UNITS = 100
"""Wires are measured in circuits of at most this many units, where each takes a run."""


@dataclass(frozen=True)
class Wiring:
    """The places for edges of a circuit.

    Attributes:
        experiment: what is run on what.
        nodes: of the circuit: inputs, units, outputs, in forward order.
        ends: what inputs are held at.
        pairs: source and target of each edge that there can be, as places on the node axis.
        short: what runs single blocks, where that is the same.
    """

    experiment: Experiment
    nodes: tuple[Node, ...]
    ends: Reference
    pairs: Int64[Tensor, "edge 2"]
    short: Streamed | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> list[tuple[str, str]]:
        """Names of source and target of each edge."""
        return [(self.nodes[a].name, self.nodes[b].name) for a, b in self.pairs.tolist()]

    def logits(self, wires: Float[Tensor, " edge"], part: slice) -> Tensor:
        """Return the logits on some examples with each edge open so far; differentiable in the wires."""
        device = self.experiment.device
        matrix = torch.zeros(len(self.nodes), len(self.nodes), device=device)
        a, b = self.pairs.to(device).unbind(dim=1)
        matrix = matrix.index_put((a, b), wires.to(matrix))
        return _chained(self, matrix, part) if closed_form_holds(self.experiment) else _by_runs(self, matrix, part)


def wiring(experiment: Experiment, circuit: Mask, *, inputs: Sequence[str] | None = None) -> Wiring:
    """Return the places for edges of a circuit: between its units, from the inputs and to the outputs.

    In a chain of linear maps only neighbours have edges; elsewhere all units of different banks do.

    Args:
        experiment: what is run on what.
        circuit: which units are in it.
        inputs: names of the inputs of an `MLP`.

    Raises:
        ValueError: if units are held at some positions only, or one has several places, at each of which it is computed
            anew.
    """
    if why := unwired(experiment):
        raise WrongValue(f"`experiment` has no places for edges: {why}")
    nodes = nodes_of(experiment.face, experiment.units, circuit.keep, inputs)
    ends = Reference(experiment.held.name, {})
    if nodes[0].kind == INPUT:
        ends = inputs_at_reference(experiment)
    near = experiment.face.chain is not None
    pairs = [
        (a, b)
        for a, source in enumerate(nodes)
        for b, target in enumerate(nodes)
        if source.column < target.column and (not near or target.layer == source.layer + 1)
    ]
    found = Wiring(experiment, nodes, ends, torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2))
    if not pairs or closed_form_holds(experiment):
        return found
    return replace(found, short=streamed(experiment, ends, lambda short: _agrees(found, short)))


def _agrees(places: Wiring, short: Streamed) -> bool:
    """Whether single blocks give what whole runs give, on the example with the most padding, with wires half open."""
    examples, gates = places.experiment.folded.examples, torch.Generator().manual_seed(0)
    padded = 0 if examples.mask is None else int(examples.per_example(examples.mask.sum(dim=1).double()).argmin())
    part, some = slice(padded, padded + 1), torch.rand(len(places), generator=gates)
    with torch.no_grad():
        long, quick, base = (
            one.logits(wires, part)
            for one, wires in ((places, some), (replace(places, short=short), some), (places, torch.zeros_like(some)))
        )
    return bool((long - quick).abs().max() <= CLOSE * (long - base).abs().max())


def unwired(experiment: Experiment) -> str:
    """Say why there are no places for edges in an experiment; nothing where there are."""
    if experiment.where is not None:
        return f'`at` is "{experiment.at}", and where units are not held every path is open; use at="all" (--at all)'
    for bank in spread_out(experiment.units):
        return (
            f"{bank.names[0]} has {len(bank.places)} places and is computed anew at each, so that no edge leads into "
            "it; test edges between neurons and heads"
        )
    return ""


def closed_form_holds(experiment: Experiment) -> bool:
    """Whether the closed form holds: a chain, all of whose hidden layers are units, without hooks of a user's own."""
    chain = experiment.face.chain
    return chain is not None and chain.hooks == experiment.units.hooks and not hooks_of_users(experiment.model)


def _by_runs(wiring: Wiring, matrix: Float[Tensor, "source target"], part: slice) -> Tensor:
    """Run the model once for each unit, and once for the outputs, or for each of them where they are classes."""
    values: dict[int, Tensor] = {}
    targets = [i for i, node in enumerate(wiring.nodes) if node.kind not in (INPUT, OUTPUT)]
    for target in targets:
        node = wiring.nodes[target]
        seen: list[Tensor] = []
        if wiring.short is not None:
            seen.append(_block(wiring, wiring.short, matrix[:, target], values, part, node))
        else:
            _run(wiring, matrix[:, target], values, part, node.column, (node.hook, seen))
        values[target] = one(seen[0], wiring.experiment.units.bank(node.hook), node.position)
    outputs, last = outputs_of(wiring.nodes), wiring.nodes[-1].column
    if wiring.short is not None:
        return _block(wiring, wiring.short, matrix[:, outputs[0]], values, part, wiring.nodes[-1])
    runs = [_run(wiring, matrix[:, output], values, part, last) for output in outputs]
    if len(runs) == 1:
        return runs[0]
    return torch.stack([run[..., wiring.nodes[output].position] for run, output in zip(runs, outputs, strict=True)], -1)


def _run(
    wiring: Wiring,
    wires: Float[Tensor, " source"],
    values: dict[int, Tensor],
    part: slice,
    column: int,
    read: tuple[str, list[Tensor]] | None = None,
) -> Tensor:
    """Run the model with every unit before a column where the wires of one target put it; read what comes to a hook,
    and go no further."""
    own = wiring.experiment
    some, rows, places = own.part(part)[0], own.rows_of(part), places_of(wiring.nodes)
    edits: dict[str, Edit] = {}
    for bank in own.units.banks:
        if 1 + own.units.hooks.index(bank.name) < column:
            sources = {a: wires[a] for a in places.get(bank.name, ())}
            edits[bank.name] = _put(wiring, bank, sources, values, rows)
    if read is not None:
        hook, into = read
        edits[hook] = _seen(into)
    inputs = some.inputs
    if wiring.nodes[0].kind == INPUT:
        if own.face.entry is None:
            assert isinstance(inputs, Tensor)
            inputs = _wired_inputs(wiring, wires, inputs, rows)
        else:
            entering, gate = wiring.ends.on(own.face.entry, rows), wires[0]
            edits[own.face.entry] = lambda value: torch.lerp(entering.to(value).expand_as(value), value, gate.to(value))
    with suppress(_Seen), own.face.attached(edits):
        logits: Tensor = own.face.run(inputs)
        return logits
    return torch.empty(0)


def _block(
    wiring: Wiring,
    short: Streamed,
    wires: Float[Tensor, " source"],
    values: dict[int, Tensor],
    part: slice,
    target: Node,
) -> Tensor:
    """Return what comes to a target's hook, or the logits, from a run of its own block alone."""
    own, rows = wiring.experiment, wiring.experiment.rows_of(part)
    before: dict[Node, tuple[Tensor, Tensor]] = {}
    beside: dict[str, dict[int, Tensor]] = {}
    for a, value in values.items():
        node = wiring.nodes[a]
        if node.layer < target.layer:
            held = one(own.held.on(node.hook, rows).to(value), own.units.bank(node.hook), node.position)
            before[node] = (wires[a], value - held)
        elif node.column < target.column:
            beside.setdefault(node.hook, {})[a] = wires[a]
    inputs, entering = own.part(part)[0].inputs, short.entering(part, target.layer, before, wires[0])
    if target.kind == OUTPUT:
        return short.suffix.logits(inputs, target.layer, entering)
    edits = {
        bank.name: _put(wiring, bank, beside.get(bank.name, {}), values, rows)
        for bank in own.units.banks
        if bank.layer == target.layer and 1 + own.units.hooks.index(bank.name) < target.column
    }
    return short.suffix.activation(inputs, target.hook, target.layer, entering, edits)


class _Seen(BaseException):
    """Ends a run where all that was wanted of it has been read. No exception that a model's own code may catch."""


def _seen(into: list[Tensor]) -> Edit:
    """Return a function that keeps what it sees, gradients and all, and ends the run."""

    def see(value: Tensor) -> Tensor:
        into.append(value)
        raise _Seen

    return see


def _put(wiring: Wiring, bank: Bank, sources: dict[int, Tensor], values: dict[int, Tensor], rows: slice) -> Edit:
    """Return what puts the units of a bank where the wires of one target say, and all others at their reference."""
    held = wiring.experiment.held.on(bank.name, rows)

    def put(value: Tensor) -> Tensor:
        base = held.to(value).expand_as(value)
        if not sources:
            return base.contiguous()
        moved = []
        for a, gate in sources.items():
            at_reference = one(base, bank, wiring.nodes[a].position)
            moved.append(torch.lerp(at_reference, values[a], gate.to(value)))
        if bank.axis is None:
            return moved[0]
        dim = value.ndim + bank.axis
        index = torch.tensor([wiring.nodes[a].position for a in sources], device=value.device)
        return base.index_copy(dim, index, torch.stack(moved, dim=dim))

    return put


def _wired_inputs(
    wiring: Wiring, wires: Float[Tensor, " source"], inputs: Float[Tensor, "row d_in"], rows: slice
) -> Float[Tensor, "row d_in"]:
    """Return inputs that are held one by one, each as open as its wire."""
    places = [i for i, node in enumerate(wiring.nodes) if node.kind == INPUT]
    held = wiring.ends.on(ONE_BY_ONE, rows).to(inputs).expand_as(inputs)
    return torch.lerp(held, inputs, wires[places].to(inputs))


def _chained(wiring: Wiring, matrix: Float[Tensor, "source target"], part: slice) -> Tensor:
    """Work a chain of linear maps out, layer by layer, from its weights."""
    own, chain = wiring.experiment, wiring.experiment.face.chain
    assert chain is not None
    rows, inputs, places = own.rows_of(part), own.part(part)[0].first, places_of(wiring.nodes)
    groups = [[i for i, node in enumerate(wiring.nodes) if node.kind == INPUT]]
    groups += [places.get(hook, []) for hook in chain.hooks] + [outputs_of(wiring.nodes)]
    held = wiring.ends.on(ONE_BY_ONE, rows).to(inputs).expand_as(inputs)
    found, moved = inputs, inputs - held  # of the sources: activation minus reference
    for i, linear in enumerate(chain.linears):
        sources, targets = groups[i], groups[i + 1]
        into = torch.tensor([wiring.nodes[b].position for b in targets], dtype=torch.int64, device=inputs.device)
        out_of = torch.tensor([wiring.nodes[a].position for a in sources], dtype=torch.int64, device=inputs.device)
        weight = linear.weight[into][:, out_of] * matrix[sources][:, targets].T.to(inputs)
        found = linear(held)[:, into] + moved @ weight.T
        if i < len(chain.hooks):
            held = own.held.on(chain.hooks[i], rows).to(inputs).expand(len(inputs), linear.weight.shape[0])
            moved = chain.activation(found) - held[:, into]
    return found
