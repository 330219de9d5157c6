"""What a probe found, as a JSON record: curves, steps to recover, areas, information removed, verdicts, warnings."""

from typing import Any

import numpy as np
from jaxtyping import Float64

from skilloc.locality.intervals import Interval, mean_interval
from skilloc.relearning.brought import LEAD, reference_of
from skilloc.relearning.curves import (
    RECOVERED,
    Envelope,
    area,
    edges,
    envelope,
    not_recovered,
    skill,
    steps_to_recover,
    warnings_of,
)
from skilloc.relearning.result import Relearning
from skilloc.relearning.rules import damage, information_removed
from skilloc.relearning.settings import CONTROLS, ORIGINAL
from skilloc.relearning.verdict import missing, verdict, verdicts


def record(found: Relearning) -> dict[str, Any]:
    """Return everything that a table or a figure needs. JSON only; NaN becomes None.

    Curves are mean losses, in `unit`, on the report split, under the attacker's best (`curves.envelope`), with their
    95 % intervals over seeds; a loss above chance counts as chance.
    """
    best = envelope(found)
    made: dict[str, Any] = _plain(
        {
            "report": found.made.get("report"),
            "kind": found.made.get("kind"),
            "attack": sorted(found.made.get("attack", {})),
            "kept": found.subtasks,
            "seeds": found.made.get("seeds"),
            "unit": found.unit,
            "chance": found.chance,
            "steps": found.steps,
            "rates": found.rates,
            "sizes": found.sizes,
            "recovered_share": RECOVERED,
            "never": reference_of(found),
            "missing": {name: CONTROLS[name] for name in missing(found)},
            "models": {name: _model(found, best, name) for name in found.models},
            "verdicts": {v.model: {"word": v.word, "sentence": v.sentence} for v in verdicts(found)},
            "edges": [edge._asdict() for edge in edges(found, best)],
            "warnings": warnings_of(found),
            "summary": summary(found),
        }
    )
    return made


def summary(found: Relearning) -> str:
    """Return the verdicts, the controls' numbers beside them, and what is missing, in words, a line each."""
    best, own = envelope(found), reference_of(found)
    said = [v.sentence for v in verdicts(found)]
    beside = []
    for name in found.models:
        if name in CONTROLS and name not in (ORIGINAL, own):
            removed = information_removed(found, best, name)
            beside.append(f"{name} {'undecidable' if removed.why else _interval(removed.share)}")
    if beside:
        said.append(f"Information removed from the controls: {', '.join(beside)}.")
    if absent := missing(found):
        said.append(f"Controls that are missing: {', '.join(absent)}.")
    if not found.subtasks:
        said.append("Nothing was to be kept, so that damage is unknown.")
    return "\n".join([*said, *(f"Warning: {text}." for text in warnings_of(found))])


def _interval(found: Interval) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _model(found: Relearning, best: Envelope, name: str) -> dict[str, Any]:
    m = found.place(name)
    about: dict[str, Any] = {
        "control": CONTROLS.get(name),
        "parameters": found.made.get("parameters", {}).get(name),
        "repair_steps": found.repair_steps[m].tolist(),
        "kept_before": dict(zip(found.subtasks, found.repair[m, 0].mean(axis=0).tolist(), strict=True)),
        "kept_after": dict(zip(found.subtasks, found.repair[m, 1].mean(axis=0).tolist(), strict=True)),
        "damage": damage(found, name).record(),
        "sizes": [_curve(found, best, name, z) for z in range(len(found.sizes))],
    }
    if name not in (ORIGINAL, reference_of(found)):
        v = verdict(found, name, best=best)
        at = {"size": found.sizes[v.removed.size], "step": found.steps[v.removed.step], "why": v.removed.why}
        about["information_removed"] = {**v.removed.share.record(), **at}
        about["by_rate"] = by_rate(found, name).tolist()
    return about


def _curve(found: Relearning, best: Envelope, name: str, z: int) -> dict[str, Any]:
    m = found.place(name)
    steps, happened = steps_to_recover(found, best, name, z)
    left = not_recovered(found, best, name, z)
    loss = [mean_interval(at) for at in found.chance - best.skill[m, z].mean(axis=-1)]
    kept = found.kept[m][best.way[m, z], z, best.rate[m, z], best.stop[m, z]].mean(axis=1)  # step subtask
    return {
        "size": found.sizes[z],
        "loss": {end: [getattr(at, end) for at in loss] for end in ("value", "low", "high")},
        "way": [found.ways[way] for way in best.way[m, z]],
        "rate": [found.rates[r] for r in best.rate[m, z]],
        "stop": [found.steps[t] for t in best.stop[m, z]],
        "kept": {subtask: kept[:, s].tolist() for s, subtask in enumerate(found.subtasks)},
        "steps_to_recover": {"steps": steps.tolist(), "recovered": happened.tolist()},
        "not_recovered": {field: getattr(left, field).tolist() for field in left._fields},
        "area": mean_interval(area(found, best, name, z)).record(),
    }


def by_rate(found: Relearning, model: str) -> Float64[np.ndarray, "size rate step"]:
    """Return (model - never) / (original - never) had every network been attacked at one rate and to the end.

    How far it moves along the rates says how far one rate would have decided the verdict. NaN where the original does
    not lead by `verdict.LEAD` of what it led by before.
    """
    chosen = skill(found.selection, found.chance).mean(axis=-1)  # model way size rate step
    stated = skill(found.report, found.chance).mean(axis=(-2, -1))
    mean = np.take_along_axis(stated, chosen.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    own, whole, never = (mean[found.place(name)] for name in (model, ORIGINAL, reference_of(found)))
    lead = whole - never
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((lead > 0) & (lead >= LEAD * lead[..., :1]), (own - never) / lead, np.nan)


def _plain(value: Any) -> Any:
    """Return the value in JSON's own types; a number that is not finite becomes None."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
