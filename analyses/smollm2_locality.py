"""How local are Python, C++ and English in a pretrained language model, and how far can the estimate be trusted?

Question: of the 46,080 neurons of SmolLM2-135M, how many does each corpus need, do the corpora share them, and what
happens to all three when the top neurons of one are removed?
An answer: locality scores with intervals beside their chance levels, from attributions with curvature whose correlation
with exact effects, on a random sample of neurons, is stated; and a removal matrix beside matched random masks.

Minutes on two cores: `--scale quick` under one (the embedded model, few tokens), `--scale cpu` about 30 (3 corpora of
24 x 32 tokens, the top 67 of each corpus and 64 random neurons exactly), `--scale paper` some hours (64 x 256 tokens).
Stopped, the same command goes on. Needs `skilloc fetch smollm2`, but for `quick`.
"""

import resource
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from _frame import Cells, analyse
from skilloc import plots, store
from skilloc.locality.intervals import Interval
from skilloc.models.language import open_model
from skilloc.report.about import noise_of, sorted_effects, top_units
from skilloc.report.record import as_json
from skilloc.report.scored import locality_of, removed
from skilloc.study.draws import subtasks_of
from skilloc.study.measure import measure as measure_study
from skilloc.study.removing import Removing, remove
from skilloc.study.settings import Settings

CORPORA = {"python": "python", "cpp": "cpp", "english": "english"}


@dataclass(frozen=True)
class Scale:
    """How much: the model, examples and tokens, neurons measured exactly, joint removal."""

    model: str
    sequences: int
    length: int
    top: int
    sample: int
    removed: int
    draws: int


SCALES = {
    "quick": Scale("embedded", 4, 24, 4, 8, 20, 2),
    "cpu": Scale("smollm2", 24, 32, 67, 64, 100, 3),
    "paper": Scale("smollm2", 64, 256, 200, 256, 100, 10),
}


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Measure the study and its removal into a folder, and return what the figure shows."""
    folder = run.folder / store.key(asdict(scale))
    wall, cpu = time.time(), time.process_time()
    opened = open_model(scale.model)
    settings = Settings(
        units=("neuron",),
        method="two-stage",
        sequences=scale.sequences,
        length=scale.length,
        folds=min(8, scale.sequences),
        sample=scale.sample,
        top=scale.top,
    )
    subtasks = subtasks_of(opened, CORPORA, length=scale.length)
    study = measure_study(opened, subtasks, settings, folder, workers=max(1, run.workers))
    effects = study.effects
    measured = {"wall_minutes": (time.time() - wall) / 60, "cpu_minutes": (time.process_time() - cpu) / 60}
    removal = remove(
        opened, effects, folder / "removal", subtasks=subtasks, config=Removing((scale.removed,), draws=scale.draws)
    )
    curves = sorted_effects(effects)
    compared = study.compared
    assert compared is not None
    known = np.flatnonzero(compared.exact.measured)
    found = {
        "scale": asdict(scale),  # what its name stands for
        "cost": {**measured, "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20},
        "exact_units": len(known),
        "made": dict(effects.made),
        "locality": locality_of(effects),
        "top_units": top_units(effects),
        "calibration": compared.calibration,
        "removal": removed(removal),
        "curves": curves._asdict(),
        "noise": noise_of(effects),
        "compared": {
            "estimate": {name: compared.estimate.mean(name)[known].tolist() for name in CORPORA},
            "exact": {name: compared.exact.mean(name)[known].tolist() for name in CORPORA},
            "drawn": compared.drawn[known].tolist(),
        },
    }
    return dict(as_json(found))


def draw(found: dict[str, Any]) -> Any:
    """Scores, sorted effects and joint removal; below, estimates against exact effects."""
    names, scale = found["locality"]["subtasks"], found["scale"]
    figure, axes = plots.figure(2, 3, height=5.2, width=plots.WIDE * 1.3)
    _scores(axes[0, 0], found["locality"], names)
    curves = {name: np.array(values, dtype=float) for name, values in found["curves"].items()}
    effects = Interval(*(curves[end] for end in ("value", "low", "high")))
    plots.sorted_curves(axes[0, 1], curves["ranks"], effects, names, noise=np.array(found["noise"]))
    axes[0, 1].set_title("effects by rank")
    size = str(scale["removed"])
    removed = found["removal"]["sizes"][size]["loss_increase"]
    increase = Interval(*(np.array(removed[end], dtype=float) for end in ("value", "low", "high", "chance")))
    plots.removal_matrix(axes[0, 2], increase, names)
    axes[0, 2].set_title(f"top {size} neurons removed")
    for s, name in enumerate(names):
        _calibration(axes[1, s], found, name, s)
    figure.supxlabel(
        f"{scale['model']}, {found['locality']['measured']:,} neurons, zero reference; {scale['sequences']} x "
        f"{scale['length']} held-out tokens per corpus in {found['locality']['folds']} folds; "
        f"attribution with curvature, {found['exact_units']} neurons exactly. Bars and bands: 95 % over folds.",
        fontsize=7,
    )
    return figure


def _scores(ax: Any, record: dict[str, Any], names: list[str]) -> None:
    shown = ("locality", "hoyer", "gini", "top_share", "negative_share")
    table = {
        end: np.array([[record["scores"][s][name][end] for s in names] for name in shown], dtype=float)
        for end in ("value", "low", "high", "chance")
    }
    labels = [f"top {record['top']} share" if name == "top_share" else name.replace("_", " ") for name in shown]
    scores = Interval(table["value"], table["low"], table["high"], table["chance"][:, 0])
    plots.score_dots(ax, labels, scores, names)
    plots.subtask_legend(ax, names, control="chance")


def _calibration(ax: Any, record: dict[str, Any], name: str, position: int) -> None:
    compared, found = record["compared"], record["calibration"][name]["pearson"]
    plots.calibration_scatter(
        ax,
        np.array([compared["estimate"][name], compared["exact"][name]]),
        drawn=np.array(compared["drawn"]),
        linear=float(record["noise"][position]),
        colour=plots.colour_of(position),
    )
    said = f"Pearson {found['value']:.2f}\n[{found['low']:.2f}, {found['high']:.2f}]"
    ax.set_title(said, loc="right", fontsize=6.5, weight="normal")
    ax.set_title(name)


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
