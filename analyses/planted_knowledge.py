"""Who finds knowledge whose place is known, and is it gone when exactly its place is cut out?

Question: the embedded model learns made-up facts in chosen units alone (some neurons of a layer; the heads that share
a key), with the weights of all others as they were. An answer: the share of the right units among as many that a way to
find them ranks highest, among all units of their kind and within their layer, with its interval over seeds and beside
chance; and the verdict of the relearning probe on the model without exactly these units, and without as many others of
their layer. What is cut exactly is the model that never learned the facts, without these units: "removed" is right of
it, and "not removed" of the other. Each seed has its own facts, units, teaching and attack.

Minutes on one core: about 30 for `--scale cpu` (3 seeds of both kinds), one for `--scale quick`; `paper` takes 10 seeds
and 768 facts, for a cluster.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from torch import nn

from _frame import Cells, analyse
from _planted import Lessons, all_of, as_many_others, drawn_units, facts, taught
from skilloc import plots, store
from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects
from skilloc.circuits.gates import GateConfig, learn_circuit
from skilloc.experiment import Experiment, losses
from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.locality.intervals import Interval, mean_interval
from skilloc.masks import Mask, top
from skilloc.models.language import Opened, encoder, open_model, separator
from skilloc.models.makers import units_of
from skilloc.pruning import prune
from skilloc.relearning import ORIGINAL, UNSEEN, Grid, Relearning, over_seeds, record, relearn_probe
from skilloc.relearning.ways import WAYS
from skilloc.store import Labelled
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.text import documents, text_subtask
from skilloc.training import TrainConfig

EXACT, OTHERS = "exactly these cut", "as many others cut"
"""The two candidates."""


@dataclass(frozen=True)
class PlantedKnowledge:
    """The spec of one cell: what is taught where, and the attack."""

    kind: str = "neuron"
    """kind of the units that learn"""
    layer: int = 2
    """where they are"""
    units: int = 48
    """how many learn"""
    together: int = 1
    """neighbours that learn together: heads that share a key"""
    seed: int = 0
    """of facts, units, teaching and attack"""
    model: str = "embedded"
    """any language model that `open_model` knows"""
    kept: str = "python"
    """source of the corpus that is kept"""
    facts: int = 96
    """how many, a third of them in each split"""
    steps: int = 400
    """of teaching, at most"""
    rate: float = 1e-3
    """of teaching"""
    rows: int = 32
    """facts per step"""
    learned: float = 0.01
    """nats on the answers at which teaching ends"""
    looked_at: int = 32
    """facts that the ways to find the units look at"""
    localizing: int = 60
    """steps of localizing on the facts"""
    gating: int = 40
    """steps of learning circuits, per size"""
    rates: tuple[float, ...] = (1e-3, 3e-3)
    """of the attack"""
    budgets: tuple[int, ...] = (1, 4, 16)
    """its numbers of steps"""
    held_out: int = 32
    """examples per subtask, on each of the selection and the report split"""
    ways: tuple[str, ...] = ("as it is", "repaired", "rescaled")
    """of attack"""

    def __post_init__(self) -> None:
        if self.facts % 3 or self.facts < 3 * self.held_out:
            raise ValueError(f"`facts` is {self.facts} and `held_out` {self.held_out}; use 3 times as many, or more")
        if self.units % self.together:
            raise ValueError(f"`units` is {self.units} and `together` {self.together}; use a multiple")


NEURONS = PlantedKnowledge()
HEADS = PlantedKnowledge(kind="head", units=3, together=3, layer=2)
QUICK: dict[str, Any] = {
    "facts": 24,
    "steps": 60,
    "rows": 24,
    "localizing": 10,
    "gating": 4,
    "looked_at": 4,
    "rates": (1e-3, 3e-3),
}
QUICK |= {"budgets": (1, 4), "held_out": 8, "ways": ("as it is", "repaired")}
SCALES: dict[str, tuple[int, tuple[PlantedKnowledge, ...]]] = {
    "quick": (2, (replace(NEURONS, **QUICK),)),
    "cpu": (3, (NEURONS, HEADS)),
    "paper": (10, (replace(NEURONS, facts=768, units=96, steps=4000), replace(HEADS, facts=192, steps=4000))),
}


def exact(settings: PlantedKnowledge, model: nn.Module, known: Examples) -> np.ndarray:
    """Rank by measured effects on the facts."""
    return ablation_effects(_experiment(settings, model, known)).mean("facts")


def plain(settings: PlantedKnowledge, model: nn.Module, known: Examples) -> np.ndarray:
    """Rank by activation x gradient."""
    return attribution_effects(_experiment(settings, model, known), curvature=0).mean("facts")


def curved(settings: PlantedKnowledge, model: nn.Module, known: Examples) -> np.ndarray:
    """Rank by activation x gradient with its curvature."""
    return attribution_effects(_experiment(settings, model, known), seed=settings.seed).mean("facts")


def localized(settings: PlantedKnowledge, model: nn.Module, known: Examples) -> np.ndarray:
    """Rank by what is left of each unit after finetuning on the facts under group lasso, with as many live units."""
    subtask = Subtask("facts", lambda n, split, seed: known.part(slice(0, n)))
    training = TrainConfig(
        steps=settings.localizing, rate=1e-3, eps=1e-8, evaluate_every=max(1, settings.localizing // 30)
    )
    config = LocalizeConfig(
        training, wanted_live=settings.units, strength=5e-3, kinds=(settings.kind,),
        examples=settings.rows, held_out=len(known),
    )  # fmt: skip
    found, _ = localize(model, [subtask], config, seed=settings.seed)
    return np.asarray(group_norms(found, units_of(found, kinds=(settings.kind,))))


def gated(settings: PlantedKnowledge, model: nn.Module, known: Examples) -> np.ndarray:
    """Rank by circuits that are learned for the facts, of half of the units to as many as are looked for.

        score(u) = sum over circuits, the smallest first, of 2^-i [u is in circuit i]

    so that the smallest circuit comes first, and then what the next larger one has besides.
    """
    experiment = _experiment(settings, model, known)
    smallest, units = settings.units, len(experiment.units)
    sizes = tuple(smallest * 2**i for i in range(max(1, int(np.log2(units / smallest)))))
    config = GateConfig(sizes, steps=settings.gating, checked=settings.looked_at)
    keep = learn_circuit(experiment, config, subtask="facts", seed=settings.seed).keep
    return np.asarray(0.5 ** np.arange(len(keep)) @ keep)


Finder = Callable[[PlantedKnowledge, nn.Module, Examples], np.ndarray]

FINDERS: Mapping[str, Finder] = {
    "exact effects": exact,
    "attribution": plain,
    "with curvature": curved,
    "learned circuits": gated,
    "group lasso": localized,
}
"""Ways to find the units: a score of each."""


def _experiment(settings: PlantedKnowledge, model: nn.Module, known: Examples) -> Experiment:
    looked_at = known.part(slice(0, settings.looked_at))
    return Experiment(model, {"facts": looked_at}, kinds=(settings.kind,), folds=1)


def plant(settings: PlantedKnowledge) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Teach facts in chosen units, look for these units in every way, and cut them, or others, out.

    Returns:
        Losses in nats, shares of the right units that each way found, and the record of a `Relearning` with its arrays
        (one seed; see `over_seeds`).
    """
    opened, kept = _prepared(settings.model, settings.kept)
    base, seed = opened.model, settings.seed
    subtask = facts(opened, settings.facts, seed=seed)
    known = all_of(subtask, settings.facts)
    units = units_of(base, kinds=(settings.kind,))
    place = {"together": settings.together, "seed": seed}
    chosen = drawn_units(units, settings.layer, settings.units, **place)
    others = as_many_others(chosen, settings.layer, **place)
    lessons = Lessons(settings.steps, settings.rate, settings.rows, settings.learned)
    model = taught(base, known, chosen, lessons, seed=seed)
    models = {
        ORIGINAL: model,
        UNSEEN: base,
        EXACT: prune(model, ~chosen),
        OTHERS: prune(model, ~others),
    }
    grid = _grid(settings)
    found = relearn_probe(models, [subtask], subtask, grid, (seed,), kept=[kept])
    relearning, arrays = store.to_parts(found)
    held = kept.draw(settings.held_out, split="report")
    metrics = {
        "relearning": relearning,
        "facts": {name: float(losses(one, known).mean()) for name, one in models.items()},
        "kept": {name: float(losses(one, held).mean()) for name, one in models.items()},
        "found": {name: _shares(finder(settings, model, known), chosen, settings) for name, finder in FINDERS.items()},
        "chance": [
            int(chosen.keep.sum()) / len(units),
            int(chosen.keep.sum()) / int(units.in_layers([settings.layer]).sum()),
        ],
    }
    return metrics, arrays


