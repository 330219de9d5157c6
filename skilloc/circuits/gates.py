"""Learned circuits: which units, together, keep the loss low while all others are at their reference.

Units with large single effects need not make a circuit: what a unit does in the whole model says little about what it
does among forty others. Here every unit gets a gate, 1 = as it is, 0 = at its reference, and the gates are learned all
together by gradient on the loss of the very circuit that they make, under a price per open gate (`solvers`). The path
begins at the whole model, where the gradient is the attribution of every unit, and closes gates step by step to the
largest wanted size, and from there to the next: one run gives the curve. At every wanted size the largest gates become
a binary circuit, which is mended by exchanges that are checked on the same examples (`exchange`), and the path goes on
from the mended one.

The weights of the model stay as they are. Learn on the train split; whatever is chosen after that (a size that keeps a
share) on another, and state its faithfulness on a third.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64

from skilloc.circuits.exchange import exchanged
from skilloc.circuits.gated import Gated, gated
from skilloc.circuits.solvers import HardConcrete, Proximal, Solver
from skilloc.experiment import Experiment
from skilloc.masks import Mask, top
from skilloc.mistakes import WrongValue, a_seed, of_kind, real, whole
from skilloc.store.progress import counter
from skilloc.units import Units

PROXIMAL, HARD_CONCRETE = "proximal", "hard concrete"
RATES = {PROXIMAL: 0.05, HARD_CONCRETE: 0.2}
REST = 0.15
"""Part of the steps of a size that are taken at that size, after the gates have closed down to it."""


@dataclass(frozen=True)
class GateConfig:
    """How gates are learned.

    Attributes:
        sizes: numbers of units of the circuits, learned from the largest to the smallest.
        share: stop below the first size that keeps less than this share of the skill on the examples of the exchanges.
        solver: "proximal" or "hard concrete".
        steps: gradient steps per size; random gates need about twice as many as proximal ones.
        batch: examples per step; those of an `MLP` are small, and some hundred take no longer than 8.
        rate: of the steps; if not given, 0.05 of proximal gates and 0.2 of hard-concrete logits.
        checked: examples that exchanges are checked on.
        rounds: of exchanges at each size, at most; 0 for none.
        exact: candidates that are tried exactly in small circuits (`exchange.SMALL`); 0 for none.
        beyond: of a loss that has no end, such as a difference of logits: whether less is always better. If not, it
            counts how far the loss of each example is from the untouched model's, on either side: a circuit that does
            more than the model is none of the model's.
    """

    sizes: tuple[int, ...] = (640, 320, 160, 100, 40, 20)
    share: float | None = None
    solver: str = PROXIMAL
    steps: int = 40
    batch: int = 8
    rate: float | None = None
    checked: int = 32
    rounds: int = 8
    exact: int = 4
    beyond: bool = False

    def __post_init__(self) -> None:
        if self.solver not in RATES:
            raise WrongValue(f'unknown `solver` "{self.solver}"; use {" or ".join(RATES)}')
        if not self.sizes:
            raise WrongValue("`sizes` is empty; name at least one number of units")
        for size in self.sizes:
            whole("sizes", size)
        for name, least in (("steps", 1), ("batch", 1), ("checked", 1), ("rounds", 0), ("exact", 0)):
            whole(name, getattr(self, name), least)
        if self.rate is not None:
            real("rate", self.rate, 0.0, open_ends=(True, False))
        if self.share is not None and not 0 < self.share <= 1:
            raise WrongValue(f"`share` is {self.share}; choose a share of the skill above 0 and at most 1")


@dataclass(frozen=True)
class Learned:
    """Circuits of rising size that were learned for one subtask.

    Attributes:
        keep: which units each circuit keeps.
        gates: how open each gate was at that size, before exchanges.
        losses: of the circuits, on the examples that exchanges were checked on.
        floor: the loss with every unit at its reference, on the same.
        baseline: that of the untouched model.
        prices: what the last open gate was worth, in the loss's unit.
        sizes: number of units of each.
        subtask: whose loss.
        units: the unit axis.
        made: how.
    """

    WHAT: ClassVar[str] = "learned circuits"

    keep: Bool[np.ndarray, "size unit"]
    gates: Float64[np.ndarray, "size unit"]
    losses: Float64[np.ndarray, " size"]
    prices: Float64[np.ndarray, " size"]
    floor: float
    baseline: float
    sizes: tuple[int, ...]
    subtask: str
    units: Units
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def masks(self) -> list[Mask]:
        """The circuits, of rising size."""
        return [Mask(self.units, keep) for keep in self.keep]

    def mask(self, size: int) -> Mask:
        """Return the circuit of a size.

        Raises:
            ValueError: if none of that size was learned.
        """
        if size not in self.sizes:
            raise WrongValue(f"`size` is {size}, but circuits were learned of {', '.join(map(str, self.sizes))} units")
        return Mask(self.units, self.keep[self.sizes.index(size)])

    @property
    def shares(self) -> Float64[np.ndarray, " size"]:
        """The share of the skill that each keeps where it was learned: no measurement of it elsewhere."""
        return (self.floor - self.losses) / (self.floor - self.baseline)


def learn_circuit(experiment: Experiment, config: GateConfig = GateConfig(), *, subtask: str, seed: int = 0) -> Learned:
    """Learn circuits of several sizes for one subtask, on the experiment's examples.

    minimise over gates in {0, 1}^unit, sum = size:  mean loss with activation[u] -> reference + gate (activation -
    reference); of a loss that has no end (`Loss.ends`), the mean of how far it is from the untouched model's.

    Args:
        experiment: what is measured on what: its loss (the task's own, or "kl" for the untouched model's answers), its
            reference, its units. Use the train split, with some hundred examples.
        config: how to learn.
        subtask: whose loss.
        seed: of the order of the examples and of hard-concrete gates.

    Raises:
        ValueError: if there is no such subtask, a size is beyond the number of units, the loss has no gradient, or the
            model is no better on the subtask than with every unit at its reference.

    Example:
        >>> import skilloc as sk
        >>> from skilloc.circuits.gates import GateConfig, learn_circuit
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, reference="mean", split="train", count=64)
        >>> learned = learn_circuit(experiment, GateConfig(sizes=(4, 8), steps=10), subtask="parity_0")
        >>> learned.keep.sum(axis=1)
        array([4, 8])
    """
    of_kind("experiment", experiment, Experiment, "pass Experiment(model, subtasks)")
    a_seed("seed", seed)
    units = experiment.units
    if max(config.sizes) > len(units):
        raise WrongValue(f"`sizes` has {max(config.sizes)} but there are {len(units)} units; choose at most that")
    model = gated(experiment, subtask=subtask, batch=config.batch, seed=seed, beyond=config.beyond)
    check = model.turn(0, config.checked)
    floor, baseline = (model.loss(np.full(len(units), end), check) for end in (0.0, 1.0))
    if floor <= baseline and config.share is not None:
        raise WrongValue(
            f'`share` is {config.share}, but the model is no better on "{subtask}" than with every unit at its '
            "reference, so that there is no skill to keep a share of; use another reference, or sizes alone"
        )
    found = learned_path(model, config, check, (floor, baseline), seed=seed)
    sizes = tuple(sorted(found))
    made = {"method": "gates", **asdict(config), "seed": seed, **experiment.only(subtask).record()}
    return Learned(
        keep=np.stack([found[size][0] for size in sizes]),
        gates=np.stack([found[size][1] for size in sizes]),
        losses=np.array([found[size][2] for size in sizes]),
        prices=np.array([found[size][3] for size in sizes]),
        floor=floor,
        baseline=baseline,
        sizes=sizes,
        subtask=subtask,
        units=units,
        made=made,
    )


Found = tuple[Bool[np.ndarray, " gate"], Float64[np.ndarray, " gate"], float, float]
"""What is kept at a size, how open each gate was, the loss, and the price."""


def learned_path(
    model: Gated, config: GateConfig, check: list[slice], ends: tuple[float, float], *, seed: int
) -> dict[int, Found]:
    """Return what is found at each size, from the largest to the smallest.

    Args:
        model: the gated loss.
        config: how to learn.
        check: the examples that exchanges are checked on.
        ends: the loss on these with all gates closed, and with all open.
        seed: of hard-concrete gates.
    """
    count = model.count
    solver, before, taken = _solver(config, count, seed), count, 0
    found: dict[int, Found] = {}
    sizes = sorted(set(config.sizes), reverse=True)
    with counter(len(sizes) * config.steps, "learning gates") as bar:
        for size in sizes:
            for step in range(config.steps):
                closed = min(1.0, (step + 1) / config.steps / (1 - REST))
                _, slopes = model.slopes(solver.draw(), model.turn(taken, config.batch))
                solver.step(slopes, before * (size / before) ** closed)
                taken += 1
                bar.update(1)
            before, gates = size, solver.scores().copy()
            keep = top(gates, size)
            mended, loss = exchanged(model, keep, check, rounds=config.rounds, exact=config.exact)
            solver.exchange(mended & ~keep, keep & ~mended)
            found[size] = mended, gates, loss, solver.price
            if config.share is not None and (ends[0] - loss) / (ends[0] - ends[1]) < config.share:
                break
    return found


def _solver(config: GateConfig, count: int, seed: int) -> Solver:
    rate = RATES[config.solver] if config.rate is None else config.rate
    return Proximal(count, rate) if config.solver == PROXIMAL else HardConcrete(count, rate, seed=seed)
