"""Are the skills of a small language model local, behaviour by behaviour, where those of corpora are not?

Question: of the attention heads of SmolLM2-135M, which does each made behaviour need, how local is each next to three
corpora, do behaviours share heads, what does removing one's heads do to the others, and are the heads that induction
needs those whose patterns match prefixes?
An answer: locality scores with intervals and chance from exact ablation of every head, their overlap beside chance, a
removal matrix beside matched random masks, and the overlap of the top heads of induction with those of the highest
prefix-matching score, computed from attention patterns alone, beside chance. Behaviours that the model cannot do are
refused, with their accuracy.

Minutes on two cores: `--scale quick` under two (the embedded model), `--scale cpu` as the run forecasts before it
starts (heads of 10 subtasks, zero reference). Needs `skilloc fetch smollm2`, but for `quick`.
"""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from _frame import Cells, analyse
from skilloc import locality, plots, store
from skilloc.ablation import ablation_effects
from skilloc.experiment import Experiment
from skilloc.masks import Mask, matched_random, top
from skilloc.models.language import Opened, encoder, first_token, open_model
from skilloc.study.able import ability
from skilloc.study.draws import subtasks_of
from skilloc.tasks import Subtask
from skilloc.tasks.behaviours import MAKERS, behaviours

CORPORA = ("python", "cpp", "english")
FOLDS = 8


@dataclass(frozen=True)
class Scale:
    """How much: the model, examples of each subtask, tokens of a corpus row, heads removed together, random masks."""

    model: str
    count: int
    length: int
    removed: int
    draws: int


SCALES = {
    "quick": Scale("embedded", 16, 16, 4, 3),
    "cpu": Scale("smollm2", 24, 32, 10, 20),
    "paper": Scale("smollm2", 64, 128, 10, 20),
}


def measure(scale: Scale, cells: Cells) -> dict[str, Any]:
    """Measure every head on every subtask that the model can do, and what the figure shows of it."""
    started = time.time()
    opened = open_model(scale.model)
    experiments, refused = _experiments(opened, scale)
    forecast = _forecast(experiments)
    tqdm.write(f"about {forecast:.0f} minutes for the heads of {len(experiments)} subtasks", file=sys.stderr)
    effects = []
    for name, experiment in experiments.items():
        pieces = cells.folder / f"{scale.model}-{store.key({**asdict(scale), 'subtask': name})}"
        pieces.mkdir(parents=True, exist_ok=True)
        effects.append(ablation_effects(experiment, workers=max(1, cells.workers), resume=pieces))
    values = np.concatenate([one.values for one in effects], axis=1)
    names = list(experiments)
    units = effects[0].units
    scores = [locality.scores(values[:, s])["locality"] for s in range(len(names))]
    shared = locality.top_jaccard(values, top=scale.removed)
    found = {
        "scale": asdict(scale),
        "subtasks": names,
        "refused": refused,
        "forecast_minutes": forecast,
        "locality": {
            "value": [s.value for s in scores],
            "low": [s.low for s in scores],
            "high": [s.high for s in scores],
        },
        "chance": scores[0].chance,
        "shared": {"value": shared.value, "chance": shared.chance},
        "removal": _removal(experiments, values, scale),
        "heads": {name: _top(values[:, s].mean(axis=0), units.names) for s, name in enumerate(names)},
        "minutes": (time.time() - started) / 60,
    }
    if "induction" in experiments:
        found["induction"] = _induction(experiments["induction"], values[:, names.index("induction")].mean(axis=0))
    return dict(as_json(found))


