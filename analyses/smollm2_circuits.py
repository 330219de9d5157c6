"""Have behaviours of a small language model circuits, where corpora have none?

Question: of SmolLM2-135M's 46,350 heads and neurons, how many are enough for a behaviour (induction, agreement, facts
of six relations) and for Python, chosen by learned gates, by estimated effects, or at random in the same layers?
An answer: the share of the skill that circuits of each size keep on examples that chose nothing, with intervals over
folds, and with inputs that say nothing (blind); the smallest measured size that keeps 0.8; the two areas of the MIB
benchmark; CPU seconds and memory.

Everything that is not kept is at its mean, per role in prompts and per position in text, over the examples that choose.
What is made has a wrong answer, and is about the lead of the right one over it, in logits, since to know that a verb
comes is not to know which; that has no end, so that gates are learned for how near each example is to the model's own
lead, too. Facts and text are about cross-entropy. Of the facts only those that the model says are
taken, half of the subjects to choose and half to state.

Minutes of one core: 218 for `--scale cpu`, in six cells of 4 to 81, half of them for integrated gradients, and up to
14.0 GB; one for `quick` (the embedded model). Needs
`skilloc fetch smollm2`, but for `quick`.
"""

import hashlib
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from _behaviours import KNOWN, Able, able, facts_of, opened_once, plain_rows
from _frame import Cells, analyse
from skilloc import plots
from skilloc.ablation import mask_effects
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.circuits.areas import area_from_one, area_under
from skilloc.circuits.blind import blind_losses
from skilloc.circuits.faithfulness import check_floor, share_kept
from skilloc.circuits.gates import GateConfig, learn_circuit
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.masks import Mask, matched_random, top
from skilloc.models.language import Opened, encoder, first_token
from skilloc.plots.style import CONTROL
from skilloc.report.record import as_json
from skilloc.store import Labelled, Result
from skilloc.study.draws import subtasks_of
from skilloc.tasks import Examples
from skilloc.tasks.behaviours import MAKERS, behaviours
from skilloc.tasks.items import Item
from skilloc.tasks.rows import examples_of

