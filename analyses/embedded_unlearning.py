"""Can a language model be pruned so that it loses a corpus, and not only hides it?

Question (the paper's title, and its claims 4 and 10): the embedded model keeps Python and loses C++ and English, or the
other way round, by group lasso with pruning, or by naive pruning with as much loss on what is kept. An answer:
information removed (1 - what an attacker gets back of the lead that the original has over a network that never learned
the corpus), with its interval over seeds, beside the same number for a random mask of equal size and layers, and for
plain finetuning of equal length without the penalty. Each seed has its own finetuning, mask, initial values and attack.

Minutes: about 20 on two cores (40 of one core) for `--scale cpu`, one for `--scale quick`; `--scale paper` localizes
and attacks for ten times as long, with 5 rates and 5 seeds, for a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
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
from skilloc.models.language import Opened, encoder, open_model, separator
from skilloc.models.makers import units_of
from skilloc.pruning import prune
from skilloc.relearning import NEVER, ORIGINAL, PLAIN, RANDOM, Grid, Relearning, over_seeds, record, relearn_probe
from skilloc.relearning.controls import randomly_pruned, untrained
from skilloc.store import Labelled
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.text import documents, text_subtask
from skilloc.training import TrainConfig

LASSO, NAIVE = "group lasso", "naive pruning"
"""The two candidates."""


@dataclass(frozen=True)
class EmbeddedUnlearning:
    """The spec of one cell: what is kept and removed, how it is localized, and the attack."""

    kept: tuple[str, ...] = ("python",)
    """sources of the corpora that are kept, one subtask each"""
    removed: tuple[str, ...] = ("cpp", "english")
    """sources of the corpora that are removed, together one subtask"""
    seed: int = 0
    """of the finetuning, the random mask, initial values and the attack"""
    model: str = "embedded"
    """any language model that `open_model` knows"""
    length: int = 48
    """tokens per example"""
    rows: int = 8
    """examples per step, of all kept corpora together"""
    steps: int = 400
    """steps of localizing, and of plain finetuning beside it"""
    rate: float = 1e-3
    """their rate"""
    strength: float = 5e-3
    """first strength of the penalty"""
    extra_loss: float = 0.35
    """nats above the original's loss on the kept corpora, to which the strength is steered"""
    rates: tuple[float, ...] = (2e-4, 7e-4, 2.5e-3)
    """rates of the attack"""
    budgets: tuple[int, ...] = (1, 4, 16, 32)
    """its numbers of steps"""
    attack_rows: int = 4
    """its examples per step"""
    held_out: int = 32
    """examples per subtask, on each of the selection and the report split"""
    folds: int = 8
    """disjoint parts of these"""
    repair: int = 64
    """steps of repair on the kept corpora, at most"""
    repair_rate: float = 5e-4
    """their rate"""

    def __post_init__(self) -> None:
        if not self.kept or not self.removed or set(self.kept) & set(self.removed):
            raise ValueError(
                f"`kept` is {self.kept} and `removed` {self.removed}; name at least one source of each, and none twice"
            )
        for name in ("rows", "steps", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least 1")
        if self.extra_loss <= 0:
            raise ValueError(f"`extra_loss` is {self.extra_loss}; use a positive number of nats")


KEEP_PYTHON = EmbeddedUnlearning()
KEEP_OTHERS = EmbeddedUnlearning(kept=("cpp", "english"), removed=("python",))
QUICK: dict[str, Any] = {"length": 16, "rows": 4, "steps": 4, "rates": (1e-3, 4e-3), "budgets": (1, 2)}
QUICK |= {"attack_rows": 2, "held_out": 8, "folds": 4, "repair": 2}
LONG: dict[str, Any] = {"steps": 5000, "budgets": (1, 4, 16, 64, 256, 1024), "rates": (1e-4, 5e-4, 2e-3, 8e-3, 3e-2)}
LONG |= {"rows": 64, "attack_rows": 32, "held_out": 256, "length": 128, "repair": 500}
ARMS = (KEEP_PYTHON, KEEP_OTHERS)
SCALES: dict[str, tuple[int, tuple[EmbeddedUnlearning, ...]]] = {
    "quick": (2, (replace(KEEP_PYTHON, **QUICK),)),
    "cpu": (3, ARMS),
    "paper": (5, tuple(replace(arm, **LONG) for arm in ARMS)),
}
SHOWN = (LASSO, NAIVE, RANDOM, PLAIN)


def unlearn(settings: EmbeddedUnlearning) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Prune a model in two ways so that it keeps some corpora, and attack it with the others.

    1. Group lasso: finetuned on the kept corpora with the penalty steered to their original loss + `extra_loss`; units
       that are then zero are cut out.
    2. Naive pruning: of the original, the units with the least attributed effect on the kept corpora (on training
       text), as many as the same loss allows (on the selection split).

    Controls: the original; plain finetuning for as many steps; for naive pruning a random mask of its size and layers;
    and a never-trained network of the lasso's shape. One that never saw the removed corpora would have to be trained
    from scratch, and is missing.

    Returns:
        Losses of all models on all corpora in nats, their units, the history of localizing, and the record of a
        `Relearning` with its arrays (one seed; see `over_seeds`).
    """
    opened, kept, removed = _prepared(settings.model, settings.kept, settings.removed, settings.length)
    original, seed = opened.model, settings.seed
    selection = {s.name: s.draw(settings.held_out, split="selection") for s in kept}
    wanted = _mean(original, selection) + settings.extra_loss
    plain, _, _ = _finetuned(settings, original, kept, removed, None)
    finetuned, live, history = _finetuned(settings, original, kept, removed, wanted)
    units = units_of(original, kinds=("neuron",))
    lasso = prune(finetuned, Mask(units, live))
    naive = _naive(settings, original, kept, selection, _mean(lasso, selection))
    models = {
        ORIGINAL: original,
        NEVER: untrained(lasso, seed=seed),
        RANDOM: randomly_pruned(original, naive, seed=seed),
        PLAIN: plain,
        NAIVE: naive,
        LASSO: lasso,
    }
    found = relearn_probe(models, [removed], removed, _grid(settings), (seed,), kept=kept)
    relearning, arrays = store.to_parts(found)
    report = {s.name: s.draw(settings.held_out, split="report") for s in (*kept, removed)}
    metrics = {
        "relearning": relearning,
        "losses": {m: {n: float(losses(models[m], b).mean()) for n, b in report.items()} for m in models},
        "units": {name: len(units_of(model, kinds=("neuron",))) for name, model in models.items()},
        "history": history,
    }
    return metrics, arrays


@lru_cache(maxsize=2)
def _prepared(
    model: str, kept: tuple[str, ...], removed: tuple[str, ...], length: int
) -> tuple[Opened, list[Subtask], Subtask]:
    """Open a model and read the texts, once per worker."""
    opened = open_model(model)
    encode, end = encoder(opened.tokenizer), separator(opened.tokenizer)

    def subtask(name: str, sources: Sequence[str]) -> Subtask:
        texts = [document for source in sources for document in documents(source)]
        return text_subtask(name, texts, encode, length=length, separator=end)

    return opened, [subtask(name, [name]) for name in kept], subtask(" and ".join(removed), removed)


def _mean(model: nn.Module, batches: Mapping[str, Examples]) -> float:
    return sum(float(losses(model, batch).mean()) for batch in batches.values()) / len(batches)


def _finetuned(
    settings: EmbeddedUnlearning,
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
    settings: EmbeddedUnlearning,
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


def _grid(settings: EmbeddedUnlearning) -> Grid:
    return Grid(
        rates=settings.rates,
        budgets=settings.budgets,
        examples=settings.attack_rows,
        held_out=settings.held_out,
        folds=settings.folds,
        repair=settings.repair,
        repair_rate=settings.repair_rate,
    )


def measure(scale: tuple[int, tuple[EmbeddedUnlearning, ...]], run: Cells) -> dict[str, Any]:
    """Narrow and attack every seed of both arms; losses in nats."""
    seeds, arms = scale
    results = run(unlearn, [replace(arm, seed=seed) for arm in arms for seed in range(seeds)])
    found = []
    for place, arm in enumerate(arms):
        cells = results[place * seeds : (place + 1) * seeds]
        parts = [store.from_parts(Relearning, cell.metrics["relearning"], cell.arrays) for cell in cells]
        named = {"kept": arm.kept, "removed": arm.removed, "settings": asdict(arm)}
        cuts = {
            "units": [cell.metrics["units"] for cell in cells],
            "losses": [cell.metrics["losses"] for cell in cells],
        }
        history = {name: [cell.metrics["history"][name] for cell in cells] for name in ("step", "live")}
        found.append({**named, **cuts, "history": history, "probe": record(over_seeds(parts))})
    return {"arms": found}


def draw(found: dict[str, Any]) -> Any:
    """Per arm: the removed corpora under attack, the kept ones meanwhile, and information removed."""
    arms = found["arms"]
    figure, axes = plots.figure(len(arms), 3, height=2.7 * len(arms), squeeze=False, width_ratios=[1.1, 1.1, 1])
    for row, arm in zip(axes, arms, strict=True):
        probe = arm["probe"]
        names, steps = list(probe["models"]), probe["steps"]
        curves = [probe["models"][name]["sizes"][0] for name in names]
        ends = (np.array([c["loss"][end] for c in curves], dtype=float) for end in ("value", "low", "high"))
        plots.recovery_curves(row[0], steps, Interval(*ends), names)
        kept = np.array([[c["kept"][name] for name in arm["kept"]] for c in curves], dtype=float).mean(axis=1)
        empty = np.full_like(kept, np.nan)
        plots.recovery_curves(row[1], steps, Interval(kept, empty, empty), names)
        row[0].set_title(f"{probe['report']}: removed")
        row[1].set_title(f"{' and '.join(arm['kept'])}: kept")
        plots.information_dots(row[2], probe, SHOWN, candidates=(NAIVE, LASSO))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, handlelength=2.6)
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
