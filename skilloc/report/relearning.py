"""The part of a report about relearning: recovery curves, what was removed, and the verdict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skilloc import plots, store
from skilloc.pages.document import drawn, escape, picture, table
from skilloc.relearning import Relearning, record
from skilloc.study.relearning import draw_relearning
from skilloc.study.report import interval, number

WHAT = "relearning"


def is_attack(path: Path) -> bool:
    """Whether a result folder holds what an attack measured."""
    return store.read(path).spec.get("what") == WHAT


def attack_section(path: Path, name: str) -> str:
    """Return what one attack found: the curves beside those of the controls, a table, and the verdict in words."""
    found = record(store.load(Relearning, path))
    with plots.style():
        image = picture(drawn(draw_relearning(found)), "loss under attack by number of steps, beside controls")
    last = found["steps"][-1]
    columns = ["", "loss before", f"loss after {last} steps", "steps to recover", "damage", "information removed"]
    rows = [_row(model, one, last) for model, one in found["models"].items()]
    caption = f"loss on {found['report']} in {found.get('unit', 'nats')} under attack by {found['kind']}"
    said = "".join(f"<p>{escape(line)}</p>" for line in found["summary"].split("\n"))
    return f"<h3>{escape(name)}</h3>\n{said}\n{table(columns, rows, caption=caption)}\n{image}"


def _row(name: str, model: Mapping[str, Any], last: int) -> list[str]:
    curve = model["sizes"][0]
    recovered = curve["steps_to_recover"]
    steps = [
        number(step, 3) if there else f"> {last:,}"
        for step, there in zip(recovered["steps"], recovered["recovered"], strict=True)
    ]
    loss = curve["loss"]
    before, after = ({end: _float(loss[end][place]) for end in ("value", "low", "high")} for place in (0, -1))
    removed = model.get("information_removed")
    told = "" if removed is None else "undecidable" if removed["why"] else _scored(removed)
    return [name, interval(before, 3), interval(after, 3), ", ".join(sorted(steps)), _scored(model["damage"]), told]


def _scored(score: Mapping[str, Any]) -> str:
    return interval({end: _float(score[end]) for end in ("value", "low", "high")})


def _float(value: float | None) -> float:
    return float("nan") if value is None else value
