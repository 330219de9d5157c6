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
from matplotlib.figure import Figure

from _frame import Cells, analyse
from _parity import LEARNED, ParityTraining, network_of, train_parity, world_of
from skilloc import plots
from skilloc.ablation import ablation_effects, mask_effects
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.circuits.areas import area_from_one, area_under
from skilloc.circuits.blind import blind_losses
from skilloc.circuits.elimination import elimination_ranking
from skilloc.circuits.faithfulness import enough, share_kept
from skilloc.circuits.gates import HARD_CONCRETE, PROXIMAL, GateConfig, learn_circuit
from skilloc.circuits.judging import with_shuffled_labels
from skilloc.experiment import Experiment
from skilloc.masks import Mask, matched_random, top
from skilloc.models.language import open_model
from skilloc.plots.style import CONTROL
from skilloc.store import Labelled, Result
from skilloc.study.draws import subtasks_of

GATES = {"proximal gates": PROXIMAL, "hard-concrete gates": HARD_CONCRETE}
SHUFFLED, RANDOM, ELIMINATION = "shuffled labels", "random units", "elimination"
SHOWN = (*GATES, "exact effects", "with curvature", "attribution", "curvature of KL", "integrated gradients")
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
    draws: int = 20
    """random circuits, of the layers of the proximal ones"""
    shuffled: bool = False
    """whether gates are learned on shuffled labels too"""
    folds: int = 8
    """disjoint parts of the examples that are stated on"""
    seed: int = 0
    """of the examples that choose, of their order, and of the random circuits"""


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


QUICK_TEXT = TextRankings(
    sizes=(20, 200), length=16, learned_on=16, estimated_on=8, measured_on=1, stated_on=8, steps=4, draws=2,
    shuffled=True, folds=4,
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
        _texts(5, learned_on=1024, stated_on=128, measured_on=64, steps=200),
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
        config = GateConfig(sizes=settings.sizes, solver=solver, steps=settings.steps)
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
        "parity": _parity([one for one in parity if max(one["bits"].values()) < LEARNED], len(parity)),
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


def _parity(learned: list[dict[str, Any]], networks: int) -> dict[str, Any]:
    names = list(learned[0]["subtasks"])
    table = {
        way: {
            what: [[one["subtasks"][name][way][what] for name in names] for one in learned]
            for what in ("size", "kept", "seconds")
        }
        for way in ("exact effects", ELIMINATION, *GATES)
    }
    return {"names": names, "networks": networks, "learned": len(learned), "ways": table}


def draw(found: dict[str, Any]) -> Any:
    """One panel per corpus with the share kept by the number of units; and the sizes that parity networks need."""
    corpora = found["corpora"]
    figure = Figure(figsize=(3.1 * (len(corpora) + 1), 3.6), layout="constrained")
    *panels, small = np.atleast_1d(figure.subplots(1, len(corpora) + 1))
    for ax, (source, one) in zip(panels, corpora.items(), strict=True):
        _curves(ax, source, one)
    panels[0].set_ylabel("share of the skill kept, held-out text")
    panels[0].legend(loc="upper left", fontsize=6)
    _sizes(small, found["parity"])
    settings, seeds = found["settings"], found["seeds"]
    figure.suptitle(
        f"embedded model, {next(iter(corpora.values()))['units']:,} heads and neurons, others at their mean per "
        f"position; mean of {seeds} seeds, 95 % over {settings['folds']} folds of {settings['stated_on']} × "
        f"{settings['length']} tokens; random: {settings['draws']} draws with the layers of the proximal circuits",
        fontsize=8,
    )
    return figure


def _curves(ax: Any, source: str, one: dict[str, Any]) -> None:
    sizes = np.array(one["sizes"], dtype=float)
    random = one["ways"][RANDOM]
    ax.fill_between(sizes, *random["range"], color=CONTROL, alpha=0.25, lw=0)
    ax.plot(sizes, random["kept"], color=CONTROL, ls=":", lw=1, label=RANDOM)
    ax.plot(
        sizes, [k["value"] for k in one["ways"][SHUFFLED]["kept"]], color=CONTROL, ls="--", lw=1,
        label=f"gates on {SHUFFLED}",
    )  # fmt: skip
    blind = one["ways"]["proximal gates"]["blind"]
    ax.plot(sizes, [k["value"] for k in blind], color="black", ls="-.", lw=1, label="proximal gates, blind")
    for place, way in enumerate(SHOWN):
        kept = one["ways"][way]["kept"]
        value, low, high = (np.array([k[end] for k in kept]) for end in ("value", "low", "high"))
        ax.errorbar(
            sizes * 1.03 ** (place - 3), value, [value - low, high - value], fmt="o-", ms=2.5, lw=1.2 if way in GATES
            else 0.8, color=plots.colour_of(place), label=way,
        )  # fmt: skip
    ax.set(xscale="log", xlabel="units kept", title=source)
    ax.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=60, fontsize=6)
    ax.xaxis.minorticks_off()
    ax.axhline(1, color=CONTROL, lw=0.5)
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), 1.05)


def _sizes(ax: Any, parity: dict[str, Any]) -> None:
    for place, (way, table) in enumerate(parity["ways"].items()):
        size = np.array(table["size"], dtype=float)
        for j in range(size.shape[1]):
            x = np.full(len(size), j + 0.18 * (place - 1.5))
            colour = plots.colour_of(SHOWN.index(way)) if way in SHOWN else "black"
            ax.scatter(x, size[:, j], s=10, color=colour, alpha=0.7, lw=0, label=None if j else way)
    labels = [name.partition("_")[2] for name in parity["names"]]
    ax.set_xticks(range(len(labels)), labels)
    ax.set(xlabel="parity", title=f"units that keep 0.95, {parity['learned']} networks", ylim=(0, None))
    ax.legend(fontsize=6)


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
