"""How much text does it take before effects and locality scores settle?

Question: as more text is read, how soon do the units' effects agree with themselves, and how soon does the number of
units that carry a corpus stop moving? An answer: a number of tokens beyond which scores of independent draws lie within
each other's intervals, and reliability is near 1. The controls are the score without correction for the noise of the
effects, and its chance level: that of effects drawn from a normal distribution around 0.

Minutes: about 11 on two busy cores (`--scale cpu --workers 2`), half a minute for `--scale quick`; `--scale paper` asks
a larger model, on a GPU. `skilloc sweep run analyses/token_budget.toml` runs the same cells into the same folder.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skilloc import plots, store
from skilloc.cli.sweep_config import read_plan
from skilloc.plots.style import CONTROL
from skilloc.sweep import sweep

CONFIG = Path(__file__).with_suffix(".toml")
FIGURES = Path(__file__).parents[1] / "figures"
CHANGES: dict[str, tuple[str, ...]] = {
    "quick": ("length=16", "curvature=0", "sources=['python']"),
    "cpu": (),
    "paper": ("model=smollm2", "length=256", "curvature=8", "device=cuda"),
}


def measure(out: Path, scale: str, workers: int, gpus: list[str]) -> dict[str, Any]:
    """Run what is left of the cells, and collect them."""
    plan = read_plan(CONFIG, CHANGES[scale])
    report = sweep(plan.cell, plan.specs, out=out, workers=workers, gpus=gpus, threads=plan.threads)
    for failure in report.failed:
        raise RuntimeError(f"{failure.error}; run the same command again")
    records = [store.read(report.out / key) for key in report.keys]
    return {
        "scale": scale,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "records": [{"spec": record.spec, "metrics": record.metrics} for record in records],
    }


def _values(records: list[dict[str, Any]], subtask: str, *path: str) -> np.ndarray:
    """One number per record; NaN where it is missing."""
    found = []
    for record in records:
        value = record["metrics"]["subtasks"][subtask]
        for part in path:
            value = value[part]
        found.append(np.nan if value is None else value)
    return np.array(found, dtype=float)


def draw(found: dict[str, Any]) -> Any:
    """Left: effective number of units, corrected and not. Right: reliability of the effects. Each dot is one draw."""
    records = found["records"]
    tokens = np.array([record["metrics"]["tokens"] for record in records])
    budgets = np.unique(tokens)
    figure, (left, right) = plots.figure(1, 2, height=2.9)
    subtasks = records[0]["spec"]["sources"]
    for place, subtask in enumerate(subtasks):
        colour = plots.colour_of(place)
        shifted = tokens * 1.06 ** (place - 1)  # so that the bars of the subtasks stand side by side
        number, low, high = (_values(records, subtask, "effective_number", end) for end in ("value", "low", "high"))
        known = np.isfinite(number)
        bars = np.stack([number - low, high - number])[:, known]
        left.errorbar(
            shifted[known], number[known], bars, fmt="o", color=colour, ms=3, lw=0.7, alpha=0.8, label=subtask
        )
        uncorrected = _values(records, subtask, "effective_number_plain")
        left.plot(budgets, [uncorrected[tokens == b].mean() for b in budgets], color=colour, lw=0.8, ls=(0, (4, 3)))
        reliability = _values(records, subtask, "reliability")
        right.plot(tokens, reliability, "o", color=colour, ms=3, alpha=0.8)
        right.plot(budgets, [np.nanmean(reliability[tokens == b]) for b in budgets], color=colour, label=subtask)
    left.plot([], [], color=CONTROL, lw=0.8, ls=(0, (4, 3)), label="uncorrected")
    chance = _values(records, subtasks[0], "effective_number", "chance")
    left.axhline(chance[0], color=CONTROL, lw=0.8, label="chance")
    left.set(ylabel="effective number of units", title="units that carry a corpus", ylim=(0, None))
    right.set(ylabel="rank correlation of\ndisjoint halves", title="reliability of effects", ylim=(-0.05, 1.0))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="tokens per corpus")
        axes.set_xticks(budgets, [f"{b:,}" for b in budgets])
        axes.xaxis.minorticks_off()
        axes.legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Measure into figures/token_budget.json, and draw from that alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=CHANGES, default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="worker processes")
    parser.add_argument("--gpus", nargs="*", default=[], help="CUDA devices, one worker each")
    parser.add_argument("--runs", type=Path, default=Path("runs/token_budget"), help="folder of the cells")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the picture")
    parser.add_argument("--draw-only", action="store_true", help="draw from the JSON that is there")
    chosen = parser.parse_args(arguments)
    record = chosen.figures / "token_budget.json"
    if not chosen.draw_only:
        found = measure(chosen.runs, chosen.scale, chosen.workers, chosen.gpus)
        chosen.figures.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(found, indent=1) + "\n")
    with plots.style():
        figure = draw(json.loads(record.read_text()))
        for ending in ("png", "svg"):
            figure.savefig(record.with_suffix(f".{ending}"))


if __name__ == "__main__":
    main()
