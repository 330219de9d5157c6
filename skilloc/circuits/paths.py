"""The paths that an edge can take: all of them, or only what a unit itself writes into a later one.

A source is run through a transformer once, whatever the number of its targets. For direct edges, every norm in front of
a later part reads the untouched residual stream plus the change of what the source writes, and what the parts add to
the stream is frozen at its untouched value, so that each reads the source and nothing that follows from it.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from skilloc.circuits.blocks import Block, Changes, holding, input_held, outputs_of, places_of, watched
from skilloc.circuits.graph import INPUT, OUTPUT
from skilloc.circuits.nodes import Node
from skilloc.experiment import reader
from skilloc.experiment.axes import at_positions, by_unit
from skilloc.mistakes import WrongValue
from skilloc.models.face import Chain, Edit
from skilloc.units import HEAD, LAYER, NEURON, Bank


def total(run: Block) -> Changes:
    """Yield edges along all paths: the model runs with the source at its reference."""
    for source, node in enumerate(run.nodes):
        if node.kind != OUTPUT:
            inputs, edits = holding(run, node)
            yield source, *watched(run, inputs, edits, _after(run, node))


def _after(run: Block, node: Node) -> list[str]:
    """Return the banks with nodes that come after one."""
    columns = {hook: run.nodes[places[0]].column for hook, places in places_of(run.nodes).items()}
    return [hook for hook, column in columns.items() if column > node.column]


def closed_form(run: Block) -> Changes:
    """Yield the edges of a chain of linear maps between neighbouring layers, from its weights."""
    chain, experiment = run.experiment.face.chain, run.experiment
    assert chain is not None
    groups = [[i for i, node in enumerate(run.nodes) if node.kind == INPUT], *([] for _ in chain.hooks)]
    for hook, places in places_of(run.nodes).items():
        groups[1 + chain.hooks.index(hook)] = places
    groups.append(outputs_of(run.nodes))
    values = run.examples.first
    for i, linear in enumerate(chain.linears):
        sources, targets = ([run.nodes[place] for place in group] for group in groups[i : i + 2])
        at = [node.position for node in targets]
        weight = linear.weight[at]
        pre = values @ weight.T + linear.bias[at]
        for source, node in zip(groups[i], sources, strict=True):
            if i:
                held = experiment.held.of(node.hook, experiment.units.bank(node.hook), node.position, run.rows)
            else:
                held = input_held(run, node.position)
            delta = (held.to(values) - values[:, node.position]).expand(len(values))
            step = delta[:, None] * weight[:, node.position]
            if i == len(chain.linears) - 1:
                change, slopes = step, run.clean.logit_slopes
            elif targets:
                change = chain.activation(pre + step) - chain.activation(pre)
                slopes = run.clean.slopes[targets[0].hook]
            else:
                continue
            yield source, groups[i + 1], run.examples.per_example(change.to(run.clean.losses) * slopes)
        values = chain.activation(linear(values)) if i < len(chain.linears) - 1 else values


def weights_between(chain: Chain, nodes: tuple[Node, ...]) -> Float[Any, "source target"]:
    """Return the weights of a chain between nodes of neighbouring layers; 0 elsewhere."""
    found = torch.zeros(len(nodes), len(nodes))
    for a, source in enumerate(nodes):
        for b, target in enumerate(nodes):
            if target.layer == source.layer + 1:
                found[a, b] = chain.linears[target.layer].weight[target.position, source.position].detach()
    return found.numpy()


class _Parts(NamedTuple):
    """How the parts of a transformer write to its residual stream.

    Attributes:
        written: what each attention and MLP adds, by hook.
        parallel: per layer, whether its MLP reads the stream before its attention has written to it.
    """

    written: dict[str, Tensor]
    parallel: list[bool]


def direct(run: Block) -> Changes:
    """Yield the edges of a transformer along which only the source's own change travels.

    Raises:
        ValueError: if the parts of the model do not simply add to its residual stream, or it is not known what a unit
            of some kind itself writes there.
    """
    for node in run.nodes:
        if node.kind not in (INPUT, OUTPUT, NEURON, HEAD, LAYER):
            raise WrongValue(
                f"`paths` is direct, but it is not known what {node.name}, a unit of kind {node.kind}, itself writes "
                'to the residual stream; use paths="total"'
            )
    parts = _parts(run)
    depth = len(parts.parallel)
    for source, node in enumerate(run.nodes):
        if node.kind == OUTPUT:
            continue
        write = _write(run, node)

        def add(stream: Tensor, write: Tensor = write) -> Tensor:
            return stream + write

        edits: dict[str, Edit] = {"ln_final.hook_in": add}
        for layer in range(max(node.layer, 0), depth):
            attention = layer == node.layer and (node.kind == HEAD or node.hook == f"blocks.{layer}.attn.hook_out")
            if layer > node.layer:
                edits[f"blocks.{layer}.ln1.hook_in"] = add
            if layer > node.layer or (attention and not parts.parallel[layer]):
                edits[f"blocks.{layer}.ln2.hook_in"] = add
            for part in ("attn", "mlp"):
                hook = f"blocks.{layer}.{part}.hook_out"
                edits[hook] = _frozen(parts.written[hook])
        yield source, *watched(run, run.examples.inputs, edits, _after(run, node))


def _frozen(value: Tensor) -> Edit:
    return lambda _: value


def _write(run: Block, node: Node) -> Float[Tensor, "row pos d_model"]:
    """Return what a node adds to the residual stream at its reference, minus what it adds."""
    experiment = run.experiment
    if node.kind == INPUT:
        seen: list[Tensor] = []
        with experiment.face.attached({node.hook: reader(seen)}):
            experiment.face.run(run.examples.inputs)
        return _where(run, run.ends.on(node.hook, run.rows).to(seen[0]) - seen[0])
    bank = experiment.units.bank(node.hook)
    delta = _where(run, _delta(run, node, bank))
    if node.kind == LAYER:
        return delta
    d_unit = delta.shape[-1]
    weight = experiment.face.write(node.hook).detach()
    return delta @ weight[d_unit * node.position : d_unit * (node.position + 1)]


def _delta(run: Block, node: Node, bank: Bank) -> Float[Tensor, "row pos d_unit"]:
    """Return the change of a unit's own entries when it is held."""
    place = [other.position for other in run.nodes if other.hook == node.hook].index(node.position)
    own = by_unit(run.clean.activations[node.hook], bank)[..., place, :]
    held = run.experiment.held.of(node.hook, bank, node.position, run.rows).to(own)
    return (held[..., None] if bank.axis == -1 else held) - own


