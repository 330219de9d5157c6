"""How local are Python, C++ and English in a pretrained language model, and what of that can be told from noise?

Question: of the 46,080 neurons of SmolLM2-135M, how many does each corpus need, do the corpora share them, does what is
held in a neuron's place decide it, and what happens to all three when the top neurons of one are removed?
An answer: locality scores from attributions with curvature on 12,288 tokens per corpus, each with its interval, chance,
and reliability, under three references; how many units carry most of it and how many 90 %; the largest and a random
sample exactly, on text that chose nothing, with the correlation of ranks; and a removal matrix beside random masks.

Minutes of one core: `--scale quick` under one (the embedded model, few tokens), `cpu` about 150 (a forecast; not run
yet), `paper` thousands. Stopped, the same command goes on. Needs `skilloc fetch smollm2`, but for `quick`.
"""

import resource
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float

from _behaviours import CORPORA, opened_once, scored
from _behaviours_drawn import FAINT, dots, matrix, numbers
from _frame import Cells, analyse
from skilloc import locality, plots
from skilloc.ablation import ablation_effects, mask_effects
from skilloc.attribution import attribution_effects
from skilloc.attribution.calibration import calibrate
from skilloc.attribution.sampling import chances, draw_sample
from skilloc.experiment import Experiment
from skilloc.locality.intervals import mean_interval
from skilloc.masks import Mask, matched_random, top, top_of_any
from skilloc.plots.style import CONTROL
from skilloc.report.record import as_json
from skilloc.store import Labelled, Result
from skilloc.study.draws import subtasks_of


@dataclass(frozen=True)
class Held:
    """The spec of one cell: all neurons under one reference."""

    model: str = "smollm2"
    """the model"""
    reference: str = "zero"
    """what ablated neurons are held at"""
    examples: int = 192
    """of each corpus, that estimates are made on"""
    length: int = 64
    """tokens of each"""
    folds: int = 8
    """disjoint parts of them"""
    curvature: int = 2
    """draws of labels for the curvature"""
    checked: int = 16
    """further examples of each corpus, that exact effects and removals are measured on"""
    top: int = 40
    """neurons of the largest estimates of each corpus that are measured exactly"""
    sample: int = 32
    """neurons beside them, drawn at random"""
    removed: int = 100
    """neurons that are removed together"""
    draws: int = 20
    """random masks beside each"""


QUICK = Held("embedded", examples=8, length=16, folds=4, checked=8, top=3, sample=6, removed=20, draws=2)
SCALES = {
    "quick": (QUICK, replace(QUICK, reference="mean")),
    "cpu": (Held(), Held(reference="mean", draws=3), Held(reference="resample", draws=3)),
    "paper": tuple(
        Held(reference=name, examples=1024, length=256, checked=64, top=200, sample=256)
        for name in ("zero", "mean", "resample")
    ),
}


