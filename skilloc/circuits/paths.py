"""The paths that an edge can take: all of them, or only what a unit itself writes into a later one.

A source is run through a transformer once, whatever the number of its targets. For direct edges, every norm in front of
a later part reads the untouched residual stream plus the change of what the source writes, and what the parts add to
the stream is frozen at its untouched value, so that each reads the source and nothing that follows from it.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from skilloc.circuits.graph import INPUT, OUTPUT
from skilloc.circuits.nodes import STREAM, Node
from skilloc.circuits.runs import Changes, Edit, Run, holding, outputs_of, places_of, watched
from skilloc.intervene import attached
from skilloc.models.mlp import MLP
from skilloc.models.weights import output_weight
from skilloc.units import kind_of


def total(run: Run) -> Changes:
    """Yield edges along all paths: the model runs with the source at its reference."""
    columns = {hook: run.nodes[places[0]].column for hook, places in places_of(run.nodes).items()}
    for source, node in enumerate(run.nodes):
        if node.kind != OUTPUT:
            inputs, edits = holding(run, node)
            later = [hook for hook, column in columns.items() if column > node.column]
            yield source, *watched(run, inputs, edits, later)


def closed_form(run: Run) -> Changes:
    """Yield the edges of an `MLP` between neighbouring layers, from its weights."""
    model: MLP = run.model
    linears: list[Any] = [*model.layers, model.out]
    groups = [[i for i, node in enumerate(run.nodes) if node.kind == INPUT], *([] for _ in model.layers)]
    hooks = list(model.hook_dict)
    for hook, places in places_of(run.nodes).items():
        groups[1 + hooks.index(hook)] = places
    groups.append(outputs_of(run.nodes))
    values = run.batch.inputs
    for i, linear in enumerate(linears):
        sources, targets = ([run.nodes[place] for place in group] for group in groups[i : i + 2])
        at = [node.position for node in targets]
        weight = linear.weight[at]
        pre = values @ weight.T + linear.bias[at]
        for source, node in zip(groups[i], sources, strict=True):
            held = run.ends[node.position] if not i else run.reference.of(node.hook, node.position, run.rows)
            delta = (held.to(values) - values[:, node.position]).expand(len(values))
            step = delta[:, None] * weight[:, node.position]
            if i == len(linears) - 1:
                yield source, groups[i + 1], step.double() * run.clean.logit_slopes
            elif targets:
                change = model.activation(pre + step) - model.activation(pre)
                yield source, groups[i + 1], change.double() * run.clean.slopes[targets[0].hook]
        values = model.activation(linear(values)) if i < len(linears) - 1 else values


def weights_between(model: MLP, nodes: tuple[Node, ...]) -> Float[Any, "source target"]:
    """Return the weights of an `MLP` between nodes of neighbouring layers; 0 elsewhere."""
    linears: list[Any] = [*model.layers, model.out]
    found = torch.zeros(len(nodes), len(nodes))
    for a, source in enumerate(nodes):
        for b, target in enumerate(nodes):
            if target.layer == source.layer + 1:
                found[a, b] = linears[target.layer].weight[target.position, source.position].detach()
    return found.numpy()


class _Parts(NamedTuple):
    """How the parts of a transformer write to its residual stream.

    Attributes:
        written: what each attention and MLP adds, by hook.
        parallel: per layer, whether its MLP reads the stream before its attention has written to it.
    """

    written: dict[str, Tensor]
    parallel: list[bool]


def direct(run: Run) -> Changes:
    """Yield the edges of a transformer along which only the source's own change travels.

    Raises:
        ValueError: if the parts of the model do not simply add to its residual stream.
    """
    parts = _parts(run)
    depth = len(parts.parallel)
    places = places_of(run.nodes)
    columns = {hook: run.nodes[group[0]].column for hook, group in places.items()}
    for source, node in enumerate(run.nodes):
        if node.kind == OUTPUT:
            continue
        write = _write(run, node)

        def add(stream: Tensor, write: Tensor = write) -> Tensor:
            return stream + write

        edits: dict[str, Edit] = {"ln_final.hook_in": add}
        for layer in range(max(node.layer, 0), depth):
            heads_of_layer = node.kind == "head" and layer == node.layer
            if layer > node.layer:
                edits[f"blocks.{layer}.ln1.hook_in"] = add
            if layer > node.layer or (heads_of_layer and not parts.parallel[layer]):
                edits[f"blocks.{layer}.ln2.hook_in"] = add
            for part in ("attn", "mlp"):
                hook = f"blocks.{layer}.{part}.hook_out"
                edits[hook] = _frozen(parts.written[hook])
        later = [hook for hook, column in columns.items() if column > node.column]
        yield source, *watched(run, run.batch.inputs, edits, later)


def _frozen(value: Tensor) -> Edit:
    return lambda _: value


def _write(run: Run, node: Node) -> Float[Tensor, "example pos d_model"]:
    """Return what a node adds to the residual stream at its reference, minus what it adds."""
    value: list[Tensor] = []

    def read(activation: Tensor) -> Tensor:
        value.append(activation)
        return activation

    if node.kind == INPUT:
        with attached(run.model, {STREAM: read}):
            run.model(run.batch.inputs)
        return run.ends.to(value[0]) - value[0]
    place = [n.position for n in run.nodes if n.hook == node.hook].index(node.position)
    held = run.reference.of(node.hook, node.position, run.rows)
    weight = output_weight(run.model, node.hook).detach()
    if kind_of(node.hook) == "head":
        own = run.clean.activations[node.hook][..., place, :]
        d_head = own.shape[-1]
        return (held.to(own) - own) @ weight[d_head * node.position : d_head * (node.position + 1)]
    own = run.clean.activations[node.hook][..., place]
    return (held.to(own) - own)[..., None] * weight[node.position]


def _parts(run: Run) -> _Parts:
    """Read what every part writes, and check that the stream is the sum of that."""
    depth = len(run.model.blocks)
    layers = range(depth)
    norms = [f"blocks.{i}.{norm}.hook_in" for i in layers for norm in ("ln1", "ln2")]
    outs = [f"blocks.{i}.{part}.hook_out" for i in layers for part in ("attn", "mlp")]
    refusal = ValueError(
        "`paths` is direct, but the parts of `model` do not simply add to its residual stream, so that no unit's own "
        'write is known; use paths="total"'
    )
    if not {*norms, *outs, "ln_final.hook_in"} <= set(run.model.hook_dict):
        raise refusal
    seen: dict[str, Tensor] = {}

    def reader(hook: str) -> Edit:
        def read(value: Tensor) -> Tensor:
            seen[hook] = value
            return value

        return read

    with attached(run.model, {hook: reader(hook) for hook in [*norms, *outs, "ln_final.hook_in"]}):
        run.model(run.batch.inputs)
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
