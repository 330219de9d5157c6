"""Which way of choosing units makes circuits that are the skill, from twenty units to hundreds?

Question: of the ways to say which units a skill needs (exact effects, their estimates, what a shrinking circuit can
spare, gates that are learned together), whose circuits keep most of the skill on text that chose nothing, at each
number of units and at which cost? An answer: the share kept by every way at every size beside random units of the same
layers, the same search on shuffled labels, and the same circuits with inputs that say nothing (blind), with intervals
of the differences on the same text; the area under each curve; the CPU seconds.

In the embedded model every way chooses among all heads and neurons for each corpus, on the train split; means are per
position, from the selection split; everything is stated on the report split. In parity networks each way gives the
smallest circuit that keeps 95 % on the selection split.

CPU minutes: one for `--scale quick`, about 50 for `cpu`, some hours for `paper`.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from _frame import Cells, analyse
from _parity import LEARNED
from _rankings_drawn import RANDOM, SHUFFLED, draw
from _rankings_parity import GATES, ParityRankings, measure_parity, together
from skilloc.ablation import ablation_effects, mask_effects
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.circuits.areas import area_from_one, area_under
from skilloc.circuits.blind import blind_losses
from skilloc.circuits.faithfulness import share_kept
from skilloc.circuits.gates import HARD_CONCRETE, GateConfig, learn_circuit
from skilloc.circuits.judging import with_shuffled_labels
from skilloc.experiment import Experiment
from skilloc.masks import Mask, matched_random, top
from skilloc.models.language import open_model
from skilloc.store import Labelled, Result
from skilloc.study.draws import subtasks_of

WANTED = 0.9
"""Share that the least number of units is looked for at, among the measured sizes."""


@dataclass(frozen=True)
class TextRankings:
    """The spec of one cell: a corpus of the embedded model, and a seed of all that chooses."""

    source: str = "python"
    """where texts come from"""
    sizes: tuple[int, ...] = (20, 40, 100, 160, 320, 640)
    """numbers of units"""
    length: int = 64
    """tokens per example"""
    learned_on: int = 192
    """examples that gates are learned on"""
    estimated_on: int = 16
    """examples of estimates"""
    measured_on: int = 4
    """examples of exact effects"""
    stated_on: int = 24
    """examples that circuits are measured on"""
    steps: int = 25
    """of learning, per size"""
    random_steps: int = 50
    """of learning hard-concrete gates, whose draws are noise that more steps average"""
    draws: int = 20
    """random circuits, of the layers of the proximal ones"""
    shuffled: bool = False
    """whether gates are learned on shuffled labels too"""
    folds: int = 8
    """disjoint parts of the examples that are stated on"""
    seed: int = 0
    """of the examples that choose, of their order, and of the random circuits"""


QUICK_TEXT = TextRankings(
    sizes=(20, 200), length=16, learned_on=16, estimated_on=8, measured_on=1, stated_on=8, steps=4, random_steps=4,
    draws=2, shuffled=True, folds=4,
)  # fmt: skip
QUICK_PARITY = ParityRankings(
    n=6, sets=((0,), (1,), (2,), (3,)), examples=50, width=14, steps=800, rate=1e-2, evaluate_every=100, held_out=200,
    gate_steps=5,
)  # fmt: skip
SOURCES = ("python", "cpp", "english")


def _texts(seeds: int, **settings: Any) -> list[TextRankings]:
    """Return the cells of all corpora; random circuits and shuffled labels with the first seed only."""
    first, others = TextRankings(**settings, shuffled=True), TextRankings(**settings, draws=0)
    return [replace(others if seed else first, source=source, seed=seed) for seed in range(seeds) for source in SOURCES]


SCALES = {
    "quick": ([QUICK_TEXT], [QUICK_PARITY]),
    "cpu": (_texts(3), [ParityRankings(seed=seed) for seed in range(3)]),
    "paper": (
        _texts(5, learned_on=1024, stated_on=128, measured_on=64, steps=200, random_steps=400),
        [ParityRankings(seed=seed) for seed in range(8)],
    ),
}


def measure_text(settings: TextRankings) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Choose circuits of all sizes in every way, and measure what they keep on text that chose nothing.

    Returns:
        CPU seconds of each way's choosing; and, in nats, the loss increase with only a circuit on `way size fold`, with
        only a random one on `draw size fold`, with nothing on `fold`, and the loss itself on `fold`. The circuits.
    """
    train, stated = splits_of(settings)
    circuits, seconds = _text_circuits(train, settings)
    ways, units = list(circuits), train.units
    masks = [Mask(units, np.zeros(len(units), dtype=bool))]
    masks += [mask for way in ways for mask in circuits[way]]
    masks += [
        matched_random(mask, seed=1000 * settings.seed + d)
        for d in range(settings.draws)
        for mask in circuits["proximal gates"]
    ]
    found, base = mask_effects(stated, masks)
    kept = found[1:, :, 0].reshape(len(ways) + settings.draws, len(settings.sizes), settings.folds)
    sizes = [str(size) for size in settings.sizes]
    keep = np.stack([[mask.keep for mask in circuits[way]] for way in ways]).astype(np.uint8)
    arrays = {
        "kept": Labelled(kept[: len(ways)], ("way", "size", "fold"), {"way": ways, "size": sizes}),
        "floor": Labelled(found[0, :, 0], ("fold",), {}),
        "baseline": Labelled(base[:, 0], ("fold",), {}),
        "keep": Labelled(keep, ("way", "size", "unit"), {"way": ways, "size": sizes}),
    }
    if settings.draws:
        arrays["random"] = Labelled(kept[len(ways) :], ("draw", "size", "fold"), {"size": sizes})
    return {"ways": ways, "seconds": seconds, "units": len(units)}, arrays


