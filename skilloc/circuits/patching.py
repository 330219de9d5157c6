"""A graph of heads and whole MLPs, with edges by attribution patching: transformer-lens' own tool, not a copy.

It costs two runs forward and one back per example for all edges at once, and is an estimate to first order, where the
edges of `edges` are measured. It does not know single neurons, nor models whose heads share keys and values
(grouped-query attention: Llama 3, SmolLM2, the embedded model).
"""

from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import torch

from skilloc.circuits import graph as g
from skilloc.intervene import fold, record, zero_reference
from skilloc.intervene.patching import Part, attribution_edges
from skilloc.models.weights import units_of
from skilloc.tasks import Examples


def attribution_circuit(
    model: Any, batches: Mapping[str, Examples], *, subtask: str, folds: int = 8, seed: int = 0
) -> nx.DiGraph:
    """Return all heads and MLPs of a transformer as a graph, with the edges between them estimated.

    The reference is another example, drawn from those of all subtasks. A node's effect is the sum of its edges: to
    first order the loss without what it says about this example, minus the loss.

    Args:
        model: a bridge in evaluation mode; it is left as it was.
        batches: the examples of each subtask, of one length.
        subtask: the subtask that the graph is about.
        folds: number of disjoint parts of each batch.
        seed: which other examples.

    Raises:
        ValueError: if transformer-lens has no edges for the model (see `intervene.patching`), there is no such subtask,
            or there are fewer than two examples.
    """
    folded = fold(batches, folds)
    if subtask not in batches:
        raise ValueError(f'unknown subtask "{subtask}"; `batches` have {", ".join(batches)}')
    count = len(folded.batch)
    if count < 2:
        raise ValueError("`batches` hold 1 example; the reference is another one, so give at least 2")
    folded = folded.to(next(model.parameters()).device)
    step = np.random.default_rng(seed).integers(1, count, size=count)
    others = folded.batch.inputs[torch.from_numpy((np.arange(count) + step) % count).to(folded.batch.inputs.device)]
    per_example = attribution_edges(model, folded.batch, others)
    ends = list(per_example[0])
    values = folded.mean(np.array([[edges[pair] for pair in ends] for edges in per_example]))
    units = units_of(model)
    about = record(model, folded, units, zero_reference(units))
    graph = nx.DiGraph(
        **{
            g.VERSION: g.FORMAT,
            g.SUBTASK: subtask,
            g.SUBTASKS: list(batches),
            g.MODEL: {"name": "", "digest": about["model"]},
            g.REFERENCE: "resample",
            g.CHOSEN: "all heads and MLPs",
            g.MADE: {"method": "edge attribution patching", "seed": seed, "folds": folds, "tokens": about["tokens"]},
        }
    )
    parts = sorted({part for pair in ends for part in pair}, key=_order)
    columns = {column: place for place, column in enumerate(sorted({_order(part)[:2] for part in parts}))}
    for part in parts:
        own = [place for place, (writer, _) in enumerate(ends) if writer == part]
        effect = g.effect_record(values[:, :, own].sum(axis=-1), folded.subtasks) if own else {}
        graph.add_node(_name(part), **_attributes(part, len(model.blocks), columns[_order(part)[:2]]), effect=effect)
    for place, (writer, reader) in enumerate(ends):
        effect = g.effect_record(values[:, :, place], folded.subtasks)
        graph.add_edge(_name(writer), _name(reader), **{g.EFFECT: effect, g.MEASURED: g.ATTRIBUTION})
    return graph


def _order(part: Part) -> tuple[int, int, int]:
    kind, layer, head = part
    if layer is None:
        return (-1, 0, 0) if kind == "embed" else (10**6, 0, 0)
    return layer, 0 if kind == "attn" else 1, head or 0


def _name(part: Part) -> str:
    kind, layer, head = part
    if layer is None:
        return "tokens" if kind == "embed" else "logits"
    return f"L{layer}H{head}" if kind == "attn" else f"L{layer}MLP"


def _attributes(part: Part, depth: int, column: int) -> g.Record:
    kind, layer, head = part
    kinds = {"embed": g.INPUT, "logits": g.OUTPUT, "attn": g.HEAD, "mlp": g.WHOLE_MLP}
    hooks = {
        "embed": "hook_embed", "logits": "unembed.hook_out", "attn": f"blocks.{layer}.attn.hook_z",
        "mlp": f"blocks.{layer}.hook_mlp_out",
    }  # fmt: skip
    at = layer if layer is not None else -1 if kind == "embed" else depth
    return {g.KIND: kinds[kind], g.LAYER: at, g.COLUMN: column, g.HOOK: hooks[kind], g.POSITION: head or 0}
