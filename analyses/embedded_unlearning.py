"""Can a language model be pruned so that it loses a corpus, and not only hides it?

Question (the paper's title, and its claims 4 and 10): the embedded model keeps Python and loses C++ and English, or the
other way round, by group lasso with pruning, or by naive pruning with as much loss on what is kept. An answer:
information removed (1 - what an attacker gets back of the lead that the original has over a network that never learned
the corpus), with its interval over seeds, beside the same number for a random mask of equal size and layers, and for
plain finetuning of equal length without the penalty. Each seed has its own finetuning, mask, initial values and attack.

Minutes: about 20 on two cores (40 of one core) for `--scale cpu`, one for `--scale quick`; `--scale paper` localizes
and attacks for ten times as long, with 5 rates and 5 seeds, for a cluster.
"""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from skilloc import plots
from skilloc.experiments.embedded_unlearning import LASSO, NAIVE, EmbeddedUnlearning
from skilloc.experiments.script import Run, analyse
from skilloc.relearning import PLAIN, RANDOM, Relearning, over_seeds, record

CELL = "skilloc.experiments.embedded_unlearning:unlearn"
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


def measure(scale: tuple[int, tuple[EmbeddedUnlearning, ...]], run: Run) -> dict[str, Any]:
    """Narrow and attack every seed of both arms; losses in nats."""
    seeds, arms = scale
    results = run(CELL, [asdict(replace(arm, seed=seed)) for arm in arms for seed in range(seeds)])
    found = []
    for place, arm in enumerate(arms):
        cells = results[place * seeds : (place + 1) * seeds]
        parts = [Relearning.of(cell.metrics["relearning"], cell.arrays) for cell in cells]
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
        value, low, high = (np.array([c["loss"][end] for c in curves], dtype=float) for end in ("value", "low", "high"))
        plots.recovery_curves(row[0], steps, value, low, high, names)
        kept = np.array([np.mean([c["kept"][name] for name in arm["kept"]], axis=0) for c in curves], dtype=float)
        empty = np.full_like(kept, np.nan)
        plots.recovery_curves(row[1], steps, kept, empty, empty, names)
        row[0].set_title(f"{probe['report']}: removed")
        row[1].set_title(f"{' and '.join(arm['kept'])}: kept")
        plots.information_dots(row[2], probe, SHOWN, candidates=(NAIVE, LASSO))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, handlelength=2.6)
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
