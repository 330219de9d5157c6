"""Smallest circuits of parity networks, by every way of choosing units: spec, cell, and what the figure needs."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from _parity import ParityTraining, network_of, train_parity, world_of
from skilloc.ablation import ablation_effects, mask_effects
from skilloc.circuits.elimination import elimination_ranking
from skilloc.circuits.faithfulness import enough, share_kept
from skilloc.circuits.gates import HARD_CONCRETE, PROXIMAL, GateConfig, learn_circuit
from skilloc.experiment import Experiment
from skilloc.masks import Mask, top
from skilloc.store import Result

GATES = {"proximal gates": PROXIMAL, "hard-concrete gates": HARD_CONCRETE}
ELIMINATION = "elimination"


@dataclass(frozen=True)
class ParityRankings(ParityTraining):
    """The spec of one cell: a network that learned four atomic parities and a composite, as in `circuit_hierarchy`."""

    sets: tuple[tuple[int, ...], ...] = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11))
    """index set of each atom"""
    steps: int = 6000
    """steps of Adam, at most"""
    stop_on: tuple[str, ...] = ("parity_0", "parity_1", "parity_2", "parity_3", "composite_012")
    """stop when all these subtasks are below `stop_below`"""
    held_out: int = 2000
    """examples per subtask and split"""
    share: float = 0.95
    """of the skill that a circuit keeps on the selection split"""
    gate_steps: int = 40
    """of learning, per size"""


def measure_parity(settings: ParityRankings) -> dict[str, Any]:
    """Train a network, and find the smallest circuit of each subtask in every way.

    Returns:
        Losses in bits; for each subtask and way the size that keeps the share on the selection split, what it keeps on
        the report split, and the CPU seconds of the choice.
    """
    trained, weights = train_parity(settings)
    model = network_of(Result(asdict(settings), trained, weights))
    world, count = world_of(settings), settings.held_out
    # Examples that training was not watched on.
    whole = Experiment(model, world, reference="mean", count=count, seed=settings.seed + 1_000_000, folds=8)
    means = whole.on("selection").examples
    train, selection, report = (replace(whole, split=split, other=means) for split in ("train", "selection", "report"))
    found = {name: _parity_circuits(train, selection, report, name, settings) for name in world}
    return {"bits": trained["bits"], "subtasks": found}


def _parity_circuits(
    train: Experiment, selection: Experiment, report: Experiment, name: str, settings: ParityRankings
) -> dict[str, Any]:
    units = train.units
    grid = tuple(range(4, len(units), 4))
    floor = report.only(name)
    none = Mask(units, np.zeros(len(units), dtype=bool))
    found: dict[str, Any] = {}
    for way in ("exact effects", ELIMINATION, *GATES):
        began = time.process_time()
        if way in GATES:
            config = GateConfig(sizes=grid, solver=GATES[way], steps=settings.gate_steps, batch=64, checked=512)
            learned = learn_circuit(train, config, subtask=name, seed=settings.seed)
            one = replace(selection.only(name), folds=1)
            kept, _ = mask_effects(one, [none, *learned.masks])
            shares = 1 - kept[1:, 0, 0] / kept[0, 0, 0]
            good = np.flatnonzero(shares >= settings.share)
            circuit = learned.masks[int(good[0])] if len(good) else ~none
        else:
            rank = elimination_ranking if way == ELIMINATION else None
            values = rank(train, subtask=name) if rank else ablation_effects(train.only(name)).mean(name)
            size = enough(selection, values, settings.share, subtask=name)
            circuit = Mask(units, top(values, size))
        seconds = round(time.process_time() - began, 2)
        kept, _ = mask_effects(floor, [none, circuit])
        share = share_kept(kept[1, :, 0], kept[0, :, 0])
        found[way] = {"size": int(circuit.keep.sum()), "kept": share.value, "seconds": seconds}
    return found


def together(learned: list[dict[str, Any]], networks: int) -> dict[str, Any]:
    """Return sizes, what is kept and seconds of all networks that learned, by way."""
    names = list(learned[0]["subtasks"])
    table = {
        way: {
            what: [[one["subtasks"][name][way][what] for name in names] for one in learned]
            for what in ("size", "kept", "seconds")
        }
        for way in ("exact effects", ELIMINATION, *GATES)
    }
    return {"names": names, "networks": networks, "learned": len(learned), "ways": table}
