"""Runs of a model with one node of a circuit at its reference, and what the others make of that."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from skilloc.circuits.graph import INPUT, OUTPUT
from skilloc.circuits.nodes import Node
from skilloc.experiment import Experiment, Reference, edits_of, mean_reference, paired_reference, reader
from skilloc.experiment.axes import chosen, over_positions, per_unit
from skilloc.experiment.gradients import Gradients
from skilloc.experiment.reference import FLAT_MEAN, MEAN, PAIRED
from skilloc.masks import Mask
from skilloc.models.face import Edit
from skilloc.tasks import Examples, Inputs
from skilloc.tasks.losses.nll import wide
from skilloc.units import Bank, Units

ONE_BY_ONE = ""
"""Stands for the hook of inputs that are held one by one, and have none."""

Changes = Iterator[tuple[int, Sequence[int], Tensor]]
"""A source, its targets, and their edges on each example: float64 on `example target`."""


class Block(NamedTuple):
    """A block of examples, and what the untouched model does on it.

    Attributes:
        experiment: what is measured on what.
        examples: the block.
        prepared: what the loss knows about it.
        rows: where its rows are among all.
        nodes: of the circuit, in forward order.
        clean: activations and gradients of the untouched model.
        ends: what inputs are held at.
    """

    experiment: Experiment
    examples: Examples
    prepared: Tensor | None
    rows: slice
    nodes: tuple[Node, ...]
    clean: Gradients
    ends: Reference


def places_of(nodes: Sequence[Node]) -> dict[str, list[int]]:
    """Return the nodes of each bank, in forward order."""
    found: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        if node.kind not in (INPUT, OUTPUT):
            found.setdefault(node.hook, []).append(place)
    return found


def positions_of(nodes: Sequence[Node]) -> dict[str, list[int]]:
    """Return, per bank, the positions of the units that are nodes."""
    return {hook: [nodes[place].position for place in places] for hook, places in places_of(nodes).items()}


def outputs_of(nodes: Sequence[Node]) -> list[int]:
    """Return which nodes are outputs."""
    return [place for place, node in enumerate(nodes) if node.kind == OUTPUT]


def inputs_at_reference(experiment: Experiment) -> Reference:
    """Return what inputs are held at, as `edges` says: at their mean over the measured examples, or those of the paired
    inputs, where that is what units are held at; at zero elsewhere."""
    face, name = experiment.face, experiment.held.name
    hook = ONE_BY_ONE if face.entry is None else face.entry
    if name == FLAT_MEAN or (name == MEAN and face.entry is None):
        return Reference(name, {hook: _mean(experiment)})
    measured = {subtask: own.to(experiment.device) for subtask, own in experiment.examples.items()}
    if face.entry is not None and name == MEAN:
        return mean_reference(experiment.model, measured, _entry(face.entry), measured=measured)
    given = experiment.folded.examples.paired
    if name == PAIRED and given is not None:
        if face.entry is not None:
            return paired_reference(experiment.model, measured, _entry(face.entry))
        assert isinstance(given, Tensor)
        return Reference(name, {hook: given}, per_row=True)
    return Reference(name, {hook: torch.zeros((), device=experiment.device)})


def at_reference(value: Tensor) -> Edit:
    """Return what puts values in the place of all that comes to a hook."""
    return lambda seen: value.to(seen).expand_as(seen).contiguous()


def _entry(hook: str) -> Units:
    """Return all that enters a model as one unit."""
    return Units((Bank(hook, 1, INPUT, -1, INPUT, axis=None),))


def _mean(experiment: Experiment) -> Float[Tensor, " d_in"]:
    """Return the mean of what enters the model, over all rows and positions but padding."""
    face, sums, count = experiment.face, [], 0
    for block in experiment.blocks:
        examples, _ = experiment.part(block)
        seen: list[Tensor] = []
        if face.entry is None:
            seen.append(examples.first)
        else:
            with face.attached({face.entry: reader(seen)}):
                face.run(examples.inputs)
        value = seen[0].to(wide(experiment.device))
        flat = value.flatten(0, -2) if examples.mask is None else value[examples.mask]
        sums.append(flat.sum(dim=0))
        count += len(flat)
    mean = torch.stack(sums).sum(dim=0) / count
    return mean.to(next(experiment.model.parameters()).dtype)


def holding(run: Block, node: Node) -> tuple[Inputs, dict[str, Edit]]:
    """Return the inputs and the edits that hold a node at its reference, at all its places."""
    experiment, inputs = run.experiment, run.examples.inputs
    if node.kind != INPUT:
        bank, reference = experiment.units.bank(node.hook), experiment.held
        keep = np.arange(bank.width) != node.position
        return inputs, edits_of(Mask(Units((bank,)), keep), reference, run.rows, experiment.where)
    if experiment.face.entry is not None:
        mask = Mask(_entry(node.hook), np.zeros(1, dtype=bool))
        return inputs, edits_of(mask, run.ends, run.rows, experiment.where)
    assert isinstance(inputs, Tensor)
    held = inputs.clone()
    held[:, node.position] = input_held(run, node.position)
    return held, {}


def input_held(run: Block, position: int) -> Tensor:
    """Return what one of the inputs that are held one by one is held at, as it broadcasts against rows."""
    values = run.ends.on(ONE_BY_ONE, run.rows)
    return values[..., position] if values.ndim else values


def input_effects(run: Block) -> Float64[Tensor, "example input"]:
    """Return the loss with each input held minus the loss."""
    face, found = run.experiment.face, [run.clean.losses[:, None][:, :0]]
    for node in run.nodes:
        if node.kind == INPUT:
            inputs, edits = holding(run, node)
            with face.attached(edits):
                logits = face.run(inputs)
            held = run.experiment.metric(logits, run.examples, run.prepared)
            found.append((held - run.clean.losses)[:, None])
    return torch.cat(found, dim=1)


def through_units(run: Block, hook: str, value: Tensor) -> Float64[Tensor, "example target"]:
    """Return the edges into the nodes of a bank whose activation has become `value`."""
    bank = run.experiment.units.bank(hook)
    changed = chosen(value.detach(), bank, positions_of(run.nodes)[hook]) - run.clean.activations[hook]
    product = changed.to(wide(changed.device)) * run.clean.slopes[hook]
    return run.examples.per_example(over_positions(per_unit(product, bank)))


def through_outputs(run: Block, logits: Tensor) -> Float64[Tensor, "example target"]:
    """Return the edges into the outputs whose logits have become `logits`: one per class where the model names its
    classes, or one for all."""
    product = (logits - run.clean.logits) * run.clean.logit_slopes
    if one_per_class(run, logits):
        found = over_positions(product.to(wide(product.device)))
    else:
        found = product.flatten(1).sum(dim=1, dtype=wide(product.device))[:, None]
    return run.examples.per_example(found)


def one_per_class(run: Block, logits: Tensor) -> bool:
    """Whether each output stands for one class, and not one for all."""
    return len(outputs_of(run.nodes)) == logits.shape[-1]


def watched(
    run: Block, inputs: Inputs, edits: dict[str, Edit], hooks: Sequence[str]
) -> tuple[list[int], Float64[Tensor, "example target"]]:
    """Run the model under some edits, and return the edges into the nodes of some banks and into the outputs.

    What is read at a hook is what comes there, before any edit of it.
    """
    places, face = places_of(run.nodes), run.experiment.face
    parts: dict[str, Tensor] = {}

    def watcher(hook: str) -> Edit:
        def watch(value: Tensor) -> Tensor:
            parts[hook] = through_units(run, hook, value)
            return edits[hook](value) if hook in edits else value

        return watch

    with face.attached({**edits, **{hook: watcher(hook) for hook in hooks}}):
        logits = face.run(inputs)
    targets = [place for hook in hooks for place in places[hook]] + outputs_of(run.nodes)
    return targets, torch.cat([*(parts[hook] for hook in hooks), through_outputs(run, logits)], dim=1)
