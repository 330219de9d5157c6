"""Runs of a model with one node of a circuit at its reference, and what the others make of that."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from skilloc.circuits.graph import INPUT, OUTPUT
from skilloc.circuits.nodes import STREAM, Node
from skilloc.intervene import Folded, Reference, attached, blocks_of_rows, example_losses, logits_of, widest
from skilloc.intervene.gradients import Gradients, units_at
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples
from skilloc.units import kind_of

Edit = Callable[[Tensor], Tensor]

Changes = Iterator[tuple[int, Sequence[int], Tensor]]
"""A source, its targets, and their edges on each example: float64 on `example target`."""


class Run(NamedTuple):
    """A block of examples, and what the untouched model does on it.

    Attributes:
        model: a bridge or an `MLP`.
        batch: the examples.
        nodes: of the circuit, in forward order.
        clean: activations and gradients of the untouched model.
        reference: what units are held at.
        rows: which of the reference's examples these are.
        ends: what inputs are held at: one value per bit, or a vector of the residual stream.
    """

    model: Any
    batch: Examples
    nodes: tuple[Node, ...]
    clean: Gradients
    reference: Reference
    rows: slice
    ends: Float[Tensor, " d_in"]


def places_of(nodes: Sequence[Node]) -> dict[str, list[int]]:
    """Return the nodes on each hook that units lie on, in forward order."""
    found: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        if node.kind not in (INPUT, OUTPUT):
            found.setdefault(node.hook, []).append(place)
    return found


def positions_of(nodes: Sequence[Node]) -> dict[str, list[int]]:
    """Return, per hook, the positions of the units that are nodes."""
    return {hook: [nodes[place].position for place in places] for hook, places in places_of(nodes).items()}


def outputs_of(nodes: Sequence[Node]) -> list[int]:
    """Return which nodes are outputs."""
    return [place for place, node in enumerate(nodes) if node.kind == OUTPUT]


def inputs_at_reference(model: Any, folded: Folded, reference: Reference) -> Float[Tensor, " d_in"]:
    """Return what inputs are held at: zero, or their mean over the examples where the reference is a mean."""
    sums: list[Tensor] = []

    def read(value: Tensor) -> Tensor:
        sums.append(value.double().flatten(0, -2).mean(dim=0) * len(value))
        return value

    for rows in blocks_of_rows(folded.batch, widest(model)):
        inputs = folded.batch.inputs[rows]
        if isinstance(model, MLP):
            read(inputs)
        else:
            with attached(model, {STREAM: read}):
                model(inputs)
    mean = torch.stack(sums).sum(dim=0) / len(folded.batch)
    return (mean if reference.name == "mean" else torch.zeros_like(mean)).to(next(model.parameters()).dtype)


def holding(run: Run, node: Node) -> tuple[Tensor, dict[str, Edit]]:
    """Return the inputs and the edits that hold a node at its reference."""
    if node.kind != INPUT:
        value = run.reference.of(node.hook, node.position, run.rows)

        def held(activation: Tensor) -> Tensor:
            edited = activation.clone()
            at = edited[..., node.position, :] if kind_of(node.hook) == "head" else edited[..., node.position]
            at[...] = value.to(edited)
            return edited

        return run.batch.inputs, {node.hook: held}
    if not isinstance(run.model, MLP):
        return run.batch.inputs, {STREAM: lambda stream: run.ends.to(stream).expand_as(stream)}
    inputs = run.batch.inputs.clone()
    inputs[:, node.position] = run.ends[node.position]
    return inputs, {}


def input_effects(run: Run) -> Float64[Tensor, "example input"]:
    """Return the loss with each input held minus the loss."""
    found = []
    for node in run.nodes:
        if node.kind == INPUT:
            inputs, edits = holding(run, node)
            with attached(run.model, edits):
                logits = logits_of(run.model(inputs))
            found.append(example_losses(logits, run.batch.targets) - run.clean.losses)
    return torch.stack(found, dim=1)


def through_units(run: Run, hook: str, value: Tensor) -> Float64[Tensor, "example target"]:
    """Return the edges into the nodes on a hook whose activation has become `value`."""
    changed = units_at(value.detach(), hook, positions_of(run.nodes)[hook]) - run.clean.activations[hook]
    product = changed.double() * run.clean.slopes[hook]
    per_unit = product.sum(dim=-1) if kind_of(hook) == "head" else product
    return per_unit.reshape(len(per_unit), -1, per_unit.shape[-1]).sum(dim=1)


def through_outputs(run: Run, logits: Tensor) -> Float64[Tensor, "example target"]:
    """Return the edges into the outputs whose logits have become `logits`: one per class, or one for all tokens."""
    product = (logits - run.clean.logits) * run.clean.logit_slopes
    if isinstance(run.model, MLP):
        return product.double()
    return product.flatten(1).sum(dim=1, dtype=torch.float64)[:, None]


def watched(
    run: Run, inputs: Tensor, edits: dict[str, Edit], hooks: Sequence[str]
) -> tuple[list[int], Float64[Tensor, "example target"]]:
    """Run the model under some edits, and return the edges into the nodes on some hooks and into the outputs."""
    places = places_of(run.nodes)
    parts: dict[str, Tensor] = {}

    def reader(hook: str) -> Edit:
        def read(value: Tensor) -> Tensor:
            parts[hook] = through_units(run, hook, value)
            return value

        return read

    with attached(run.model, {**edits, **{hook: reader(hook) for hook in hooks}}):
        logits = logits_of(run.model(inputs))
    targets = [place for hook in hooks for place in places[hook]] + outputs_of(run.nodes)
    return targets, torch.cat([*(parts[hook] for hook in hooks), through_outputs(run, logits)], dim=1)
