"""What an attack found: recovery curves beside the controls', what was removed, and the verdict.

All that is read from an attack is read here, so that another record of it changes this file only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skilloc import plots, store
from skilloc.locality.intervals import Interval, number
from skilloc.relearning import Relearning, record
from skilloc.report.pictures import save_pictures
from skilloc.report.section import Cell, Picture, Section, Table

WHAT = Relearning.WHAT


def is_attack(path: Path) -> bool:
    """Whether a result folder holds what an attack measured."""
    return bool(store.read(path).spec.get("what") == WHAT)


def attack_section(found: Relearning, name: str) -> Section:
    """Return what one attack found: the verdict in words, a row per model and data size, and the curves."""
    told = record(found)
    last = told["steps"][-1]
    rows: list[tuple[Cell, ...]] = []
    for model, one in told["models"].items():
        for z, curve in enumerate(one["sizes"]):
            size = "" if len(told["sizes"]) == 1 else f", {curve['size'] or 'fresh'} examples"
            rows.append((f"{model}{size}", *_row(one, curve, last, first=z == 0)))
    columns = ("model", "loss before", f"loss after {last:,} steps", "steps to recover", "area", "damage")
    caption = f"loss on {told['report']} in {told.get('unit', 'nats')} under attack by {told['kind']}; 95 % over seeds"
    alt = "loss under attack by number of steps, beside controls"
    return Section(
        f"Was it removed, or hidden? {name}",
        tuple(told["summary"].split("\n")),
        (Table(caption, (*columns, "information removed"), tuple(rows)),),
        (Picture(name.rpartition("/")[2], alt, lambda: draw_attack(told)),),
    )


def keep_attack(found: Relearning, out: Path, name: str) -> None:
    """Write `out/NAME.json`, the record of an attack, and its curves as `out/NAME.png` and `.svg`."""
    store.write_json(out / f"{name}.json", record(found))
    save_pictures(attack_section(found, name).pictures, out)


def _row(model: Mapping[str, Any], curve: Mapping[str, Any], last: int, *, first: bool) -> list[Cell]:
    recovered = curve["steps_to_recover"]
    steps = sorted(
        (step if there else np.inf, number(step, 3) if there else f"> {last:,}")
        for step, there in zip(recovered["steps"], recovered["recovered"], strict=True)
    )
    loss = curve["loss"]
    before, after = (_interval({end: loss[end][at] for end in ("value", "low", "high")}) for at in (0, -1))
    removed = model.get("information_removed")
    told: Cell = "" if removed is None else "undecidable" if removed["why"] else _interval(removed)
    of_model: list[Cell] = [_interval(model["damage"]), told] if first else ["", ""]
    return [before, after, ", ".join(text for _, text in steps), _interval(curve["area"]), *of_model]


def _interval(score: Mapping[str, Any]) -> Interval:
    return Interval(*(float("nan") if score[end] is None else float(score[end]) for end in ("value", "low", "high")))


def draw_attack(told: Mapping[str, Any]) -> Any:
    """Draw recovery curves: per data size, the attacked subtask, and beside it the kept ones."""
    sizes, kept = told["sizes"], told["kept"]
    figure, axes = plots.figure(len(sizes), 2 if kept else 1, height=2.7 * len(sizes), squeeze=False)
    names, unit = list(told["models"]), told.get("unit", "nats")
    for z, size in enumerate(sizes):
        curves = [told["models"][name]["sizes"][z] for name in names]
        ends = ([curve["loss"][end] for curve in curves] for end in ("value", "low", "high"))
        losses = Interval(*(np.array(end, dtype=float) for end in ends))
        plots.recovery_curves(axes[z, 0], told["steps"], losses, names, chance=told["chance"], unit=unit)
        data = "fresh examples" if size is None else f"{size} examples"
        axes[z, 0].set_title(f"{told['report']}, {data}")
        if kept:
            mean = np.array([np.mean([curve["kept"][subtask] for subtask in kept], axis=0) for curve in curves], float)
            empty = np.full_like(mean, np.nan)
            plots.recovery_curves(axes[z, 1], told["steps"], Interval(mean, empty, empty), names, unit=unit)
            axes[z, 1].set_title(f"meanwhile, kept: {', '.join(kept) if len(kept) <= 4 else f'{len(kept)} subtasks'}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=2.6)
    return figure