def splits_of(settings: TextRankings) -> tuple[Experiment, Experiment]:
    """Return what circuits are chosen on, and what they are stated on."""
    opened = open_model("embedded")
    subtasks = subtasks_of(opened, {settings.source: settings.source}, length=settings.length)
    whole = Experiment(opened.model, subtasks, reference="mean", count=settings.learned_on, split="train", folds=1)
    means = whole.on("selection").examples
    train = replace(whole, seed=settings.seed, other=means)
    return train, replace(whole, split="report", count=settings.stated_on, folds=settings.folds, other=means)


def blind_of(result: Result) -> dict[str, list[dict[str, float]]]:
    """Return what the circuits of a cell keep whatever the text is, by way and size."""
    own = {one.name: result.spec[one.name] for one in fields(TextRankings)}
    _, stated = splits_of(TextRankings(**{**own, "sizes": tuple(own["sizes"])}))
    keep, floor = result.arrays["keep"].values.astype(bool), result.arrays["floor"].values
    masks = [Mask(stated.units, one) for one in keep.reshape(-1, keep.shape[-1])]
    found = blind_losses(stated.only(result.spec["source"]), masks).reshape(*keep.shape[:2], len(floor))
    return {
        way: [share_kept(row, floor).record() for row in rows]
        for way, rows in zip(result.metrics["ways"], found, strict=True)
    }


def _text_circuits(train: Experiment, settings: TextRankings) -> tuple[dict[str, list[Mask]], dict[str, float]]:
    name, units = settings.source, train.units
    few = replace(train, count=settings.estimated_on)
    rankings: dict[str, Callable[[], Float[np.ndarray, " unit"]]] = {
        "exact effects": lambda: ablation_effects(replace(train, count=settings.measured_on)).mean(name),
        "attribution": lambda: attribution_effects(few, curvature=0).mean(name),
        "with curvature": lambda: attribution_effects(few, seed=settings.seed).mean(name),
        "curvature of KL": lambda: attribution_effects(replace(few, loss="kl"), seed=settings.seed).mean(name),
        "integrated gradients": lambda: integrated_gradients_effects(few, steps=4).mean(name),
    }
    circuits: dict[str, list[Mask]] = {}
    seconds = {}
    for way, solver in GATES.items():
        steps = settings.random_steps if solver is HARD_CONCRETE else settings.steps
        config = GateConfig(sizes=settings.sizes, solver=solver, steps=steps)
        began = time.process_time()
        circuits[way] = learn_circuit(train, config, subtask=name, seed=settings.seed).masks
        seconds[way] = round(time.process_time() - began, 1)
    for way, rank in rankings.items():
        began = time.process_time()
        values = rank()
        seconds[way] = round(time.process_time() - began, 1)
        circuits[way] = [Mask(units, top(values, size)) for size in settings.sizes]
    if settings.shuffled:
        other = with_shuffled_labels(train, subtask=name, seed=settings.seed)
        config = GateConfig(sizes=settings.sizes, steps=settings.steps)
        circuits[SHUFFLED] = learn_circuit(other, config, subtask=name, seed=settings.seed).masks
    return circuits, seconds


