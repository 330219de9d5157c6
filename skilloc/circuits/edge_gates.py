"""Which edges of a circuit are enough: a gate on each, learned together, or their integrated gradients.

Edges are learned as units are (`gates`): the path begins at the circuit with all its edges, where the gradient of the
gates is the attribution of every edge along its own direct path, and closes gates down to each wanted number; what is
kept is mended by exchanges. `edge_scores` takes the same gradient along the way from no edges to all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from skilloc.circuits.faithfulness import sizes_up_to
from skilloc.circuits.gated import Gated, shuffled
from skilloc.circuits.gates import GateConfig, learned_path
from skilloc.circuits.wires import Wiring, wiring
from skilloc.experiment import Experiment
from skilloc.experiment.threads import one_thread
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue, whole
from skilloc.store.progress import progress

POINTS = 8
"""Gradients of an integral: on the embedded model the scores add up to within a hundredth with half of them."""

TOKENS = 512
"""Positions that pass through a circuit together; every unit's block keeps its activations for the gradient."""


@dataclass(frozen=True)
class LearnedEdges:
    """Edges of one circuit, in sets of rising size.

    Attributes:
        keep: which edges each set keeps, in the order of `names`.
        gates: how open each was at that size, before exchanges.
        losses: of the circuit with only these, on the examples that exchanges were checked on.
        floor: that of the circuit with none of its edges, on the same.
        whole: that of the circuit with all its edges.
        names: source and target of each edge that there can be.
        subtask: whose loss.
        made: how.
    """

    keep: Bool[np.ndarray, "size edge"]
    gates: Float64[np.ndarray, "size edge"]
    losses: Float64[np.ndarray, " size"]
    floor: float
    whole: float
    names: tuple[tuple[str, str], ...]
    subtask: str
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of edges of each set."""
        return tuple(int(keep.sum()) for keep in self.keep)

    def edges(self, place: int) -> set[tuple[str, str]]:
        """Return source and target of the edges of one set."""
        return {name for name, kept in zip(self.names, self.keep[place], strict=True) if kept}


def learn_edges(
    experiment: Experiment,
    circuit: Mask,
    config: GateConfig | None = None,
    *,
    subtask: str,
    inputs: Sequence[str] | None = None,
    seed: int = 0,
) -> LearnedEdges:
    """Learn which edges of a circuit are enough, in sets of several sizes, on the experiment's examples.

    minimise over gates in {0, 1}^edge, sum = size:  mean loss of the circuit with only the edges of open gates

    Args:
        experiment: what is measured on what; the train split.
        circuit: whose edges.
        config: how to learn, `sizes` being numbers of edges; if not given, sizes that halve.
        subtask: whose loss.
        inputs: names of the inputs of an `MLP`.
        seed: of the order of the examples and of hard-concrete gates.

    Raises:
        ValueError: if there is no such subtask, the circuit has fewer edges than a size, or see `wires.wiring`.

    Example:
        >>> import skilloc as sk
        >>> from skilloc.circuits.gates import GateConfig
        >>> from skilloc.circuits.edge_gates import learn_edges
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, reference="mean", split="train", count=64)
        >>> circuit = sk.Mask(experiment.units, [unit % 4 == 0 for unit in range(16)])
        >>> learn_edges(experiment, circuit, GateConfig(sizes=(3, 6), steps=5), subtask="parity_0").sizes
        (3, 6)
    """
    model, places = wired_gates(experiment, circuit, subtask=subtask, inputs=inputs, seed=seed)
    config = config or GateConfig(sizes=tuple(sizes_up_to(model.count)))
    if max(config.sizes) > model.count:
        raise WrongValue(
            f"`sizes` has {max(config.sizes)}, but the circuit has {model.count} edges; choose at most that"
        )
    check = model.turn(0, config.checked)
    floor, whole_loss = (model.loss(np.full(model.count, end), check) for end in (0.0, 1.0))
    found = learned_path(model, config, check, (floor, whole_loss), seed=seed)
    sizes = sorted(found)
    return LearnedEdges(
        keep=np.stack([found[size][0] for size in sizes]),
        gates=np.stack([found[size][1] for size in sizes]),
        losses=np.array([found[size][2] for size in sizes]),
        floor=floor,
        whole=whole_loss,
        names=tuple(places.names),
        subtask=subtask,
        made={"method": "edge gates", **asdict(config), "seed": seed, **experiment.only(subtask).record()},
    )


def wired_gates(
    experiment: Experiment,
    circuit: Mask,
    *,
    subtask: str,
    inputs: Sequence[str] | None = None,
    batch: int = 32,
    seed: int = 0,
) -> tuple[Gated, Wiring]:
    """Return one subtask's examples in random order, with a gate on every edge of a circuit, and these edges.

    Raises:
        ValueError: as `learn_edges`.
    """
    own = shuffled(experiment, subtask=subtask, seed=seed)
    places = wiring(own, circuit, inputs=inputs)
    if not len(places):
        raise WrongValue("`circuit` has no edges: nothing of it comes after anything else; choose more units")
    return Gated(own, batch, len(places), places.logits), places


def edge_scores(model: Gated, *, points: int = POINTS, examples: slice | None = None) -> Float64[np.ndarray, " edge"]:
    """Return how much each edge lowers the loss, by integrated gradients from no edges to all of the circuit's.

        score[e] = - mean over k < points of d loss / d wire[e] at all wires = (k + 1/2) / points,  in the loss's unit

    The scores add up to what all edges together lower the loss by, but for the error of the sum over points.

    Args:
        model: gates on the edges (`wired_gates`).
        points: gradients that are taken.
        examples: some of them; all if not given.
    """
    whole("points", points)
    every = [examples or slice(0, len(model))]
    slopes = [model.slopes(np.full(model.count, (k + 0.5) / points), every)[1] for k in range(points)]
    found: Float64[np.ndarray, " edge"] = -np.mean(slopes, axis=0)
    return found


def wire_effects(places: Wiring) -> Float64[np.ndarray, "fold subtask source target"]:
    """Return how much each edge of a circuit lowers the loss on every part of the examples, as `edge_scores` has it."""
    own = places.experiment
    model, (a, b) = gates_on(places), places.pairs.numpy().T
    values = np.zeros((own.folded.folds, len(own.folded.subtasks), len(places.nodes), len(places.nodes)))
    parts = [(f, s, part) for f, row in enumerate(own.folded.parts) for s, part in enumerate(row)]
    with one_thread():
        for f, s, part in progress(parts, "edges"):
            values[f, s, a, b] = edge_scores(model, examples=part)
    return values


def gates_on(places: Wiring) -> Gated:
    """Return examples with a gate on every edge of a circuit."""
    batch = max(1, TOKENS // places.experiment.folded.examples.positions)
    return Gated(places.experiment, batch, len(places), places.logits)