def as_json(value: Any) -> Any:
    """Return numbers as JSON has them: arrays as lists, what cannot be told as None."""
    if isinstance(value, dict):
        return {key: as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [as_json(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _experiments(opened: Opened, scale: Scale) -> tuple[dict[str, Experiment], dict[str, Any]]:
    """Return the experiment of each subtask, and the accuracy of behaviours that the model cannot do."""
    encode, first = encoder(opened.tokenizer), first_token(opened.tokenizer)
    made: dict[str, Subtask] = {}
    refused: dict[str, Any] = {}
    for name in MAKERS:
        try:
            made |= behaviours(encode, [name], first=first, count=6 * scale.count)
        except ValueError:  # its words are no tokens of this model
            refused[name] = {"accuracy": None, "chance": None, "count": 0}
    corpora = subtasks_of(opened, {name: name for name in CORPORA}, length=scale.length)
    experiments: dict[str, Experiment] = {}
    for name, subtask in {**made, **corpora}.items():
        loss = "answer" if name in made else "cross_entropy"
        own = Experiment(opened.model, {name: subtask}, ("head",), loss=loss, folds=FOLDS, count=scale.count)
        if name in made and not (known := ability(own, name)).able:
            refused[name] = {"accuracy": known.accuracy, "chance": known.chance, "count": known.count}
            continue
        experiments[name] = own
    return experiments, refused


def _forecast(experiments: dict[str, Experiment]) -> float:
    """Return the minutes of one whole pass per head, as a pass of the untouched model takes: an upper bound."""
    seconds = 0.0
    for experiment in experiments.values():
        experiment.losses()  # the first pass also draws the examples
        began = time.time()
        experiment.losses()
        seconds += (time.time() - began) * len(experiment.units)
    return seconds / 60


def _removal(experiments: dict[str, Experiment], values: Float[np.ndarray, "fold subtask unit"], scale: Scale) -> Any:
    """Loss increase of each subtask without the heads that one needs most, chosen on even folds, stated on odd ones."""
    names, units = list(experiments), next(iter(experiments.values())).units
    base = {name: own.losses() for name, own in experiments.items()}

    def increase(mask: Mask) -> list[list[float]]:
        found = []
        for name, own in experiments.items():
            change = own.losses(mask) - base[name]
            found.append([float(change[own.folded.parts[f][0]].mean()) for f in range(1, FOLDS, 2)])
        return found

    matrix, control = [], []
    for s, _ in enumerate(names):
        mask = Mask(units, ~top(values[::2, s].mean(axis=0), scale.removed))
        matrix.append(increase(mask))
        draws = [increase(matched_random(mask, seed=seed)) for seed in range(scale.draws)]
        control.append(np.mean(draws, axis=(0, 2)).tolist())
    every = np.array(matrix)
    half = 3.182 * every.std(axis=2, ddof=1) / np.sqrt(every.shape[2])  # Student's t of four folds
    mean = every.mean(axis=2)
    return {"value": mean, "low": mean - half, "high": mean + half, "control": control}


def _top(effects: Float[np.ndarray, " unit"], names: tuple[str, ...], count: int = 10) -> list[list[Any]]:
    order = np.argsort(-effects)[:count]
    return [[names[u], float(effects[u])] for u in order]


def _induction(experiment: Experiment, effects: Float[np.ndarray, " unit"]) -> dict[str, Any]:
    """Overlap of the heads that induction needs with those whose patterns match prefixes, beside chance."""
    scores = prefix_matching(experiment)
    count = min(10, len(scores) // 4)
    ours, theirs = set(np.argsort(-effects)[:count].tolist()), set(np.argsort(-scores)[:count].tolist())
    return {
        "effects": effects,
        "scores": scores,
        "names": list(experiment.units.names),
        "top": count,
        "shared": len(ours & theirs),
        "chance": count * count / len(scores),
    }


def prefix_matching(experiment: Experiment, length: int = 24, rows: int = 8) -> Float[np.ndarray, " unit"]:
    """Return, per head, the attention from the second copy of a random sequence to the token behind its first copy.

    score[h] = mean over positions t of the second copy of pattern[h, t, t - length + 1]
    """
    model: Any = experiment.model
    units = experiment.units
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.cfg.d_vocab)
    once = torch.randint(min(100, vocabulary // 2), vocabulary, (rows, length), generator=generator)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.cat([once, once], dim=1))
    found = np.zeros(len(units))
    for u in range(len(units)):
        bank, head = units.locate(u)
        pattern = cache[f"blocks.{units.bank(bank).layer}.attn.hook_pattern"]
        places = torch.arange(length, 2 * length)
        found[u] = float(pattern[:, head][:, places, places - length + 1].mean())
    return found


def draw(found: dict[str, Any]) -> Any:
    """Locality, shared heads, joint removal; and induction's heads beside their prefix-matching scores."""
    names = found["subtasks"]
    figure, axes = plots.figure(2, 2, height=6.4, width=plots.WIDE * 1.2)
    places = np.arange(len(names))
    value, low, high = (np.array(found["locality"][end], dtype=float) for end in ("value", "low", "high"))
    axes[0, 0].errorbar(value, places, xerr=[value - low, high - value], fmt="o", markersize=3, linewidth=1)
    axes[0, 0].axvline(found["chance"], linestyle=":", linewidth=1)
    axes[0, 0].set(yticks=places, yticklabels=names, xlabel="locality (dotted: chance)", xlim=(0, 1))
    _matrix(
        axes[0, 1], np.array(found["shared"]["value"], dtype=float), names, f"top {found['scale']['removed']} shared"
    )
    removed = np.array(found["removal"]["value"], dtype=float)
    _matrix(axes[1, 0], removed, names, "nats lost without the heads of (row)")
    if "induction" in found:
        told = found["induction"]
        axes[1, 1].scatter(told["scores"], told["effects"], s=6)
        for place in np.argsort(-np.array(told["effects"]))[:4]:
            axes[1, 1].annotate(told["names"][place], (told["scores"][place], told["effects"][place]), fontsize=6)
        axes[1, 1].set(xlabel="prefix-matching score", ylabel="effect on induction (nats)")
        axes[1, 1].set_title(f"{told['shared']} of the top {told['top']} shared (chance {told['chance']:.1f})")
    told = {name: one["accuracy"] for name, one in found["refused"].items()}
    refused = (
        ", ".join(f"{n} (words)" if share is None else f"{n} ({share:.2f})" for n, share in told.items()) or "none"
    )
    figure.supxlabel(
        f"{found['scale']['model']}, every head exactly, zero reference, {found['scale']['count']} examples each in "
        f"{FOLDS} folds; refused for want of accuracy: {refused or 'none'}",
        fontsize=7,
    )
    return figure


def _matrix(ax: Any, values: Float[np.ndarray, "row column"], names: list[str], title: str) -> None:
    ax.imshow(values, cmap="Blues", aspect="auto")
    for row, column in np.ndindex(values.shape):
        ax.text(column, row, f"{values[row, column]:.2g}", ha="center", va="center", fontsize=5)
    places = np.arange(len(names))
    ax.set(xticks=places, yticks=places, title=title)
    ax.set_xticklabels(names, rotation=60, fontsize=6)
    ax.set_yticklabels(names, fontsize=6)


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