FACTS = "facts"
LEARNED, ESTIMATED, INTEGRATED = "learned gates", "effects with curvature", "integrated gradients"
WAYS = (LEARNED, ESTIMATED, INTEGRATED)
NEAR = "learned gates, near the model"
"""Learned for how far the loss of each example is from the model's own, where the loss has no end."""
ENOUGH = 0.8
"""Share that the smallest size is looked for at."""
SHARES = (-0.5, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""On the axis of the figure."""


@dataclass(frozen=True)
class Curve:
    """The spec of one cell: what one subtask's circuits of rising size keep."""

    subtask: str
    """a corpus, a made behaviour, or "facts" """
    known: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """of facts: the rows of each relation that the model says"""
    loss: str = "cross_entropy"
    """of answers, or text; or "logit_difference" """
    model: str = "smollm2"
    """the model"""
    sizes: tuple[int, ...] = (10, 40, 160, 640, 2560, 10240)
    """numbers of units"""
    learned_on: int = 64
    """examples that choose"""
    estimated_on: int = 16
    """examples of estimates"""
    stated_on: int = 32
    """examples that are stated on"""
    length: int = 32
    """tokens of a row of a corpus"""
    steps: int = 20
    """of learning, per size"""
    draws: int = 20
    """random circuits of each size"""
    folds: int = 8
    """disjoint parts of the examples that are stated on"""
    seed: int = 0
    """of the order of examples, and of the random circuits"""


@dataclass(frozen=True)
class Scale:
    """Which subtasks, facts among them or not, with which settings."""

    subtasks: tuple[str, ...]
    settings: Curve


SCALES = {
    "quick": Scale(
        ("arguments", "python"),
        Curve(
            "", model="embedded", sizes=(10, 80), learned_on=8, estimated_on=4, stated_on=8, length=12, steps=4,
            draws=2, folds=4,
        ),
    ),
    "cpu": Scale(("induction", "agreement", FACTS, "python"), Curve("")),
    "paper": Scale(
        ("induction", "indirect", "greater", "agreement", "brackets", "copying", "arguments", FACTS, "python", "cpp",
         "english"),
        Curve("", learned_on=512, estimated_on=64, stated_on=64, length=128, steps=100),
    ),
}  # fmt: skip


def measure_curve(spec: Curve) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Choose circuits of all sizes in every way, and measure what they keep.

    Returns:
        CPU seconds of each way's choosing; and, in nats, the loss increase with only a circuit on `way size fold`, with
        only a random one on `draw size fold`, with only a circuit whose inputs say nothing on `way size fold`, with
        nothing on `fold`, and the loss itself on `fold`. The circuits.
    """
    return _measured(spec, WAYS)


def measure_near(spec: Curve) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Do the same with gates that are learned to be near the model; only these."""
    return _measured(spec, (NEAR,))


def _measured(spec: Curve, ways: Sequence[str]) -> tuple[dict[str, Any], dict[str, Labelled]]:
    began = time.process_time()
    opened = opened_once(spec.model)
    chosen, stated_on = examples_of_halves(opened, spec)
    train = Experiment(
        opened.model, {spec.subtask: chosen}, reference="mean", loss=spec.loss, other={spec.subtask: chosen}, folds=1,
        seed=spec.seed,
    )  # fmt: skip
    stated = replace(train, subtasks={spec.subtask: stated_on}, folds=spec.folds)
    few = replace(train, subtasks={spec.subtask: chosen.part(slice(0, spec.estimated_on))})
    nothing = Mask(train.units, np.zeros(len(train.units), dtype=bool))
    check_floor(mask_effects(stated, [nothing])[0][0, :, 0], spec.subtask, stated.metric.unit)
    circuits, seconds = _circuits(train, few, spec, ways)
    units = train.units
    masks = [nothing, *(mask for way in ways for mask in circuits[way])]
    masks += [
        matched_random(mask, seed=1000 * spec.seed + draw) for draw in range(spec.draws) for mask in circuits[ways[0]]
    ]
    found, base = mask_effects(stated, masks)
    kept = found[1:, :, 0].reshape(len(ways) + spec.draws, len(spec.sizes), spec.folds)
    blind = blind_losses(stated, [mask for way in ways for mask in circuits[way]])
    sizes = [str(size) for size in spec.sizes]
    keep = np.stack([[mask.keep for mask in circuits[way]] for way in ways]).astype(np.uint8)
    metrics = {
        "seconds": seconds,
        "units": len(units),
        "names": {way: _members(circuits[way][0]) for way in ways},
        "cpu_minutes": (time.process_time() - began) / 60,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    return metrics, {
        "kept": Labelled(kept[: len(ways)], ("way", "size", "fold"), {"way": list(ways), "size": sizes}),
        "random": Labelled(kept[len(ways) :], ("draw", "size", "fold"), {"size": sizes}),
        "blind": Labelled(
            blind.reshape(kept[: len(ways)].shape), ("way", "size", "fold"), {"way": list(ways), "size": sizes}
        ),
        "floor": Labelled(found[0, :, 0], ("fold",), {}),
        "baseline": Labelled(base[:, 0], ("fold",), {}),
        "keep": Labelled(keep, ("way", "size", "unit"), {"way": list(ways), "size": sizes}),
    }


def _circuits(
    train: Experiment, few: Experiment, spec: Curve, ways: Sequence[str]
) -> tuple[dict[str, list[Mask]], dict[str, float]]:
    ranked: dict[str, Callable[[Experiment], Effects]] = {
        ESTIMATED: attribution_effects,
        INTEGRATED: integrated_gradients_effects,
    }
    circuits: dict[str, list[Mask]] = {}
    seconds: dict[str, float] = {}
    for way in ways:
        began = time.process_time()
        if way in ranked:
            values = ranked[way](few).mean(spec.subtask)
            circuits[way] = [Mask(train.units, top(values, size)) for size in spec.sizes]
        else:
            config = GateConfig(sizes=spec.sizes, steps=spec.steps, beyond=way == LEARNED)
            circuits[way] = learn_circuit(train, config, subtask=spec.subtask, seed=spec.seed).masks
        seconds[way] = time.process_time() - began
    return circuits, seconds


def _members(mask: Mask, count: int = 10) -> list[str]:
    return [mask.units.names[u] for u in np.flatnonzero(mask.keep)[:count]]


def examples_of_halves(opened: Opened, spec: Curve) -> tuple[Examples, Examples]:
    """Return the examples that choose, and those that are stated on."""
    if spec.subtask == FACTS:
        return _facts(opened, spec)
    name, encode, first = spec.subtask, encoder(opened.tokenizer), first_token(opened.tokenizer)
    if name in ("python", "cpp", "english"):
        own = subtasks_of(opened, {name: name}, length=spec.length)[name]
        return own.draw(spec.learned_on, split="train"), own.draw(spec.stated_on, split="report")
    made = behaviours(encode, [name], first=first, count=6 * max(spec.learned_on, spec.stated_on))[name]
    assert made.items is not None
    halves = made.items(spec.learned_on, "train", spec.seed), made.items(spec.stated_on, "report", 0)
    chosen, stated = (replace(examples_of(items, encode, first=first), paired=None) for items in halves)
    return chosen, stated


def _facts(opened: Opened, spec: Curve) -> tuple[Examples, Examples]:
    encode, first, known = encoder(opened.tokenizer), first_token(opened.tokenizer), facts_of(opened)
    chosen, stated = halved([known[name][row] for name, rows in spec.known for row in rows])
    stated = stated[: len(stated) // spec.folds * spec.folds]
    return plain_rows(chosen, encode, first), plain_rows(stated, encode, first)


def halved(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Split items by a hash of their subject, half of the subjects on either side."""
    mixed = sorted(items, key=lambda item: hashlib.sha256(str(item.subject).encode()).hexdigest())
    subjects = list(dict.fromkeys(item.subject for item in mixed))
    early = set(subjects[: len(subjects) // 2])
    return [item for item in mixed if item.subject in early], [item for item in mixed if item.subject not in early]


def measure(scale: Scale, cells: Cells) -> dict[str, Any]:
    """Run all cells, and put together what the figure shows."""
    known: tuple[tuple[str, tuple[int, ...]], ...] = ()
    if FACTS in scale.subtasks:
        told = cells(able, [Able(scale.settings.model, 24)])[0].metrics["facts"]
        known = tuple((name, tuple(one["right"])) for name, one in told.items() if len(one["right"]) >= KNOWN)
    settings = asdict(scale.settings)
    specs = [
        replace(
            scale.settings, subtask=name, known=known if name == FACTS else (),
            loss="logit_difference" if name in MAKERS else "cross_entropy",
        )
        for name in scale.subtasks
    ]  # fmt: skip
    results = cells(measure_curve, specs)
    made = [spec for spec in specs if spec.subtask in MAKERS]
    near = {result.spec["subtask"]: _told(result) for result in cells(measure_near, made)}
    found = {
        "settings": settings,
        "relations": {name: len(rows) for name, rows in known},
        "subtasks": {name: _told(result) for name, result in zip(scale.subtasks, results, strict=True)},
        "near": near,
    }
    return dict(as_json(found))


def _told(result: Result) -> dict[str, Any]:
    sizes, units = list(result.spec["sizes"]), result.metrics["units"]
    floor, random = result.arrays["floor"].values, result.arrays["random"].values
    found: dict[str, Any] = {}
    kept = result.arrays["kept"]
    for place, (way, increase) in enumerate(zip(kept.coords["way"], kept.values, strict=True)):
        blind = result.arrays["blind"].values[place]
        shares = [share_kept(row, floor) for row in increase]
        # The same folds and floor: how much more of the skill the circuit keeps than the mean random one.
        beyond = [share_kept(floor + row - by, floor) for row, by in zip(increase, random.mean(axis=0), strict=True)]
        found[way] = {
            "kept": [one.record() for one in shares],
            "blind": [share_kept(row, floor).record() for row in blind],
            "beyond_blind": [
                share_kept(floor + row - by, floor).record() for row, by in zip(increase, blind, strict=True)
            ],
            "beyond_random": [one.record() for one in beyond],
            "area_under": area_under(sizes, [one.value for one in shares], units=units),
            "area_from_one": area_from_one(sizes, [one.value for one in shares], units=units),
            "enough": next((s for s, one in zip(sizes, shares, strict=True) if one.value >= ENOUGH), None),
            "seconds": round(result.metrics["seconds"][way], 1),
        }
    each = 1 - random.mean(axis=2) / floor.mean()
    return {
        "sizes": sizes,
        "units": units,
        "loss": result.spec["loss"],
        "folds": len(floor),
        "floor": float(floor.mean()),
        "baseline": float(result.arrays["baseline"].values.mean()),
        "ways": found,
        "random": {
            "kept": each.mean(axis=0),
            "range": np.quantile(each, [0.025, 0.975], axis=0),
        },
        "smallest": result.metrics["names"],
        "cpu_minutes": result.metrics["cpu_minutes"],
        "gigabytes": result.metrics["gigabytes"],
    }


def draw(found: dict[str, Any]) -> Any:
    """One panel per subtask: the share kept by the number of units."""
    told = found["subtasks"]
    figure = Figure(figsize=(3.0 * len(told), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(told), sharey=True))
    for ax, (name, one) in zip(panels, told.items(), strict=True):
        _curve(ax, name, one, found["near"].get(name))
    panels[0].set_ylabel("share of the skill kept, other examples")
    panels[0].legend(loc="upper left", fontsize=5)
    settings = found["settings"]
    units = next(iter(told.values()))["units"]
    figure.suptitle(
        f"{settings['model']}, {units:,} heads and neurons, others at their mean per role or position\n95 % over "
        f"{settings['folds']} folds; random: {settings['draws']} draws with the layers of the learned circuits",
        fontsize=8,
    )
    return figure


def _curve(ax: Any, name: str, one: dict[str, Any], near: dict[str, Any] | None) -> None:
    sizes, shown = np.array(one["sizes"], dtype=float), near or one
    ax.fill_between(sizes, *_numbers(shown["random"]["range"]), color=CONTROL, alpha=0.25, lw=0)
    ax.plot(sizes, _numbers(shown["random"]["kept"]), color=CONTROL, ls=":", lw=1, label="random units")
    own = {**(near["ways"] if near else {}), **one["ways"]}
    first = next(iter(own))
    blind = _numbers([k["value"] for k in own[first]["blind"]])
    ax.plot(sizes, blind, color="black", ls="-.", lw=1, label="the learned ones, blind")
    for way, kept in ((way, told["kept"]) for way, told in own.items()):
        place = (LEARNED, ESTIMATED, INTEGRATED, NEAR).index(way)
        value, low, high = (_numbers([k[end] for k in kept]) for end in ("value", "low", "high"))
        ax.errorbar(
            sizes * 1.06 ** (place - 1), value, [value - low, high - value], fmt="o-", ms=2.5, lw=1,
            color=plots.colour_of(place), label=way,
        )  # fmt: skip
    ax.axhline(1, color=CONTROL, lw=0.5)
    ax.axhline(ENOUGH, color=CONTROL, lw=0.5, ls="--")
    ax.set(xscale="log", xlabel="units kept")
    ax.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=60, fontsize=6)
    ax.xaxis.minorticks_off()
    # A difference of logits has no end: circuits that are learned for it can have many times the model's own.
    ax.set_yscale("asinh", linear_width=1.0)
    ax.set_yticks(SHARES, [f"{share:g}" for share in SHARES])
    ax.set_ylim(-1.0, 40.0)
    unit = "nats" if one["loss"] == "cross_entropy" else "logits"
    ax.set_title(f"{name}: {one['baseline']:.2f} {unit}, {one['baseline'] + one['floor']:.2f} with none", fontsize=8)


def _numbers(values: Any) -> Float[np.ndarray, "..."]:
    return np.array(values, dtype=float)


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
