"""Edges: how much the loss is lowered by what one unit gives to a later one.

Wires are about the circuit alone, all other units at their reference (`wires`): an edge is what A itself adds to what B
reads, and its value how much it lowers the loss,

    edge[f, s, A, B] = - mean over k < K of d loss / d wire[A, B] with all wires of the circuit at (k + 1/2) / K,  K = 8
                       loss: mean over the examples of fold f of subtask s

These integrated gradients add up, over the edges, to what all edges together lower the loss by. They say how the
circuit works, and a few of them can be enough (`claims`). Any loss with a gradient will do. Each unit takes a run.

Total and direct edges are about the whole model, and say where the effect of a unit passes:

    edge[f, s, A, B] = mean over the examples e of fold f of subtask s of
                       sum over its rows r and positions t (and the unit's own entries) of
                       (B[r, t] with A at its reference - B[r, t]) g_B[r, t]

with g_B the gradient of the example's loss at B in the untouched model; in the loss's unit. It has the sign of an
effect: positive means that what A does to B lowers the loss, so that without A the loss rises through B.

These are of first order in the target, and so for comparing edges: where the loss is close to 0, gradients and edges
are small while effects are not; and where the source's reference is far from its values (zero for a head whose mean is
not) an edge can have the other sign than the measured effect. Prefer a mean, or other examples, as reference. A count
has no gradient at all, and a divergence from the untouched model none there, so that it has wires only.

Total edges count all paths from A to B: the model runs with A held. In direct edges only what A itself writes reaches
B; everything between is as in the untouched model. In a chain of linear maps (an `MLP`) a unit writes to the next layer
only, so direct edges join neighbouring layers and have a closed form, exact and without any run:

    B with A at its reference = activation(p_B + (reference_A - A) w_AB),   p_B the pre-activation of B, w_AB the weight

An input is held at zero, or at its mean over the measured examples where the reference is a mean (per position where
that is), or at that of the paired examples: an input of an `MLP`, or of a language model what enters the first block
(`tokens`). A described module has no inputs. The outputs are the logits, with their own gradient.

A unit of several places (a residual dimension) is held at all of them as a source. No edge leads into it: it is
computed anew at each place, partly from itself, so that its changes there are no one change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64

from skilloc.circuits.blocks import Block, Changes, input_effects, inputs_at_reference, places_of, positions_of
from skilloc.circuits.edge_gates import wire_effects
from skilloc.circuits.graph import CLOSED_FORM, DIRECT, TOTAL, WIRES
from skilloc.circuits.nodes import Node, nodes_of, spread_out
from skilloc.circuits.paths import closed_form, direct, total, weights_between
from skilloc.circuits.wires import MOST_UNITS, closed_form_holds, unwired, wiring
from skilloc.experiment import Experiment, Reference
from skilloc.experiment.gradients import read_gradients
from skilloc.experiment.threads import one_thread
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.points import hooks_of_users
from skilloc.store.progress import progress
from skilloc.tasks import Folded
from skilloc.units import Units

PATHS = (WIRES, TOTAL, DIRECT)


@dataclass(frozen=True)
class Edges:
    """Edges between the nodes of a circuit.

    Attributes:
        nodes: in forward order.
        values: in the loss's unit, on `fold subtask source target`; 0 where no path leads.
        inputs: effect of each input on the whole model: loss with it held minus loss.
        subtasks: names on the subtask axis.
        measured: "wires", "total", "direct" or "closed form".
        weights: of a chain of linear maps, from source to target; 0 where there is none.
        unit: of the loss.
    """

    nodes: tuple[Node, ...]
    values: Float64[np.ndarray, "fold subtask source target"]
    inputs: Float64[np.ndarray, "fold subtask input"]
    subtasks: tuple[str, ...]
    measured: str
    weights: Float[np.ndarray, "source target"] | None
    unit: str = "nats"


def edge_effects(
    experiment: Experiment,
    keep: Bool[np.ndarray, "unit"],
    *,
    paths: str | None = None,
    inputs: Sequence[str] | None = None,
) -> Edges:
    """Measure the edges between some units, the inputs and the outputs.

    Args:
        experiment: what is measured on what.
        keep: which units are in the circuit.
        paths: "wires", "total" or "direct"; if not given, wires, which are measured between at most `wires.MOST_UNITS`
            units of any model, and of an `MLP` between any number; where there are none, direct for a chain of linear
            maps such as an `MLP`, and total for other models.
        inputs: names of the inputs of an `MLP`.

    Raises:
        ValueError: if the arguments do not belong together, the loss has no gradient (for all but wires, at the
            untouched model), an edge would lead into a unit of several places, there are no wires, or direct edges are
            asked of a model that does not simply add what its parts write.
    """
    experiment.check_unchanged()
    paths, nodes = check_edges(experiment, keep, paths=paths, inputs=inputs)
    face, folded, units = experiment.face, experiment.folded, experiment.units
    banks = [bank for bank in units.banks if bank.name in places_of(nodes) and bank not in spread_out(units)]
    changes = {WIRES: _nothing, TOTAL: total, DIRECT: direct if face.chain is None else closed_form}[paths]
    shares, found = _shares(folded), []
    sums = np.zeros((len(shares), len(nodes), len(nodes)))
    with one_thread(), torch.no_grad():
        ends = inputs_at_reference(experiment) if nodes[0].column == 0 else Reference(experiment.held.name, {})
        for block in experiment.blocks:
            examples, prepared = experiment.part(block)
            clean = read_gradients(face, examples, banks, positions_of(nodes), experiment.metric, prepared)
            run = Block(experiment, examples, prepared, experiment.rows_of(block), nodes, clean, ends)
            found.append(shares[:, block] @ input_effects(run).cpu().numpy())
            for source, targets, change in progress(changes(run), "edges", total=len(nodes)):
                sums[:, source, targets] += shares[:, block] @ change.cpu().numpy()
    axes = (folded.folds, len(folded.subtasks))
    values = sums.reshape(*axes, len(nodes), len(nodes))
    if paths == WIRES:
        values = wire_effects(wiring(experiment, Mask(units, np.asarray(keep)), inputs=inputs))
    return Edges(
        nodes=nodes,
        values=values,
        inputs=np.sum(found, axis=0).reshape(*axes, -1),
        subtasks=folded.subtasks,
        measured=CLOSED_FORM if changes is closed_form else paths,
        weights=None if face.chain is None else weights_between(face.chain, nodes),
        unit=experiment.metric.unit,
    )


def _nothing(_: Block) -> Changes:
    return iter(())


OTHER_LOSS = "measure faithfulness under it, and edges under another loss, such as cross_entropy"


def check_edges(
    experiment: Experiment,
    keep: Bool[np.ndarray, "unit"],
    *,
    paths: str | None = None,
    inputs: Sequence[str] | None = None,
    cure: str = OTHER_LOSS,
) -> tuple[str, tuple[Node, ...]]:
    """Return which paths are meant, and between which nodes, before anything is measured.

    Args:
        experiment: as for `edge_effects`, like all but the last.
        keep: which units are in the circuit.
        paths: one of `PATHS`, or None.
        inputs: names of the inputs.
        cure: what can be done where the loss has no edges.

    Raises:
        ValueError: as `edge_effects`.
    """
    loss = experiment.metric
    nodes = nodes_of(experiment.face, experiment.units, keep, inputs)
    paths = _paths(experiment, paths, int(np.sum(keep)))
    if not loss.differentiable or (loss.flat and paths != WIRES):
        why = "whose gradient at the untouched model is zero, so that all edges but wires would be"
        why = why if loss.differentiable else "which is a count and has no gradient to measure edges by"
        raise WrongValue(f'`loss` is "{loss.name}", {why}; {cure}')
    _check_targets(experiment.units, nodes)
    return paths, nodes


def _paths(experiment: Experiment, paths: str | None, count: int) -> str:
    """Return which paths are meant, and refuse those that cannot be told apart in this model."""
    face, hooks = experiment.face, hooks_of_users(experiment.model)
    weights = face.chain is not None and not hooks
    no_wires = why_no_wires(experiment, count)
    paths = paths or (WIRES if not no_wires else DIRECT if weights else TOTAL)
    if paths not in PATHS:
        raise WrongValue(f'unknown `paths` "{paths}"; use one of {", ".join(PATHS)}')
    if paths == WIRES and no_wires:
        raise WrongValue(f"`paths` is wires, of which there are none: {no_wires}")
    if paths == DIRECT and face.chain is not None and hooks:
        raise WrongValue(
            f"`paths` is direct, which is worked out from the weights of this {face.architecture}, but it has hooks of "
            f'your own ({", ".join(hooks)}); take them off, or use paths="total"'
        )
    if paths == DIRECT and not weights and not face.stream:
        raise WrongValue(
            f"`paths` is direct, but it is not known what the units of this {face.architecture} write to each "
            'other; use paths="total"'
        )
    return paths


def why_no_wires(experiment: Experiment, count: int) -> str:
    """Say why the wires of a circuit of some size are not measured; nothing where they are."""
    if count > MOST_UNITS and not closed_form_holds(experiment):
        return f"it has {count:,} units, and each takes a run: {MOST_UNITS} units at most"
    return unwired(experiment)


def _check_targets(units: Units, nodes: Sequence[Node]) -> None:
    """Refuse edges into units of several places."""
    for bank in spread_out(units):
        own = [node for node in nodes if node.hook == bank.name]
        before = [node for node in nodes if own and node.column < own[0].column]
        if before:
            raise WrongValue(
                f"`keep` has {before[0].name} before {own[0].name}, which has {len(bank.places)} places and is "
                "computed anew at each, so that no edge leads into it; keep units of one such bank at a time"
            )


def _shares(folded: Folded) -> Float64[np.ndarray, "part example"]:
    """Return the weight of each example in the mean of each fold of each subtask."""
    shares = np.zeros((folded.folds, len(folded.subtasks), len(folded.examples)))
    for f, parts in enumerate(folded.parts):
        for s, part in enumerate(parts):
            shares[f, s, part] = 1 / (part.stop - part.start)
    return shares.reshape(-1, len(folded.examples))
