"""Edges: how much of a unit's effect passes through a later unit.

    edge[f, s, A, B] = mean over the examples e of fold f of subtask s of
                       sum over positions t (and d_head) of (B[e, t] with A at its reference - B[e, t]) g_B[e, t]

with g_B the gradient of the example's loss at B in the untouched model; nats. It has the sign of an effect: positive
means that what A does to B lowers the loss, so that without A the loss rises through B.

It is of first order in the target, and so for comparing edges: where the loss is close to 0, gradients and edges are
small while effects are not; and where the source's reference is far from its values (zero for a head whose mean is not)
an edge can have the other sign than the measured effect. Prefer a mean, or other examples, as reference.

Total edges count all paths from A to B: the model runs with A held. In direct edges only what A itself writes reaches
B; everything between is as in the untouched model. In an `MLP` a unit writes to the next layer only, so direct edges
join neighbouring layers and have a closed form, exact and without any run:

    B with A at its reference = activation(p_B + (reference_A - A) w_AB),   p_B the pre-activation of B, w_AB the weight

An input is held at zero, or at its mean over the measured examples where the reference is a mean: a bit of an `MLP`, or
of a language model what enters the first block (`tokens`). The outputs are the logits, with their own gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from tqdm import tqdm

from skilloc.ablation import one_thread
from skilloc.circuits.graph import CLOSED_FORM
from skilloc.circuits.nodes import Node, nodes_of
from skilloc.circuits.paths import closed_form, direct, total, weights_between
from skilloc.circuits.runs import Run, input_effects, inputs_at_reference, positions_of
from skilloc.intervene import Folded, Reference, as_reference, blocks_of_rows, check_model, fold, widest
from skilloc.intervene.gradients import read_gradients
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples
from skilloc.units import Units

PATHS = ("total", "direct")


@dataclass(frozen=True)
class Edges:
    """Edges between the nodes of a circuit.

    Attributes:
        nodes: in forward order.
        values: nats, on `fold subtask source target`; 0 where no path leads.
        inputs: effect of each input: loss with it held minus loss, in nats.
        subtasks: names on the subtask axis.
        measured: "total", "direct" or "closed form".
        weights: of an `MLP`, from source to target; 0 where there is none.
    """

    nodes: tuple[Node, ...]
    values: Float64[np.ndarray, "fold subtask source target"]
    inputs: Float64[np.ndarray, "fold subtask input"]
    subtasks: tuple[str, ...]
    measured: str
    weights: Float[np.ndarray, "source target"] | None


def edge_effects(
    model: Any,
    batches: Mapping[str, Examples],
    units: Units,
    keep: Bool[np.ndarray, "unit"],
    *,
    reference: Reference | Float[np.ndarray, "unit"] | None = None,
    folds: int = 8,
    paths: str | None = None,
    inputs: Sequence[str] | None = None,
) -> Edges:
    """Measure the edges between some units, the inputs and the outputs.

    Args:
        model: a bridge or an `MLP` in evaluation mode; it is left as it was.
        batches: the examples of each subtask.
        units: the unit axis.
        keep: which units are in the circuit.
        reference: what a source is held at; zero if not given, or one value per unit.
        folds: number of disjoint parts of each batch.
        paths: "total" or "direct"; if not given, direct for an `MLP` and total for a language model.
        inputs: names of the inputs of an `MLP`.

    Raises:
        ValueError: if the arguments do not belong together, or direct edges are asked of a model that does not simply
            add what its heads and MLPs write.
    """
    is_mlp = isinstance(model, MLP)
    paths = paths or ("direct" if is_mlp else "total")
    if paths not in PATHS:
        raise ValueError(f'unknown `paths` "{paths}"; use total or direct')
    check_model(model, (folded := fold(batches, folds)).batch)
    device = next(model.parameters()).device
    folded, held = folded.to(device), as_reference(reference, units).to(device)
    nodes = nodes_of(model, units, keep, inputs)
    shares = _shares(folded)
    values, found = np.zeros((len(shares), len(nodes), len(nodes))), []
    changes = total if paths == "total" else closed_form if is_mlp else direct
    with one_thread(), torch.no_grad():
        ends = inputs_at_reference(model, folded, held)
        for rows in blocks_of_rows(folded.batch, widest(model)):
            batch = Examples(folded.batch.inputs[rows], folded.batch.targets[rows])
            clean = read_gradients(model, batch, positions_of(nodes))
            run = Run(model, batch, nodes, clean, held, rows, ends)
            found.append(shares[:, rows] @ input_effects(run).cpu().numpy())
            for source, targets, change in tqdm(changes(run), total=len(nodes), desc="edges", disable=None):
                values[:, source, targets] += shares[:, rows] @ change.cpu().numpy()
    axes = (folded.folds, len(folded.subtasks))
    return Edges(
        nodes=nodes,
        values=values.reshape(*axes, len(nodes), len(nodes)),
        inputs=np.sum(found, axis=0).reshape(*axes, -1),
        subtasks=folded.subtasks,
        measured=CLOSED_FORM if is_mlp and paths == "direct" else paths,
        weights=weights_between(model, nodes) if is_mlp else None,
    )


def _shares(folded: Folded) -> Float64[np.ndarray, "part example"]:
    """Return the weight of each example in the mean of each fold of each subtask."""
    shares = np.zeros((folded.folds, len(folded.subtasks), len(folded.batch)))
    for f, parts in enumerate(folded.rows):
        for s, part in enumerate(parts):
            shares[f, s, part] = 1 / (part.stop - part.start)
    return shares.reshape(-1, len(folded.batch))