def _shares(score: np.ndarray, chosen: Mask, settings: PlantedKnowledge) -> list[float]:
    """Return the share of right units among as many with the highest scores: of all, and of their layer."""
    inside = np.where(chosen.units.in_layers([settings.layer]), score, -np.inf)
    return [float(chosen.keep[top(values, int(chosen.keep.sum()))].mean()) for values in (score, inside)]


@lru_cache(maxsize=1)
def _prepared(model: str, kept: str) -> tuple[Opened, Subtask]:
    """Open a model and read the kept texts, once per worker."""
    opened = open_model(model)
    texts = list(documents(kept))
    return opened, text_subtask(
        kept, texts, encoder(opened.tokenizer), length=32, separator=separator(opened.tokenizer)
    )


def _grid(settings: PlantedKnowledge) -> Grid:
    return Grid(
        rates=settings.rates,
        budgets=settings.budgets,
        examples=min(16, settings.facts // 3),
        held_out=settings.held_out,
        folds=4,
        repair=32,
        repair_rate=5e-4,
        ways=tuple(way for way in WAYS if way.name in settings.ways),
    )


def measure(scale: tuple[int, tuple[PlantedKnowledge, ...]], run: Cells) -> dict[str, Any]:
    """Plant every seed of every arm."""
    seeds, arms = scale
    results = run(plant, [replace(arm, seed=seed) for arm in arms for seed in range(seeds)])
    listed = []
    for place, arm in enumerate(arms):
        cells = results[place * seeds : (place + 1) * seeds]
        parts = [store.from_parts(Relearning, cell.metrics["relearning"], cell.arrays) for cell in cells]
        precision = {}
        for name in FINDERS:
            shares = np.array([cell.metrics["found"][name] for cell in cells])
            precision[name] = [_of_shares(column).record() for column in shares.T]
        listed.append(
            {
                "settings": asdict(arm),
                "seeds": seeds,
                "chance": cells[0].metrics["chance"],
                "precision": precision,
                "by_seed": [cell.metrics["found"] for cell in cells],
                "facts": [cell.metrics["facts"] for cell in cells],
                "kept": [cell.metrics["kept"] for cell in cells],
                "probe": record(over_seeds(parts)),
            }
        )
    return {"arms": listed}


def _of_shares(values: np.ndarray) -> Interval:
    """Return the mean of shares, with an interval that ends where shares do."""
    return Interval(*np.clip(mean_interval(values)[:3], 0.0, 1.0).tolist())


def draw(found: dict[str, Any]) -> Any:
    """Per arm: how many of the units each way finds, beside chance; and information removed by cutting them."""
    arms = found["arms"]
    figure, axes = plots.figure(len(arms), 2, height=2.3 * len(arms), squeeze=False, width_ratios=[1.2, 1])
    for row, arm in zip(axes, arms, strict=True):
        settings, names = arm["settings"], list(arm["precision"])
        for side, where in enumerate(("among all", "within the layer")):
            colour = plots.colour_of(side)
            for place, name in enumerate(names):
                one, y = arm["precision"][name][side], place + 0.16 * (2 * side - 1)
                ends = [max(0.0, one["low"]), min(1.0, one["high"])] if one["low"] is not None else [one["value"]] * 2
                row[0].plot(ends, [y, y], color=colour, lw=1.4)
                row[0].plot([one["value"]], [y], "o", color=colour, label=where if place == 0 else None)
            row[0].axvline(arm["chance"][side], color=colour, lw=0.8, ls=":")
        row[0].set_yticks(range(len(names)), names)
        row[0].set(
            xlim=(-0.03, 1.03), ylim=(len(names) - 0.5, -0.5), xlabel="share of the right units (dotted: chance)"
        )
        row[0].set_title(
            f"{settings['facts']} facts in {settings['units']} {settings['kind']}s of layer {settings['layer']}"
        )
        plots.information_dots(row[1], arm["probe"], (EXACT, OTHERS), candidates=(EXACT, OTHERS))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    settings = arms[0]["settings"]
    figure.suptitle(
        f"{settings['model']}, {arms[0]['seeds']} seeds (facts, units, attack), 95 % over seeds; units at zero; "
        f"attacked in {len(settings['ways'])} ways for up to {settings['budgets'][-1]} steps,\n"
        "beside the model that never saw the facts, without the same units",
        fontsize=7,
    )
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