def _where(run: Block, change: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d"]:
    """Return a change at the positions where units are held, and 0 elsewhere."""
    where = run.experiment.where
    return change if where is None else change * at_positions(where[run.rows], change)


def _parts(run: Block) -> _Parts:
    """Read what every part writes, and check that the stream is the sum of that."""
    face = run.experiment.face
    layers = range(face.depth)
    norms = [f"blocks.{i}.{norm}.hook_in" for i in layers for norm in ("ln1", "ln2")]
    outs = [f"blocks.{i}.{part}.hook_out" for i in layers for part in ("attn", "mlp")]
    refusal = WrongValue(
        "`paths` is direct, but the parts of `model` do not simply add to its residual stream, so that no unit's own "
        'write is known; use paths="total"'
    )
    found: dict[str, list[Tensor]] = {hook: [] for hook in [*norms, *outs, "ln_final.hook_in"]}
    try:
        with face.attached({hook: reader(into) for hook, into in found.items()}):
            face.run(run.examples.inputs)
    except ValueError as error:
        raise refusal from error
    seen = {hook: into[0] for hook, into in found.items()}
    streams = [seen[f"blocks.{i}.ln1.hook_in"] for i in layers] + [seen["ln_final.hook_in"]]
    parallel = []
    for i in layers:
        before, middle = streams[i], seen[f"blocks.{i}.ln2.hook_in"]
        attention, mlp = seen[f"blocks.{i}.attn.hook_out"], seen[f"blocks.{i}.mlp.hook_out"]
        parallel.append(bool(torch.equal(middle, before)))
        if not _close(streams[i + 1], before + attention + mlp) or not (
            parallel[-1] or _close(middle, before + attention)
        ):
            raise refusal
    return _Parts({hook: seen[hook] for hook in outs}, parallel)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-3 * b.abs().max())
