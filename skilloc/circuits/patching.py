"""A graph of heads and whole MLPs, with edges by attribution patching: transformer-lens' own tool, not a copy.

It costs two runs forward and one back per example for all edges at once, and is an estimate to first order, where the
edges of `edges` are measured. It does not know single neurons, nor models whose heads share keys and values
(grouped-query attention: Llama 3, SmolLM2, the embedded model).
"""

import networkx as nx
import numpy as np
import torch

from skilloc.circuits import graph as g
from skilloc.experiment import Experiment
from skilloc.experiment.patching import Part, attribution_edges
from skilloc.experiment.reference import PAIRED, RESAMPLE, Reference
from skilloc.mistakes import WrongValue
from skilloc.models.language import digest
from skilloc.tasks import Inputs


def attribution_circuit(experiment: Experiment, *, subtask: str, seed: int = 0) -> nx.DiGraph:
    """Return all heads and MLPs of a transformer as a graph, with the edges between them estimated.

    The reference is the paired input where that is the experiment's, and else another example, drawn from those of all
    subtasks. A node's effect is the sum of its edges: to first order the loss without what it says about this example,
    minus the loss, in the loss's unit.

    Args:
        experiment: what is measured on what: a bridge, and examples of one length.
        subtask: the subtask that the graph is about.
        seed: which other examples.

    Raises:
        ValueError: if transformer-lens has no edges for the model or the examples (see `experiment.patching`), there is
            no such subtask, the loss has no gradient, or there are fewer than two examples.
    """
    experiment.check_unchanged()
    folded, loss = experiment.folded, experiment.metric
    loss.check_differentiable()
    if subtask not in folded.subtasks:
        raise WrongValue(f'unknown subtask "{subtask}"; this experiment has {", ".join(folded.subtasks)}')
    reference, others = _others(experiment, seed)
    per_example = attribution_edges(experiment.face, folded.examples, others, loss, experiment.prepared)
    ends = list(per_example[0])
    values = folded.mean(np.array([[edges[pair] for pair in ends] for edges in per_example]))
    made = {"method": "edge attribution patching", "seed": seed, "folds": folded.folds, "tokens": dict(folded.digests)}
    graph = nx.DiGraph(
        **{
            g.VERSION: g.FORMAT,
            g.SUBTASK: subtask,
            g.SUBTASKS: list(folded.subtasks),
            g.MODEL: {"name": "", "digest": digest(experiment.model)},
            g.REFERENCE: reference,
            g.LOSS: g.loss_record(loss.name, loss.unit),
            g.CHOSEN: "all heads and MLPs",
            g.MADE: made,
        }
    )
    parts = sorted({part for pair in ends for part in pair}, key=_order)
    columns = {column: place for place, column in enumerate(sorted({_order(part)[:2] for part in parts}))}
    for part in parts:
        own = [place for place, (writer, _) in enumerate(ends) if writer == part]
        effect = g.effect_record(values[:, :, own].sum(axis=-1), folded.subtasks) if own else {}
        graph.add_node(
            _name(part), **_attributes(part, experiment.face.depth, columns[_order(part)[:2]]), effect=effect
        )
    for place, (writer, reader) in enumerate(ends):
        effect = g.effect_record(values[:, :, place], folded.subtasks)
        graph.add_edge(_name(writer), _name(reader), **{g.EFFECT: effect, g.MEASURED: g.ATTRIBUTION})
    return graph


def _others(experiment: Experiment, seed: int) -> tuple[str, Inputs]:
    """Return the name of the reference, and the other input of each row."""
    examples, asked = experiment.folded.examples, experiment.reference
    if PAIRED in (asked, asked.name if isinstance(asked, Reference) else None):
        return PAIRED, examples.swapped().inputs
    count = len(examples.first)
    if count < 2:
        raise WrongValue("the experiment has 1 example; the reference is another one, so give at least 2")
    step = np.random.default_rng(seed).integers(1, count, size=count)
    others = torch.from_numpy((np.arange(count) + step) % count)
    return RESAMPLE, examples.first[others.to(examples.first.device)]


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
