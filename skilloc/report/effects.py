"""What the effects of a study say, as plain records: tables, pictures and `--json` all show these and nothing else."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from skilloc import locality
from skilloc.effects import Effects
from skilloc.intervals import t_quantile
from skilloc.locality.uncertainty import mean_over_folds
from skilloc.positions import PositionEffects
from skilloc.removal import Removal
from skilloc.study.folder import Study
from skilloc.study.settings import reference_name, unit_of

Record = dict[str, Any]

PER_TOKEN = ("cross_entropy", "answer", "kl")
"""Losses that are means over tokens."""


def about(effects: Effects) -> Record:
    """Return what the effects are about: model, method, reference, loss and its unit, number of units, losses."""
    made = effects.made
    return {
        "model": made.get("name", made.get("model")),
        "method": "two-stage" if "overlay" in made else made.get("method"),
        "reference": reference_name(made),
        "loss": made.get("loss", {}).get("name", "cross_entropy"),
        "unit": effects.unit,
        "at": made.get("at", "all"),
        "subtasks": list(effects.subtasks),
        "folds": len(effects.values),
        "units": len(effects.units),
        "measured": int(effects.measured.sum()),
        "exact": int((effects.exact & effects.measured).sum()),
        "baseline": dict(zip(effects.subtasks, effects.baseline.mean(axis=0).tolist(), strict=True)),
    }


def top_units(effects: Effects, *, n: int = 10) -> dict[str, list[Record]]:
    """Return the n units that each subtask needs most, with 95 % intervals over folds (NaN below 2 folds)."""
    found = {}
    names = effects.units.names
    for subtask in effects.subtasks:
        values = effects.of(subtask)
        mean, low, high = _over_folds(values)
        order = np.argsort(-np.where(np.isfinite(mean), mean, -np.inf), kind="stable")
        found[subtask] = [
            {
                "unit": names[u],
                "value": float(mean[u]),
                "low": float(low[u]),
                "high": float(high[u]),
                "exact": bool(effects.exact[u]),
            }
            for u in order[: min(n, int(effects.measured.sum()))]
        ]
    return found


def calibration_record(study: Study) -> Record | None:
    """Return how far the estimate of a study can be trusted; None where it was not compared with exact effects."""
    if study.compared is None:
        return None
    return {name: found.record() for name, found in study.compared.calibration.items()}


def _over_folds(values: Float[np.ndarray, "fold *axes"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(values) < 2:
        mean = values.mean(axis=0)
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    found = mean_over_folds(values)
    return found.value, found.low, found.high


def locality_record(effects: Effects, *, top: int = 10) -> Record:
    """Return the scores of every subtask, and the matrices between them, with intervals and chance levels.

    Raises:
        ValueError: if there are fewer than 3 folds, or too few measured units.
    """
    scores = locality.table(effects.values, effects.subtasks, top=top)
    record: Record = {
        **about(effects),
        "top": top,
        "scores": {name: {score: found.record() for score, found in row.items()} for name, row in scores.items()},
        "reliability": locality.reliability(effects.values).record(),
        "between": {},
    }
    if len(effects.subtasks) > 1:
        record["between"] = {name: found.record() for name, found in locality.between(effects.values, top=top).items()}
    return record


def removal_record(removal: Removal) -> Record:
    """Return, for each number of removed units, the matrices and scores of joint removal.

    Raises:
        ValueError: if there are fewer than 3 folds or 2 random draws.
    """
    sizes = {}
    for size in removal.sizes:
        if len(removal.subtasks) > 1:
            found = locality.removal_scores(removal.at(size), removal.random_at(size))
        else:
            chance = removal.random_at(size).mean(axis=(0, 1))
            found = {"loss_increase": mean_over_folds(removal.at(size))._replace(chance=chance)}
        sizes[str(size)] = {name: scores.record() for name, scores in found.items()}
    baseline = dict(zip(removal.subtasks, removal.baseline.mean(axis=0).tolist(), strict=True))
    reference = reference_name(removal.made)
    units = " and ".join(f"{kind}s" for kind in removal.made.get("effects", {}).get("only", [])) or "units"
    return {
        "subtasks": list(removal.subtasks),
        "reference": reference,
        "units": units,
        "unit": unit_of(removal.made),
        "baseline": baseline,
        "sizes": sizes,
    }


def positions_record(found: PositionEffects) -> Record:
    """Return the effects of each subtask's units at each position, with 95 % intervals."""
    record: Record = {"positions": list(found.positions), "unit": found.unit, "subtasks": {}}
    for s, subtask in enumerate(found.subtasks):
        names = found.made["chosen"][subtask]
        chosen = [found.units.names.index(name) for name in names]
        ends = zip(("value", "low", "high"), _over_folds(found.values[:, s][..., chosen]), strict=True)
        record["subtasks"][subtask] = {"units": names, **{end: values.T.tolist() for end, values in ends}}
    return record


