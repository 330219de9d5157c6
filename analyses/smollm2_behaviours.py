"""Are the skills of a small language model local, behaviour by behaviour, where those of corpora are not?

Question: of the heads, neurons and residual dimensions of SmolLM2-135M, which does each behaviour need (facts by
relation, and behaviours that are made), how local is each next to three corpora, do behaviours share units, what does
removing one's heads together do to the others, what does a head bring back that is put into a corrupted prompt's run,
and are the heads that induction needs those whose patterns match prefixes?
An answer: locality scores with interval, chance and spread between references; overlap of all pairs beside chance; a
removal matrix beside matched random masks; and the overlap of induction's heads with those of the highest
prefix-matching score, computed from attention patterns alone. Behaviours that the model cannot do are refused, with
their number.

Heads: every one exactly at the zero reference; at the mean and at resampling, the heads of the largest estimates and a
sample. Neurons and residual dimensions: estimates, with those of the largest and a sample exactly, which is what they
are calibrated on. Capped to take about five hours of one core (`--scale cpu`, which says a forecast before it starts;
minutes for `--scale quick`, the embedded model). Stopped, the same command goes on. Needs `skilloc fetch smollm2`, but
for `quick`.
"""

import resource
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from _behaviours import (
    CORPORA,
    KNOWN,
    LONG,
    Able,
    Part,
    able,
    experiment_of,
    measured_part,
    opened_once,
    scored,
)
from _behaviours_drawn import draw
from _frame import Cells, analyse
from skilloc import locality
from skilloc.locality.intervals import t_quantile
from skilloc.masks import top
from skilloc.models.makers import units_of
from skilloc.report.record import as_json
from skilloc.store import Result


@dataclass(frozen=True)
class Scale:
    """How much: the model, examples of each subtask (one a fold), tokens of a corpus row, heads removed together,
    random masks at zero and at the references of `few_at`; units of the largest estimates that are measured, by kind,
    and how many are drawn beside them; examples of induction, whose heads are all measured exactly at each reference of
    `induced`."""

    model: str
    examples: int
    length: int
    removed: int
    draws: int
    few: int
    references: tuple[str, ...] = ("mean", "resample")
    exact: tuple[tuple[str, int], ...] = (("head", 40), ("neuron", 40), ("residual", 24))
    sample: int = 12
    few_at: tuple[str, ...] = ("mean", "resample")
    induction: int = 32
    induced: tuple[str, ...] = ("zero", "mean", "paired")


SCALES = {
    "quick": Scale("embedded", 6, 12, 2, 2, 2, ("resample",), (("head", 4), ("neuron", 4)), sample=8),
    "heads": Scale("smollm2", 6, 16, 10, 20, 3, (), ()),
    "cpu": Scale("smollm2", 12, 16, 10, 20, 3),
    "paper": Scale(
        "smollm2",
        16,
        128,
        10,
        20,
        20,
        exact=(("head", 270), ("neuron", 400), ("residual", 200)),
        sample=64,
        induction=128,
    ),
}


