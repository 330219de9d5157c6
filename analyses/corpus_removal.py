"""Can a corpus be removed from a language model by pruning, measured beside its equal that never saw it?

Question (the paper's title, and its claims 4 and 10): the embedded model keeps two corpora and loses the third, by
group lasso with pruning, or by naive pruning with as much loss on what is kept. An answer: information removed (1 -
what an attacker gets back of the lead that the original has over its sibling that never saw the corpus), with its
interval over seeds, and a verdict; beside the same number for a random mask of equal size and layers, and for plain
finetuning of equal length without the penalty. Each seed has its own finetuning, mask, initial values and attack; each
candidate has controls of its own size. The sibling is one training, cut to the candidate's size and shape: the interval
does not say how much another training would differ.

Minutes: about 105 on two cores for `--scale cpu` with two siblings (a forecast; not run yet), one for `--scale quick`;
`--scale paper` localizes and attacks for ten times as long, with 5 rates and 5 seeds, for a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn

from _frame import Cells, analyse
from skilloc import plots, store
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment, losses
from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.locality.intervals import Interval
from skilloc.masks import Mask, top
from skilloc.models.language import ASSETS, Opened, encoder, open_model, separator
from skilloc.models.makers import units_of
from skilloc.pruning import prune
from skilloc.relearning import (
    NEVER,
    ORIGINAL,
    PLAIN,
    RANDOM,
    UNSEEN,
    Grid,
    Relearning,
    over_seeds,
    record,
    relearn_probe,
)
from skilloc.relearning.controls import cut_alike, randomly_pruned, untrained
from skilloc.store import Labelled
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.text import documents, text_subtask
from skilloc.training import TrainConfig

LASSO, NAIVE = "group lasso", "naive pruning"
"""The two candidates."""


@dataclass(frozen=True)
class CorpusRemoval:
    """The spec of one cell: what is kept and removed, how it is localized, and the attack."""

    kept: tuple[str, ...] = ("cpp", "english")
    """sources of the corpora that are kept, one subtask each"""
    removed: str = "python"
    """source of the corpus that is removed"""
    unseen: str = "embedded-without-python"
    """the model that never saw it, of the original's shape, tokenizer and recipe; "" for none"""
    seed: int = 0
    """of the finetuning, the random mask, initial values and the attack"""
    model: str = "embedded"
    """any language model that `open_model` knows"""
    length: int = 48
    """tokens per example"""
    rows: int = 16
    """examples per step, of all kept corpora together"""
    steps: int = 600
    """steps of localizing, and of plain finetuning beside it"""
    rate: float = 3e-4
    """their rate, at which plain finetuning does not damage what is kept"""
    strength: float = 5e-3
    """first strength of the penalty"""
    extra_loss: float = 0.2
    """nats above the original's loss on the kept corpora, to which the strength is steered"""
    rates: tuple[float, ...] = (1e-4, 4e-4, 1.6e-3)
    """rates of the attack"""
    budgets: tuple[int, ...] = (1, 4, 16, 64)
    """its numbers of steps"""
    attack_rows: int = 8
    """its examples per step"""
    held_out: int = 32
    """examples per subtask, on each of the selection and the report split"""
    folds: int = 8
    """disjoint parts of these"""
    repair: int = 64
    """steps of repair on the kept corpora, at most"""
    repair_rate: float = 2e-4
    """their rate"""

    def __post_init__(self) -> None:
        if not self.kept or not self.removed or self.removed in self.kept:
            raise ValueError(
                f'`kept` is {self.kept} and `removed` "{self.removed}"; name a source of each, and none twice'
            )
        for name in ("rows", "steps", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least 1")
        if self.extra_loss <= 0:
            raise ValueError(f"`extra_loss` is {self.extra_loss}; use a positive number of nats")


NO_PYTHON = CorpusRemoval()
NO_ENGLISH = replace(NO_PYTHON, kept=("python", "cpp"), removed="english", unseen="embedded-without-english")
NO_CPP = replace(NO_PYTHON, kept=("python", "english"), removed="cpp", unseen="embedded-without-cpp")
QUICK: dict[str, Any] = {"length": 16, "rows": 4, "steps": 4, "rates": (1e-3, 4e-3), "budgets": (1, 2)}
QUICK |= {"attack_rows": 2, "held_out": 8, "folds": 4, "repair": 2}
LONG: dict[str, Any] = {"steps": 5000, "budgets": (1, 4, 16, 64, 256, 1024), "rates": (1e-4, 5e-4, 2e-3, 8e-3, 3e-2)}
LONG |= {"rows": 64, "attack_rows": 32, "held_out": 256, "length": 128, "repair": 500}
ARMS = tuple(arm for arm in (NO_PYTHON, NO_ENGLISH, NO_CPP) if (ASSETS / arm.unseen).is_dir())
SCALES: dict[str, tuple[int, tuple[CorpusRemoval, ...]]] = {
    "quick": (2, (replace(NO_PYTHON, **QUICK),)),
    "cpu": (3, ARMS),
    "paper": (5, tuple(replace(arm, **LONG) for arm in ARMS)),
}
CONTROLS = (RANDOM, PLAIN)


def unlearn(settings: CorpusRemoval) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Prune a model in two ways so that it loses a corpus, and attack it with that.

    1. Group lasso: finetuned on the kept corpora with the penalty steered to their original loss + `extra_loss`; units
       that are then zero are cut out.
    2. Naive pruning: of the original, the units with the least attributed effect on the kept corpora (on training
       text), as many as the same loss allows (on the selection split).

    Controls, of each candidate's own size and shape: a random mask, a never-trained network, and the sibling that never
    saw the corpus, without the units that the kept corpora need least; also the original, and plain finetuning for as
    many steps.

    Returns:
        Losses of all models on all corpora in nats, their units, the history of localizing, and by candidate the record
        of a `Relearning` with its arrays (one seed; see `over_seeds`).
    """
    opened, kept, removed = _prepared(settings.model, settings.kept, settings.removed, settings.length)
    original, seed = opened.model, settings.seed
    selection = {s.name: s.draw(settings.held_out, split="selection") for s in kept}
    wanted = _mean(original, selection) + settings.extra_loss
    plain, _, _ = _finetuned(settings, original, kept, removed, None)
    finetuned, live, history = _finetuned(settings, original, kept, removed, wanted)
    lasso = prune(finetuned, Mask(units_of(original, kinds=("neuron",)), live))
    naive = _naive(settings, original, kept, selection, _mean(lasso, selection))
    report = {s.name: s.draw(settings.held_out, split="report") for s in (*kept, removed)}
    metrics: dict[str, Any] = {"history": history, "losses": {}, "units": {}, "relearning": {}}
    arrays: dict[str, Labelled] = {}
    with TemporaryDirectory() as shared:  # what both candidates stand beside is attacked once
        for name, candidate in {LASSO: lasso, NAIVE: naive}.items():
            models = _beside(settings, original, candidate, kept) | {PLAIN: plain, name: candidate}
            found = relearn_probe(models, [removed], removed, _grid(settings), (seed,), kept=kept, out=Path(shared))
            metrics["relearning"][name], own = store.to_parts(found)
            arrays |= {f"{name}/{key}": value for key, value in own.items()}
            metrics["losses"][name] = {
                m: {n: float(losses(models[m], b).mean()) for n, b in report.items()} for m in models
            }
            metrics["units"][name] = {m: len(units_of(model, kinds=("neuron",))) for m, model in models.items()}
    return metrics, arrays


def _beside(
    settings: CorpusRemoval, original: nn.Module, candidate: nn.Module, kept: Sequence[Subtask]
) -> dict[str, nn.Module]:
    """Return the controls of a candidate's own size and shape, and the original."""
    found = {
        ORIGINAL: original,
        NEVER: untrained(candidate, seed=settings.seed),
        RANDOM: randomly_pruned(original, candidate, seed=settings.seed),
    }
    if settings.unseen:
        found[UNSEEN] = cut_alike(open_model(settings.unseen).model, candidate, kept)
    return found


@lru_cache(maxsize=2)
def _prepared(model: str, kept: tuple[str, ...], removed: str, length: int) -> tuple[Opened, list[Subtask], Subtask]:
    """Open a model and read the texts, once per worker."""
    opened = open_model(model)
    encode, end = encoder(opened.tokenizer), separator(opened.tokenizer)

    def subtask(source: str) -> Subtask:
        return text_subtask(source, documents(source), encode, length=length, separator=end)

    return opened, [subtask(name) for name in kept], subtask(removed)


def _mean(model: nn.Module, batches: Mapping[str, Examples]) -> float:
    return sum(float(losses(model, batch).mean()) for batch in batches.values()) / len(batches)


def _finetuned(
    settings: CorpusRemoval,
    original: nn.Module,
    kept: Sequence[Subtask],
    removed: Subtask,
    wanted: float | None,
) -> tuple[Any, Any, dict[str, list[float]]]:
    """Finetune on the kept corpora, with the penalty if a loss is wanted; return which units live, too."""
    looks = max(1, settings.steps // 20)
    config = LocalizeConfig(
        training=TrainConfig(steps=settings.steps, rate=settings.rate, eps=1e-8, evaluate_every=looks),
        strength=0.0 if wanted is None else settings.strength,
        wanted_loss=wanted,
        examples=max(1, settings.rows // len(kept)),
        held_out=settings.held_out,
    )
    model, history = localize(original, kept, config, seed=settings.seed, watched=[removed])
    norms = np.asarray(group_norms(model, units_of(model, kinds=("neuron",))))
    return model, norms > 0, history.record()


def _naive(
    settings: CorpusRemoval,
    original: nn.Module,
    kept: Sequence[Subtask],
    selection: Mapping[str, Examples],
    wanted: float,
) -> Any:
    """Keep the fewest units by their effects, on training text, with which the mean loss is at most the wanted one."""
    batches = {s.name: s.draw(2 * settings.held_out, split="train", seed=settings.seed) for s in kept}
    effects = attribution_effects(Experiment(original, batches, kinds=("neuron",), folds=1), seed=settings.seed)
    units = effects.units
    values = effects.values.mean(axis=(0, 1))
    low, high = 0, len(units)  # the loss at `low` is too high, that at `high` is not
    while high - low > max(1, len(units) // 500):
        middle = (low + high) // 2
        tried = prune(original, Mask(units, top(values, middle)))
        low, high = (low, middle) if _mean(tried, selection) <= wanted else (middle, high)
    return prune(original, Mask(units, top(values, high)))


def _grid(settings: CorpusRemoval) -> Grid:
    return Grid(
        rates=settings.rates,
        budgets=settings.budgets,
        examples=settings.attack_rows,
        held_out=settings.held_out,
        folds=settings.folds,
        repair=settings.repair,
        repair_rate=settings.repair_rate,
    )


def measure(scale: tuple[int, tuple[CorpusRemoval, ...]], run: Cells) -> dict[str, Any]:
    """Narrow and attack every seed of all arms; losses in nats."""
    seeds, arms = scale
    results = run(unlearn, [replace(arm, seed=seed) for arm in arms for seed in range(seeds)])
    found = []
    for place, arm in enumerate(arms):
        cells = results[place * seeds : (place + 1) * seeds]
        probes = {name: record(over_seeds([_relearning(cell, name) for cell in cells])) for name in (LASSO, NAIVE)}
        named = {"kept": arm.kept, "removed": arm.removed, "settings": asdict(arm)}
        cuts = {key: [cell.metrics[key] for cell in cells] for key in ("units", "losses")}
        history = {name: [cell.metrics["history"][name] for cell in cells] for name in ("step", "live")}
        found.append({**named, **cuts, "history": history, "probes": probes})
    return {"arms": found}


def _relearning(cell: Any, name: str) -> Relearning:
    """Return what the attack of one candidate found in a cell."""
    own = {key.removeprefix(f"{name}/"): value for key, value in cell.arrays.items() if key.startswith(f"{name}/")}
    return store.from_parts(Relearning, cell.metrics["relearning"][name], own)


def draw(found: dict[str, Any]) -> Any:
    """Per arm and candidate: the removed corpus under attack, the kept ones meanwhile, and information removed."""
    cases = [(arm, name) for arm in found["arms"] for name in (LASSO, NAIVE)]
    figure, axes = plots.figure(len(cases), 3, height=2.5 * len(cases), squeeze=False, width_ratios=[1.1, 1.1, 1])
    for row, (arm, name) in zip(axes, cases, strict=True):
        probe = arm["probes"][name]
        names, steps = list(probe["models"]), probe["steps"]
        curves = [probe["models"][model]["sizes"][0] for model in names]
        ends = (np.array([c["loss"][end] for c in curves], dtype=float) for end in ("value", "low", "high"))
        called = ["candidate" if model == name else model for model in names]
        plots.recovery_curves(row[0], steps, Interval(*ends), called)
        kept = np.array([[c["kept"][key] for key in arm["kept"]] for c in curves], dtype=float).mean(axis=1)
        empty = np.full_like(kept, np.nan)
        plots.recovery_curves(row[1], steps, Interval(kept, empty, empty), called)
        row[0].set_title(f"{name}: {arm['removed']}, removed")
        row[1].set_title(f"{' and '.join(arm['kept'])}, kept")
        plots.information_dots(row[2], probe, (name, *CONTROLS), candidates=(name,))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, handlelength=2.6)
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
