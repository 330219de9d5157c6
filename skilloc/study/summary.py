"""One page about a study, in plain words. Every sentence comes from the records; none is written beforehand."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from skilloc import locality
from skilloc.effects import Effects
from skilloc.study.report import Record, interval, number, per_what, whole_model_words
from skilloc.units import HEAD, KINDS

ROWS = {
    "effective_number": "effective number of units",
    "k50": "units for half of the effect",
    "k90": "units for 90 % of it",
    "locality": "locality (1 = one unit, 0 = all alike)",
    "top_share": "share of the top {top}",
    "negative_share": "share of harmful effects",
}


def summarise(effects: Effects, record: Record) -> str:
    """Return a page in Markdown about effects, their locality, entanglement, joint removal and calibration.

    Args:
        effects: the effects.
        record: `about`, `top` (units), `locality`, `removal` and `calibration` of them (see `study.report`), and the
            names of `pictures`.
    """
    parts = [_measured(effects, record), _local(effects, record), _entangled(record), _removed(record)]
    parts += [_trusted(record), _limits(effects, record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _measured(effects: Effects, record: Record) -> str:
    drawn = effects.made["drawn"]
    kinds = np.array(effects.units.kinds)
    ordered = dict.fromkeys([*KINDS, *effects.units.kinds])
    counts = " and ".join(f"{int((kinds == kind).sum()):,} {kind}s" for kind in ordered if (kinds == kind).any())
    losses = ", ".join(f"{name} {loss:.2f}" for name, loss in record["baseline"].items())
    where = "" if record["at"] == "all" else f" at {record['at']} positions"
    return (
        f"# What the units of `{record['model']}` do\n\n"
        f"Each of its {counts} in {len(set(effects.units.layers.tolist()))} layers was taken away alone (held at "
        f"{record['reference']}{where}), and the loss measured again on {drawn['sequences']} × {drawn['length']} "
        f"tokens of each subtask ({drawn['split']} split, in {record['folds']} folds). A unit's effect is the loss "
        f"without it minus the loss with it. {whole_model_words(record)}: {losses}. Brackets are 95 % intervals "
        "over folds; “chance” is what units without structure would give."
    )


def _local(effects: Effects, record: Record) -> str:
    found, names = record["locality"], record["subtasks"]
    lines = ["## How local is each skill?", "", *_header([*names, "chance"])]
    for score, label in ROWS.items():
        cells = [interval(found["scores"][name][score]) for name in names]
        level = number(found["scores"][names[0]][score]["chance"])
        lines.append(f"| {label.format(top=found['top'])} | {' | '.join(cells)} | {level} |")
    lines.append("")
    for name in names:
        score = found["scores"][name]["effective_number"]
        verdict = compared(score, below="more local than chance", above="less local than chance")
        units = ", ".join(f"{unit['unit']} ({number(unit['value'])})" for unit in record["top"][name][:3])
        lines.append(f"- **{name}** is {verdict}. It needs most: {units} {effects.unit}. {_where(effects, name)}")
    return "\n".join([*lines, "", "![units](pictures/units.png)", "", "![locality](pictures/locality.png)"])


def _where(effects: Effects, name: str) -> str:
    """In which layer, and in heads or neurons, the effects of one subtask lie; sums free of noise."""
    values = effects.of(name)[:, effects.measured]
    layers, kinds = effects.units.layers[effects.measured], np.array(effects.units.kinds)[effects.measured]
    by_layer = {int(layer): max(0.0, _mass(values[:, layers == layer])) for layer in np.unique(layers)}
    strongest = max(by_layer, key=lambda layer: by_layer[layer])
    total = sum(by_layer.values())
    said = f"Layer {strongest} carries {number(by_layer[strongest])} of {number(total)} {effects.unit}"
    if len(set(kinds)) > 1 and HEAD in kinds:
        said += f", all heads together {number(_mass(values[:, kinds == HEAD]))}"
    return said + "."


def _mass(values: np.ndarray) -> float:
    return float(locality.scores(values, top=1)["mass"].value)


def _entangled(record: Record) -> str:
    found, names = record["locality"]["between"], record["subtasks"]
    if not found:
        return ""
    top = record["locality"]["top"]
    lines = ["## Do they need the same units?", ""]
    lines += _header(["overlap of effects", "chance", f"top {top} in common", "chance", "rank correlation"])
    verdicts = []
    for a, b in combinations(range(len(names)), 2):
        one = {name: {end: values[a][b] for end, values in scores.items()} for name, scores in found.items()}
        cells = [interval(one["overlap"]), number(one["overlap"]["chance"]), interval(one["top_jaccard"])]
        cells += [number(one["top_jaccard"]["chance"]), interval(one["rank_correlation"])]
        lines.append(f"| {names[a]}, {names[b]} | {' | '.join(cells)} |")
        verdict = compared(one["overlap"], below="share fewer units than chance", above="share units beyond chance")
        verdicts.append(f"{names[a]} and {names[b]}: {verdict}")
    return "\n".join([*lines, "", f"{'; '.join(verdicts)}.", "", "![entanglement](pictures/entanglement.png)"])


def _removed(record: Record) -> str:
    if record["removal"] is None:
        return ""
    names, sizes = record["subtasks"], record["removal"]["sizes"]
    size, units = list(sizes)[len(sizes) // 2], record["removal"]["units"]
    found = sizes[size]
    lines = [f"## What is lost without the {size} {units} that one of them needs most?", ""]
    lines += _header([f"loss of {name}" for name in names] + ["specificity", f"of random {units}"])
    for a, name in enumerate(names):
        increase = {end: np.array(values) for end, values in found["loss_increase"].items()}
        cells = [
            f"{interval({end: increase[end][a, b] for end in increase})}, random {number(increase['chance'][a, b])}"
            for b in range(len(names))
        ]
        specific = {end: values[a] for end, values in found["specificity"].items()}
        lines.append(
            f"| {units} of {name} | {' | '.join(cells)} | {interval(specific)} | {number(specific['chance'])} |"
        )
    verdicts = []
    for a, name in enumerate(names):
        specific = {end: values[a] for end, values in found["specificity"].items()}
        score = {**specific, "chance": 1.0}
        hit = compared(score, below="the others most", above=f"{name} most", between="all alike, as far as can be told")
        verdicts.append(f"removing those of {name} hits {hit}".replace("hits too noisy", "is too noisy"))
    said = "; ".join(verdicts)
    return "\n".join([
        *lines, "",
        f"{per_what(record).capitalize()}. The {units} were chosen on other folds than those reported; random "
        f"{units} lie in the same layers. Specificity is the loss of the subtask itself over the mean of the others: "
        f"{said}.",
        "", "![removal](pictures/removal.png)",
    ])  # fmt: skip


def _trusted(record: Record) -> str:
    found = record["calibration"]
    if found is None:
        return ""
    lines = ["## Could gradients have told?", "", *_header(list(found))]
    first = next(iter(found.values()))
    rows = {name: [found[s][name] for s in found] for name in ("pearson", "spearman", "relative_error")}
    rows |= {
        f"top {k.replace(' in ', ' found in estimated top ')}": [found[s]["recall"].get(k) for s in found]
        for k in first["recall"]
    }
    for name, scores in rows.items():
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(map(interval, scores))} |")
    said = (
        "Attribution with curvature, one forward and a few backward passes, against "
        f"{first['measured']:,} exact effects."
    )
    return "\n".join([*lines, "", said, "", "![calibration](pictures/calibration.png)"])


def _limits(effects: Effects, record: Record) -> str:
    drawn = effects.made["drawn"]
    unknown = [
        f"{ROWS[score].format(top=record['locality']['top'])} of {name}"
        for name in record["subtasks"]
        for score in ("effective_number", "k50")
        if not np.isfinite(record["locality"]["scores"][name][score]["value"])
    ]
    said = "## What this does not say\n\n"
    if unknown:
        said += f"Too noisy to state on so few tokens: {', '.join(unknown)}. "
    return said + (
        f"These are {drawn['sequences'] * drawn['length']:,} tokens per subtask of one model, and one reference "
        f"({record['reference']}); another may rank units differently (`--reference mean`). Units that stand in for "
        "each other have small effects alone, whatever they do together."
    )


def compared(score: Record, *, below: str, above: str, between: str = "not told from chance") -> str:
    """Say where a score's interval lies beside its chance level."""
    if not np.isfinite(score["value"]):
        return "too noisy to tell"
    if score["high"] < score["chance"]:
        return below
    return above if score["low"] > score["chance"] else between


def _header(columns: Sequence[str]) -> list[str]:
    return [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
