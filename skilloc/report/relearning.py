"""What an attack found: recovery curves beside the controls', what was removed, and the verdict.

All that is read from an attack is read here, so that another record of it changes this file only.
"""

from pathlib import Path
from typing import Any

import numpy as np

from skilloc import plots, store
from skilloc.locality.intervals import Interval, number
from skilloc.relearning import Relearning, Told, record, tell
from skilloc.relearning.told import Attacked, Candidate
from skilloc.report.pictures import save_pictures
from skilloc.report.section import Cell, Picture, Section, Table

WHAT = Relearning.WHAT


def is_attack(path: Path) -> bool:
    """Whether a result folder holds what an attack measured."""
    return bool(store.read(path).spec.get("what") == WHAT)


def attack_section(found: Relearning, name: str) -> Section:
    """Return what one attack found: the verdict in words, a row per model and data size, and the curves."""
    told = tell(found)
    last = told.steps[-1]
    rows: list[tuple[Cell, ...]] = []
    for model, one in told.models.items():
        for z, curve in enumerate(one.sizes):
            size = "" if len(told.sizes) == 1 else f", {curve.size or 'fresh'} examples"
            rows.append((f"{model}{size}", *_row(one, curve, last, first=z == 0)))
    columns = ("model", "loss before", f"loss after {last:,} steps", "steps to recover", "area", "damage")
    caption = f"loss on {told.report} in {told.unit} under attack by {told.kind}; 95 % over seeds"
    alt = "loss under attack by number of steps, beside controls"
    return Section(
        f"Was it removed, or hidden? {name}",
        tuple(told.summary.split("\n")),
        (Table(caption, (*columns, "information removed"), tuple(rows)),),
        (Picture(name.rpartition("/")[2], alt, lambda: draw_attack(told)),),
    )


def keep_attack(found: Relearning, out: Path, name: str) -> None:
    """Write `out/NAME.json`, the record of an attack, and its curves as `out/NAME.png` and `.svg`."""
    store.write_json(out / f"{name}.json", record(found))
    save_pictures(attack_section(found, name).pictures, out)


def _row(model: Candidate, curve: Attacked, last: int, *, first: bool) -> list[Cell]:
    recovered = curve.steps_to_recover
    steps = sorted(
        (step if there else np.inf, number(step, 3) if there else f"> {last:,}")
        for step, there in zip(recovered.steps.tolist(), recovered.recovered.tolist(), strict=True)
    )
    removed = model.information_removed
    told: Cell = ""
    if removed is not None:
        told = "undecidable" if removed.why else _finite(Interval(removed.value, removed.low, removed.high))
    of_model: list[Cell] = [_finite(model.damage), told] if first else ["", ""]
    before, after = (_finite(curve.loss.at(place)) for place in (0, -1))
    return [before, after, ", ".join(text for _, text in steps), _finite(curve.area), *of_model]


def _finite(score: Interval) -> Interval:
    """Return a number as a table has it: an end that is not known is NaN."""
    ends = (float(end) for end in score[:3])
    return Interval(*(end if np.isfinite(end) else float("nan") for end in ends))


def draw_attack(told: Told) -> Any:
    """Draw recovery curves: per data size, the attacked subtask, and beside it the kept ones."""
    sizes, kept = told.sizes, told.kept
    figure, axes = plots.figure(len(sizes), 2 if kept else 1, height=2.7 * len(sizes), squeeze=False)
    names = list(told.models)
    for z, size in enumerate(sizes):
        curves = [told.models[name].sizes[z] for name in names]
        losses = Interval(*(np.stack([curve.loss[end] for curve in curves]) for end in range(3)))
        plots.recovery_curves(axes[z, 0], told.steps, losses, names, chance=told.chance, unit=told.unit)
        data = "fresh examples" if size is None else f"{size} examples"
        axes[z, 0].set_title(f"{told.report}, {data}")
        if kept:
            mean = np.stack([np.mean([curve.kept[subtask] for subtask in kept], axis=0) for curve in curves])
            empty = np.full_like(mean, np.nan)
            plots.recovery_curves(axes[z, 1], told.steps, Interval(mean, empty, empty), names, unit=told.unit)
            axes[z, 1].set_title(f"meanwhile, kept: {', '.join(kept) if len(kept) <= 4 else f'{len(kept)} subtasks'}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=2.6)
    return figure
