"""How local are Python, C++ and English in a pretrained language model, and how far can the estimate be trusted?

Question: of the 46,080 neurons of SmolLM2-135M, how many does each corpus need, do the corpora share them, and what
happens to all three when the top neurons of one are removed?
An answer: locality scores with intervals beside their chance levels, from attributions with curvature whose correlation
with exact effects, on a random sample of neurons, is stated; and a removal matrix beside matched random masks.

Minutes on two cores: `--scale quick` under one (the embedded model, few tokens), `--scale cpu` about 30 (3 corpora of
24 x 32 tokens, the top 67 of each corpus and 64 random neurons exactly), `--scale paper` some hours (64 x 256 tokens).
Stopped, the same command goes on. Needs `skilloc fetch smollm2`, but for `quick`.
"""

import argparse
import json
import os
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skilloc import plots
from skilloc.models.language import open_model
from skilloc.study.draws import subtasks_of
from skilloc.study.measure import measure as measure_study
from skilloc.study.removing import remove
from skilloc.study.report import (
    calibration_record,
    locality_record,
    noise_of,
    plain,
    removal_record,
    sorted_effects,
    top_units,
)
from skilloc.study.settings import Settings

NAME = "smollm2_locality"
ROOT = Path(__file__).parents[1]
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


def measure(scale: Scale, folder: Path) -> dict[str, Any]:
    """Measure the study and its removal into a folder, and return what the figure shows."""
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
    study = measure_study(opened, subtasks, settings, folder, workers=len(os.sched_getaffinity(0)))
    effects = study.effects
    measured = {"wall_minutes": (time.time() - wall) / 60, "cpu_minutes": (time.process_time() - cpu) / 60}
    removal = remove(opened, effects, folder / "removal", subtasks=subtasks, sizes=(scale.removed,), draws=scale.draws)
    curves = sorted_effects(effects)
    compared = study.compared
    assert compared is not None
    known = np.flatnonzero(compared.exact.measured)
    return {
        "scale": asdict(scale),
        "cost": {**measured, "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20},
        "exact_units": len(known),
        "made": dict(effects.made),
        "locality": locality_record(effects),
        "top_units": top_units(effects),
        "calibration": calibration_record(study),
        "removal": removal_record(removal),
        "curves": {name: values.tolist() for name, values in curves._asdict().items()},
        "noise": noise_of(effects).tolist(),
        "compared": {
            "estimate": {name: compared.estimate.mean(name)[known].tolist() for name in CORPORA},
            "exact": {name: compared.exact.mean(name)[known].tolist() for name in CORPORA},
            "drawn": compared.drawn[known].tolist(),
        },
    }


def draw(record: dict[str, Any], stem: Path) -> None:
    """Draw the figure from the record alone."""
    names = record["locality"]["subtasks"]
    scale = record["scale"]
    with plots.style():
        figure, axes = plots.figure(2, 3, height=5.2, width=plots.WIDE * 1.3)
        _scores(axes[0, 0], record["locality"], names)
        curves = {name: np.array(values, dtype=float) for name, values in record["curves"].items()}
        plots.sorted_curves(
            axes[0, 1],
            curves["ranks"],
            curves["value"],
            curves["low"],
            curves["high"],
            names,
            noise=np.array(record["noise"]),
        )
        axes[0, 1].set_title("sorted effects")
        size = str(scale["removed"])
        found = record["removal"]["sizes"][size]["loss_increase"]
        value, low, high, chance = (np.array(found[end], dtype=float) for end in ("value", "low", "high", "chance"))
        plots.removal_matrix(axes[0, 2], value, low, high, chance, names)
        axes[0, 2].set_title(f"top {size} neurons removed")
        for s, name in enumerate(names):
            _calibration(axes[1, s], record, name, s)
        exact = record["exact_units"]
        figure.supxlabel(
            f"{scale['model']}, {record['locality']['measured']:,} neurons, zero reference; {scale['sequences']} x "
            f"{scale['length']} held-out tokens per corpus in {record['locality']['folds']} folds; "
            f"attribution with curvature, {exact} neurons exactly. Bars and bands: 95 % over folds.",
            fontsize=7,
        )
        for kind in ("svg", "png"):
            figure.savefig(stem.with_suffix(f".{kind}"), metadata={"Date": None} if kind == "svg" else None)


def _scores(ax: Any, record: dict[str, Any], names: list[str]) -> None:
    shown = ("locality", "hoyer", "gini", "top_share", "negative_share")
    table = {
        end: np.array([[record["scores"][s][name][end] for s in names] for name in shown], dtype=float)
        for end in ("value", "low", "high", "chance")
    }
    labels = [f"top {record['top']} share" if name == "top_share" else name.replace("_", " ") for name in shown]
    plots.score_dots(ax, labels, table["value"], table["low"], table["high"], table["chance"][:, 0], names)
    plots.subtask_legend(ax, names, control="chance")


def _calibration(ax: Any, record: dict[str, Any], name: str, position: int) -> None:
    compared, found = record["compared"], record["calibration"][name]["pearson"]
    plots.calibration_scatter(
        ax,
        np.array(compared["estimate"][name]),
        np.array(compared["exact"][name]),
        drawn=np.array(compared["drawn"]),
        linear=float(record["noise"][position]),
        label=f"Pearson {found['value']:.2f}\n[{found['low']:.2f}, {found['high']:.2f}]",
        colour=plots.colour_of(position),
    )
    ax.set_title(name)


def main() -> None:
    """Measure, unless only drawing is asked for, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=list(SCALES), default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "figures", help="folder of the figure")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / NAME, help="folder of the measurements")
    parser.add_argument("--draw", action="store_true", help="draw the record that is there")
    options = parser.parse_args()
    stem = options.out / NAME
    if not options.draw:
        record = plain(measure(SCALES[options.scale], options.runs / options.scale))
        options.out.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    draw(json.loads(stem.with_suffix(".json").read_text()), stem)


if __name__ == "__main__":
    main()