def measure(scale: tuple[list[TextRankings], list[ParityRankings]], run: Cells) -> dict[str, Any]:
    """Run all cells, and put together what the figure shows."""
    texts, networks = scale
    results = run(measure_text, texts)
    parity = [result.metrics for result in run(measure_parity, networks)]
    sources = list(dict.fromkeys(spec.source for spec in texts))
    return {
        "settings": asdict(texts[0]),
        "seeds": len({spec.seed for spec in texts}),
        "corpora": {source: _corpus([r for r in results if r.spec["source"] == source]) for source in sources},
        "parity": together([one for one in parity if max(one["bits"].values()) < LEARNED], len(parity)),
    }


def _corpus(results: list[Result]) -> dict[str, Any]:
    """Return shares kept by way and size, means over seeds with intervals over folds, and differences to the first."""
    sizes, units = list(results[0].spec["sizes"]), results[0].metrics["units"]
    floor = np.mean([r.arrays["floor"].values for r in results], axis=0)
    found: dict[str, Any] = {}
    blind = blind_of(results[0])
    first: Float[np.ndarray, "size fold"] | None = None
    for way in [*GATES, *(w for w in results[-1].metrics["ways"] if w not in (*GATES, SHUFFLED)), SHUFFLED]:
        own = [r for r in results if way in r.metrics["ways"]]
        each = np.stack([r.arrays["kept"].values[r.metrics["ways"].index(way)] for r in own])
        increase = each.mean(axis=0)
        first = increase if first is None else first
        shares = [share_kept(row, floor) for row in increase]
        # The same folds and the same floor: 1 - (a - b) / floor is one plus how far b keeps more than a.
        behind = [share_kept(a - b, floor) for a, b in zip(increase, first, strict=True)]
        seeds = 1 - each.mean(axis=2) / floor.mean()
        found[way] = {
            "kept": [one.record() for one in shares],
            "blind": blind.get(way),
            "less_than_first": [[1 - one.value, 1 - one.high, 1 - one.low] for one in behind],
            "seeds": seeds.round(4).tolist(),
            "nats": increase.mean(axis=1).round(4).tolist(),
            "area_under": area_under(sizes, [one.value for one in shares], units=units),
            "area_from_one": area_from_one(sizes, [one.value for one in shares], units=units),
            "least": next((s for s, one in zip(sizes, shares, strict=True) if one.value >= WANTED), None),
            "seconds": float(np.mean([r.metrics["seconds"].get(way, np.nan) for r in own]))
            if way != SHUFFLED
            else None,
        }
    random = np.concatenate([r.arrays["random"].values for r in results if "random" in r.arrays])
    each = 1 - random.mean(axis=2) / floor.mean()
    found[RANDOM] = {
        "kept": each.mean(axis=0).round(4).tolist(),
        "range": np.quantile(each, [0.025, 0.975], axis=0).round(4).tolist(),
        "nats": random.mean(axis=(0, 2)).round(4).tolist(),
    }
    baseline = float(np.mean([r.arrays["baseline"].values for r in results]))
    return {"sizes": sizes, "units": units, "floor": float(floor.mean()), "baseline": baseline, "ways": found}


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