def peaks(record: Record, subtask: str, *, most: int = 3) -> list[tuple[str, list[tuple[str, Record]]]]:
    """Return each unit of a record (`positions_record`) with the positions where its effect is largest."""
    found, peaked = record["subtasks"][subtask], []
    for u, name in enumerate(found["units"]):
        order = np.argsort(-np.abs(np.array(found["value"][u])), kind="stable")[:most]
        scores = [(record["positions"][p], {end: found[end][u][p] for end in ("value", "low", "high")}) for p in order]
        peaked.append((name, scores))
    return peaked


def spread_record(records: Sequence[Record]) -> Record | None:
    """Return how far each locality score moves between references; None unless the records differ in nothing else."""
    references = [record["reference"] for record in records]
    same = all(
        [record[key] for key in ("model", "subtasks", "units", "measured")]
        == [records[0][key] for key in ("model", "subtasks", "units", "measured")]
        for record in records
    )
    if len(records) < 2 or not same or len(set(references)) < len(references):
        return None
    found: Record = {"references": references, "scores": {}}
    for subtask in records[0]["subtasks"]:
        values = np.array([[score["value"] for score in record["scores"][subtask].values()] for record in records])
        moved = locality.spread(values)
        found["scores"][subtask] = {
            name: {"range": float(moved.range[i]), "deviation": float(moved.deviation[i])}
            for i, name in enumerate(locality.NAMES)
        }
    return found


class Curves(NamedTuple):
    """Sorted effects, in the unit of the loss, at some ranks, with 95 % bands over folds."""

    ranks: Float[np.ndarray, "point"]
    value: Float[np.ndarray, "subtask point"]
    low: Float[np.ndarray, "subtask point"]
    high: Float[np.ndarray, "subtask point"]


def sorted_effects(effects: Effects) -> Curves:
    """Return effects by rank, where each half of the folds is ranked by the other half.

    So the curve shows no luck: where the order is all noise, it is 0. Points are means over ever wider ranges of ranks.
    """
    values = effects.values[:, :, effects.measured]
    folds, _, n = values.shape
    halves = (np.arange(0, folds, 2), np.arange(1, folds, 2)) if folds > 1 else (np.array([0]), np.array([0]))
    edges = np.unique(np.geomspace(1, n + 1, 25).astype(int))[:-1] - 1
    counts = np.diff(np.append(edges, n))
    parts = []
    for half, other in (halves, halves[::-1]):
        order = np.argsort(-values[other].mean(axis=0, keepdims=True), axis=-1, kind="stable")
        ordered = np.take_along_axis(values[half], order, axis=-1)
        parts.append(np.add.reduceat(ordered, edges, axis=-1) / counts)
    value = np.mean([part.mean(axis=0) for part in parts], axis=0)
    half_width = np.full_like(value, np.nan)
    if folds > 3:
        variances = [part.var(axis=0, ddof=1) / len(part) for part in parts]
        half_width = t_quantile(folds - 2) * np.sqrt(np.sum(variances, axis=0)) / 2
    ranks = np.sqrt((edges + 1) * (edges + counts)).astype(float)
    return Curves(ranks, value, value - half_width, value + half_width)


def noise_of(effects: Effects) -> Float[np.ndarray, "subtask"]:
    """Return, per subtask, the half-width of the 95 % interval of a typical (median) unit."""
    mean, _, high = _over_folds(effects.values[:, :, effects.measured])
    return np.asarray(np.median(high - mean, axis=-1))


def loss_words(record: Record) -> str:
    """Return what a record (`about`) measured: `loss in nats per token`, or the loss's name in its unit."""
    return f"{_loss_name(record)} in {per_what(record)}"


def whole_model_words(record: Record) -> str:
    """Return the title of the losses of the whole model: `Loss of the whole model, in nats per token`."""
    return f"{_loss_name(record).capitalize()} of the whole model, in {per_what(record)}"


def per_what(record: Record) -> str:
    """Return the unit of a record (`about`), and per what it is a mean: `nats per token`, `logits`."""
    return f"{record['unit']} per token" if record["loss"] in PER_TOKEN else str(record["unit"])


def _loss_name(record: Record) -> str:
    return "loss" if record["loss"] == "cross_entropy" else str(record["loss"])


def plain(record: Any) -> Any:
    """Return a record as JSON holds it: NaN and infinity become None."""
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [plain(value) for value in record]
    return None if isinstance(record, float) and not np.isfinite(record) else record


def interval(score: Mapping[str, float] | None, figures: int = 2) -> str:
    """Return a score with its interval, `0.63 [0.58, 0.67]`; a dash for one that cannot be told from noise."""
    if score is None or math.isnan(score["value"]):
        return "–"
    value = number(score["value"], figures)
    return value if score["low"] == score["high"] else f"{value} [{number(score['low'])}, {number(score['high'])}]"


def number(value: float, figures: int = 2) -> str:
    """Return a number with so many figures, and all those before the point: 0.0012, 0.12, 1.2, 123, 1,234."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value in (-1, 0, 1):
        return f"{value:.0f}".replace("-", "−")
    rounded = float(f"{value:.{figures - 1}e}")  # 0.999 has as many figures before the point as 1
    digits = max(0, figures - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{min(digits, 5)}f}".replace("-", "−")