def measure_reference(spec: Held, results: Path) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Estimate the effects of all neurons; measure some, and joint removals, on further text."""
    began = time.process_time()
    opened = opened_once(spec.model)
    subtasks = subtasks_of(opened, {name: name for name in CORPORA}, length=spec.length)
    own = Experiment(
        opened.model, subtasks, ("neuron",), reference=spec.reference, count=spec.examples, folds=spec.folds
    )
    # Means are over the train split, of which neither the estimates nor the exact effects know anything.
    own = replace(own, other=replace(own, split="train", count=spec.checked).examples)
    further = replace(own, split="selection", count=spec.checked, folds=min(spec.folds, spec.checked))
    estimate = attribution_effects(own, curvature=spec.curvature)
    mean = estimate.values.mean(axis=0)
    certain = top_of_any(np.abs(mean), spec.top)
    everywhere = np.ones(len(own.units), dtype=bool)
    drawn = draw_sample(chances(estimate.values, count=spec.sample, certain=certain, candidates=everywhere), seed=0)
    pieces = results / "pieces"
    pieces.mkdir(parents=True, exist_ok=True)
    exact = ablation_effects(further, select=certain | drawn.drawn, resume=pieces)
    again = attribution_effects(further, curvature=spec.curvature)
    told = calibrate(again, exact, drawn=drawn.drawn, chance=drawn.chance)
    masks = [Mask(own.units, ~top(one, spec.removed)) for one in mean]
    random = [matched_random(mask, seed=draw) for mask in masks for draw in range(spec.draws)]
    without, base = mask_effects(further, [*masks, *random])
    metrics = {
        "units": list(own.units.names),
        "calibration": {name: {"spearman": one.spearman.record()} for name, one in told.items()},
        "tokens": spec.examples * spec.length,
        "loss": base.mean(axis=0).tolist(),
        "cpu_minutes": (time.process_time() - began) / 60,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    beside = rearrange(without[len(masks) :], "(source draw) part target -> source draw part target", draw=spec.draws)
    table = np.concatenate([without[: len(masks), None], beside], axis=1)
    return metrics, {
        "estimate": Labelled(estimate.values, ("fold", "subtask", "unit")),
        "again": Labelled(again.values, ("part", "subtask", "unit")),
        "exact": Labelled(exact.values, ("part", "subtask", "unit")),
        "removal": Labelled(table, ("source", "mask", "part", "subtask")),
    }


def measure(specs: tuple[Held, ...], cells: Cells) -> dict[str, Any]:
    """Run all references, and put together what the figure shows."""
    results = dict(zip([spec.reference for spec in specs], cells(measure_reference, specs), strict=True))
    names, first = list(CORPORA), next(iter(results.values()))
    values = {reference: one.arrays["estimate"].values for reference, one in results.items()}
    zero = values[specs[0].reference]
    found: dict[str, Any] = {
        "settings": asdict(specs[0]),
        "subtasks": names,
        "units": len(first.metrics["units"]),
        "references": {reference: _told(one, names) for reference, one in results.items()},
        "between": {name: one.record() for name, one in locality.between(zero).items()},
        "cost": {
            "cpu_minutes": sum(one.metrics["cpu_minutes"] for one in results.values()),
            "gigabytes": max(one.metrics["gigabytes"] for one in results.values()),
        },
    }
    if len(values) > 1:
        found["spread"] = {name: _moved(values, s, first.metrics["units"]) for s, name in enumerate(names)}
    return dict(as_json(found))


def _told(result: Result, names: list[str]) -> dict[str, Any]:
    arrays = {name: one.values for name, one in result.arrays.items()}
    table, exact = arrays["removal"], arrays["exact"]
    removal = locality.removal_scores(table[:, 0].swapaxes(0, 1), table[:, 1:].transpose(1, 2, 0, 3))
    known = np.flatnonzero(np.isfinite(exact).all(axis=(0, 1)))
    return {
        **scored(arrays["estimate"], names),
        "calibration": result.metrics["calibration"],
        "removal": {name: one.record() for name, one in removal.items()},
        "known": {
            name: {
                "estimate": arrays["again"][:, s, known].mean(axis=0),
                "exact": exact[:, s, known].mean(axis=0),
                "largest": _largest(exact[:, s], result.metrics["units"]),
            }
            for s, name in enumerate(names)
        },
    }


def _largest(exact: Float[np.ndarray, "part unit"], names: list[str], count: int = 5) -> list[list[Any]]:
    """Return the largest exact effects, on text that chose nothing: name, value, low, high."""
    mean = np.nan_to_num(exact.mean(axis=0), nan=-np.inf)
    found = []
    for unit in np.argsort(-mean)[:count]:
        one = mean_interval(exact[:, unit])
        found.append([names[unit], one.value, one.low, one.high])
    return found


def _moved(values: dict[str, np.ndarray], s: int, units: list[str]) -> dict[str, Any]:
    found = locality.reference_spread({name: table[:, s] for name, table in values.items()})
    place = locality.NAMES.index("locality")
    return {
        "references": found.references,
        "locality": found.values[:, place],
        "moved": [[units[one.unit], one.first, one.second, *one.ranks] for one in found.moved[:20]],
    }


def draw(found: dict[str, Any]) -> Any:
    """Locality, the number of units, joint removal; below, overlap, exact effects, and how far estimates are right."""
    names, settings, told = found["subtasks"], found["settings"], found["references"]
    figure, axes = plots.figure(2, 3, height=5.6, width=plots.WIDE * 1.4)
    dots(axes[0, 0], told, names, "locality, by reference")
    _counts(axes[0, 1], told, names, found["units"])
    excess = told[settings["reference"]]["removal"]["excess"]
    matrix(
        axes[0, 2],
        numbers(excess["value"]),
        names,
        f"nats lost without the top {settings['removed']} of (row),\nbeyond {settings['draws']} random masks",
        bold=numbers(excess["low"]) > 0,
    )
    matrix(axes[1, 0], numbers(found["between"]["overlap"]["value"]), names, "overlap of two corpora")
    _exact(axes[1, 1], told[settings["reference"]]["known"])
    _right(axes[1, 2], told, names)
    length = settings["length"]
    figure.supxlabel(
        f"{settings['model']}, {found['units']:,} neurons; estimates on {settings['examples']} × {length} held-out "
        f"tokens per corpus in {settings['folds']} folds, exact effects and removals on {settings['checked']} × "
        f"{length} others;\nmatrices and exact effects at {settings['reference']}. Bars: 95 % over folds; "
        f"dotted: chance; faint: reliability below {FAINT}; bold: interval above 0.",
        fontsize=7,
    )
    return figure


def _counts(ax: Any, told: dict[str, Any], names: list[str], units: int) -> None:
    """Two numbers: how many equal units would carry as much, and how many carry 90 %."""
    places = np.arange(len(names))[::-1]
    for r, (reference, one) in enumerate(told.items()):
        colour, shift = plots.colour_of(r), 0.22 - 0.22 * r
        head = [one["scores"][name]["effective_number"] for name in names]
        value, low, high = (numbers([score[end] for score in head]) for end in ("value", "low", "high"))
        ax.errorbar(value, places + shift, xerr=[value - low, high - value], fmt="o", ms=3.5, lw=1, color=colour)
        k90 = numbers([one["bulk"][name]["k90"] for name in names])
        ax.plot(k90, places + shift, "|", ms=9, color=colour, label=reference)
    ax.axvline(units, color=CONTROL, lw=0.6)
    ax.set(xscale="log", xlim=(1, units * 1.3), yticks=places, yticklabels=names, xlabel="units")
    ticks = [10**k for k in range(1, int(np.log10(units)) + 1)]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.xaxis.minorticks_off()
    ax.set_title("• effective number   | carry 90 %", fontsize=8)


def _exact(ax: Any, known: dict[str, Any]) -> None:
    for s, (name, one) in enumerate(known.items()):
        ax.plot(numbers(one["estimate"]), numbers(one["exact"]), ".", ms=3, color=plots.colour_of(s), label=name)
    ends = [*ax.get_xlim(), *ax.get_ylim()]
    ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color=CONTROL, lw=0.6)
    ax.set(xlabel="estimate (nats per token)", ylabel="exact effect", title="the largest, and a sample")
    ax.set_xscale("symlog", linthresh=1e-3)
    ax.set_yscale("symlog", linthresh=1e-3)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([-0.1, -0.01, 0, 0.01, 0.1, 1], ["−0.1", "−0.01", "0", "0.01", "0.1", "1"], fontsize=6)
    ax.legend(fontsize=6)


def _right(ax: Any, told: dict[str, Any], names: list[str]) -> None:
    """How far effects agree with those of other folds, and estimates with exact effects."""
    places = np.arange(len(names))[::-1]
    for r, (reference, one) in enumerate(told.items()):
        colour, shift = plots.colour_of(r), 0.22 - 0.22 * r
        own = {end: numbers(one["reliability"][end]) for end in ("value", "low", "high")}
        ranks = [one["calibration"][name]["spearman"] for name in names]
        right = {end: numbers([rank[end] for rank in ranks]) for end in ("value", "low", "high")}
        for mark, table in (("s", own), ("o", right)):
            bars = [table["value"] - table["low"], table["high"] - table["value"]]
            ax.errorbar(table["value"], places + shift, xerr=bars, fmt=mark, ms=3.5, lw=1, color=colour)
        ax.plot([], [], "o", ms=3.5, color=colour, label=reference)
    ax.axvline(FAINT, color=CONTROL, lw=0.6, ls=":")
    ax.set(yticks=places, yticklabels=names, xlabel="correlation of ranks", xlim=(-0.2, 1.02))
    ax.set_title("▪ with other folds   • with exact effects", fontsize=8)
    ax.set_ylim(-0.9, len(names) - 0.5)
    ax.legend(fontsize=6, loc="lower left")


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