def measure(scale: Scale, cells: Cells) -> dict[str, Any]:
    """Measure every part, dearest question first, and return what the figure shows."""
    known = cells(able, [Able(scale.model, max(24, scale.examples))])[0].metrics
    parts = _groups(scale, known)
    names = [name for part in parts for name, _ in part.subtasks]
    tqdm.write(f"{len(names)} subtasks; about {_forecast(scale, parts):.0f} minutes of one core", file=sys.stderr)
    heads = cells(measured_part, parts)
    values = _joined(heads)
    units = units_of(opened_once(scale.model).model, kinds=("head",))
    found: dict[str, Any] = {
        "scale": asdict(scale),
        "known": known,
        "subtasks": names,
        "groups": {part.group: [name for name, _ in part.subtasks] for part in parts},
        "units": list(units.names),
        "locality": {"head": {"zero": scored(values, names)}},
        "between": {name: one.record() for name, one in locality.between(values, top=scale.removed).items()},
        "heads": {name: _top(values[:, s].mean(axis=0), units.names) for s, name in enumerate(names)},
    }
    others = {name: [replace(part, reference=name) for part in parts] for name in ("zero", *scale.references)}
    exact = dict(scale.exact)
    sampled = {
        name: [replace(part, exact=exact["head"], sample=scale.sample) for part in others[name]]
        for name in scale.references
    }
    kinds = {
        kind: [replace(part, kind=kind, exact=count, sample=scale.sample) for part in parts]
        for kind, count in scale.exact
        if kind != "head"
    }
    made = [replace(part, restore=True) for part in parts if part.group in ("short", "long")]
    draws = {"zero": scale.draws, **{name: scale.few for name in scale.references if name in scale.few_at}}
    removed = {name: _removed(scale, others[name], values, count) for name, count in draws.items()}
    induced = _induced(scale, parts[0]) if "induction" in names else []
    # All at once first, so that no worker waits for the longest of a few.
    every = (*sampled.values(), *removed.values(), *kinds.values())
    whole = cells(measured_part, [*induced, *made, *(spec for specs in every for spec in specs)])
    if induced:
        found["induction"] = _induction(scale, induced, cells(measured_part, induced))
    if made:
        found["restored"] = _restored(cells(measured_part, made), made, units.names)
    found["removal"] = {
        name: _removal(names, len(parts), cells(measured_part, specs), draws[name]) for name, specs in removed.items()
    }
    spread = {"zero": values}
    for reference, specs in sampled.items():
        results = cells(measured_part, specs)
        spread[reference] = _joined(results)
        found["locality"]["head"][reference] = scored(spread[reference], names) | _calibrated(results)
    if len(spread) > 1:
        found["spread"] = {name: _spread(spread, s, units.names) for s, name in enumerate(names)}
    for kind, specs in kinds.items():
        results = cells(measured_part, specs)
        table = _joined(results)
        found["locality"][kind] = {"zero": scored(table, names) | _calibrated(results)}
        found[f"between {kind}s"] = {"overlap": locality.overlap(table).record()}
    found["cost"] = {
        "cpu_minutes": sum(one.metrics["cpu_minutes"] for one in (*heads, *whole)),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    return dict(as_json(found))


def _groups(scale: Scale, known: dict[str, Any]) -> list[Part]:
    """Return the parts at the zero reference: relations, made behaviours by length, corpora."""
    facts = [(name, tuple(one["right"])) for name, one in known["facts"].items() if len(one["right"]) >= KNOWN]
    made = {name: one["length"] for name, one in known["made"].items() if one["able"]}
    groups: dict[str, list[tuple[str, tuple[int, ...]]]] = {
        "facts": facts,
        "short": [(name, ()) for name, length in made.items() if length <= LONG],
        "long": [(name, ()) for name, length in made.items() if length > LONG],
        "corpora": [(name, ()) for name in CORPORA],
    }
    plain = Part(scale.model, "", (), scale.examples, scale.length)
    return [replace(plain, group=group, subtasks=tuple(own)) for group, own in groups.items() if own]


def _forecast(scale: Scale, parts: list[Part]) -> float:
    """Return the minutes of processor time, from one pass over every group."""
    seconds = 0.0
    for part in parts:
        experiment = experiment_of(part)
        experiment.losses()  # the first pass also draws the examples
        began = time.process_time()
        experiment.losses()
        seconds += time.process_time() - began
    heads = len(experiment.units)
    sources = sum(len(part.subtasks) for part in parts)
    removals = sources / 2 * (scale.draws + 1 + len(scale.references) * (scale.few + 1))
    # A head takes about 0.6 of a pass, an estimate 12, and a check of the ways, on fewer tokens, 5.
    exact = sum((count + scale.sample) * 0.6 + 17 for _, count in scale.exact)
    extra = (dict(scale.exact).get("head", 0) * 0.6 + 17) * max(0, len(scale.references) - 1)
    return seconds / 60 * (heads * 0.6 * 1.4 + removals + exact + extra + 20)


def _joined(results: list[Result]) -> Float[np.ndarray, "fold subtask unit"]:
    return np.concatenate([one.arrays["effects"].values for one in results], axis=1)


def _calibrated(results: list[Result]) -> dict[str, Any]:
    told = [one.metrics["calibration"] for one in results if "calibration" in one.metrics]
    return {"spearman": {name: number for part in told for name, number in part.items()}}


def _removed(scale: Scale, parts: list[Part], values: np.ndarray, draws: int) -> list[Part]:
    """Return what is removed of what: the heads that each subtask needs most at the zero reference, chosen on the first
    half of the folds."""
    chosen = values[: scale.examples // 2].mean(axis=0)
    names = [name for part in parts for name, _ in part.subtasks]
    asked = []
    for s, name in enumerate(names):
        heads = tuple(int(u) for u in np.flatnonzero(top(chosen[s], scale.removed)))
        asked += [replace(part, removed=((name, heads),), draws=draws) for part in parts]
    return asked


def _removal(names: list[str], parts: int, results: list[Result], draws: int) -> dict[str, Any]:
    """Loss increase without the heads that a subtask needs most, stated on the second half of the folds, beside random
    heads of the same layers."""
    found = [one.arrays["removal"].values[0] for one in results]
    rows = [np.concatenate(found[s * parts : (s + 1) * parts], axis=-1) for s in range(len(names))]
    table = np.array(rows)  # source mask fold target
    scores = locality.removal_scores(table[:, 0].swapaxes(0, 1), table[:, 1:].transpose(1, 2, 0, 3))
    return {name: one.record() for name, one in scores.items()} | {"draws": draws}


def _restored(results: list[Result], parts: list[Part], names: tuple[str, ...]) -> dict[str, Any]:
    """Share of the gap between a prompt and its corrupted twin that one head alone brings back."""
    found = {}
    for result, part in zip(results, parts, strict=True):
        effects, gap = result.arrays["effects"].values, np.array(result.metrics["gap"])
        for s, (name, _) in enumerate(part.subtasks):
            mean = effects[:, s].mean(axis=0)
            half = t_quantile(len(effects) - 1) * effects[:, s].std(axis=0, ddof=1) / np.sqrt(len(effects))
            order = np.argsort(mean)[:10]
            whole = float(gap[:, s].mean())
            found[name] = {
                "gap": whole,
                "effects": mean,
                "heads": [
                    [names[u], -mean[u] / whole, -(mean[u] + half[u]) / whole, -(mean[u] - half[u]) / whole]
                    for u in order
                ],
            }
    return found


def _spread(values: dict[str, np.ndarray], s: int, names: tuple[str, ...]) -> dict[str, Any]:
    found = locality.reference_spread({name: table[:, s] for name, table in values.items()})
    return {
        "references": found.references,
        "locality": found.values[:, locality.NAMES.index("locality")],
        "low": found.low[locality.NAMES.index("locality")],
        "high": found.high[locality.NAMES.index("locality")],
        "moved": [[names[one.unit], one.first, one.second, *one.ranks] for one in found.moved],
    }


def _top(effects: Float[np.ndarray, " unit"], names: tuple[str, ...], count: int = 10) -> list[list[Any]]:
    order = np.argsort(-effects)[:count]
    return [[names[u], float(effects[u])] for u in order]


def _induced(scale: Scale, part: Part) -> list[Part]:
    own = replace(part, group="long", subtasks=(("induction", ()),), examples=scale.induction)
    return [replace(own, reference=reference) for reference in scale.induced]


def _induction(scale: Scale, parts: list[Part], results: list[Result]) -> dict[str, Any]:
    """Overlap of the heads that induction needs with those whose patterns match prefixes, beside chance.

    `again` is how far our own ranking agrees with itself: heads shared by the tops of two halves of the examples.
    """
    scores = prefix_matching(scale.model)
    count = min(10, len(scores) // 4)
    theirs = np.argsort(-scores)[:count]
    found: dict[str, Any] = {}
    for part, result in zip(parts, results, strict=True):
        effects = result.arrays["effects"].values[:, 0]
        whole, *halves = (np.argsort(-some.mean(axis=0))[:count] for some in (effects, effects[::2], effects[1::2]))
        shared = len(np.intersect1d(whole, theirs))
        found[part.reference] = {
            "effects": effects.mean(axis=0),
            "shared": shared,
            "likely": _tail(len(scores), count, shared),
            "again": len(np.intersect1d(halves[0], halves[1])),
            "reliability": locality.reliability(effects[:, None]).record(),
            "ranks": [int((effects.mean(axis=0) > effects[:, u].mean()).sum()) + 1 for u in theirs],
        }
    return {
        "scores": scores, "top": count, "chance": count * count / len(scores), "examples": scale.induction,
        "by reference": found,
    }  # fmt: skip


def _tail(units: int, count: int, shared: int) -> float:
    """Chance that two random sets of `count` units share at least `shared`: hypergeometric."""
    from math import comb

    return sum(comb(count, i) * comb(units - count, count - i) for i in range(shared, count + 1)) / comb(units, count)


def prefix_matching(name: str, length: int = 24, rows: int = 8) -> Float[np.ndarray, " unit"]:
    """Return, per head, the attention from the second copy of a random sequence to the token behind its first copy.

    score[h] = mean over positions t of the second copy of pattern[h, t, t - length + 1]
    """
    model: Any = opened_once(name).model
    units = units_of(model, kinds=("head",))
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.cfg.d_vocab)
    once = torch.randint(min(100, vocabulary // 2), vocabulary, (rows, length), generator=generator)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.cat([once, once], dim=1))
    found = np.zeros(len(units))
    for u in range(len(units)):
        bank, head = units.locate(u)
        pattern = cache[f"blocks.{units.bank(bank).layer}.attn.hook_pattern"]
        places = torch.arange(length, 2 * length)
        found[u] = float(pattern[:, head][:, places, places - length + 1].mean())
    return found


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
