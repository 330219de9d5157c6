"""Which penalty, and which solver, leaves the fewest units at the same kept loss, and what is left of the other skills?

Question: parity networks that know three atoms and their composite are finetuned on the composite alone, with the
strength of the penalty steered so that its loss comes out the same for all: group lasso with the penalty in the loss
(the paper's way; units below a threshold count as dead, the largest threshold that costs at most 1 % of the loss), and
proximal steps, which need no threshold, with group lasso, group L1/2 and group Hoyer. An answer: the live units of
each with intervals over seeds and differences in pairs, at kept losses that are equal within 10 %; ways that do not get
there are marked. Control: plain finetuning for as long, without a penalty; what the others forget beyond it, the
penalty does.

Minutes on two cores: under one for `--scale quick` (2 seeds, 600 steps), three to six for `cpu` (5 seeds, 3,000
steps); `paper` takes 20 seeds and the paper's 10,000 steps.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from _frame import Cells, analyse
from _parity import ParityTraining, network_of, train_parity, world_of
from skilloc import plots
from skilloc.experiment import losses
from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.locality.intervals import mean_interval
from skilloc.models.makers import face_of, units_of, zeroed
from skilloc.models.mlp import MLP
from skilloc.plots.learning import interval_rows
from skilloc.plots.style import CONTROL
from skilloc.store import Labelled, Result
from skilloc.tasks import Examples
from skilloc.training import TrainConfig

HELD_OUT = 2000
"""Examples per subtask and split."""

TOLERANCE = 0.1
"""Kept losses on the selection split that differ from the wanted one by at most this part of it are equal."""

START, EVALUATE_EVERY = 1e-3, 50
"""First strength of every penalty, and steps between the evaluations at which it is steered."""


@dataclass(frozen=True)
class PenaltyRuns:
    """The spec of one cell: a network that knows its world, and one way to localize a subtask, at several losses."""

    kept: str = "composite_012"
    """the subtask to keep"""
    penalty: str = "lasso"
    """lasso, half, hoyer or l1"""
    solver: str = "proximal"
    """proximal or subgradient"""
    wanted: tuple[float, ...] = (0.02, 0.1)
    """losses on the kept subtask, in nats on the selection split, to which the penalty's strength is steered, a run
    each; 0 is plain finetuning"""
    thresholds: tuple[float, ...] = (0.0,)
    """in the end, units whose weights have at most this norm are taken away"""
    steps: int = 3000
    """steps of Adam"""
    rate: float = 3e-3
    """its rate"""
    examples: int = 250
    """examples per step"""
    n: int = 24
    """task bits of the world"""
    sets: tuple[tuple[int, ...], ...] = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    """index set of each atom"""
    composites: tuple[tuple[int, ...], ...] = ((0, 1, 2),)
    """atoms of each composite"""
    width: int = 64
    """neurons per hidden layer"""
    train_steps: int = 3000
    """steps of Adam with rate 5e-3 on all subtasks, before"""
    seed: int = 0
    """of the network and of all examples"""


BASE = PenaltyRuns()
SUBGRADIENT, PLAIN = "subgradient, threshold", "plain finetuning"
ARMS = {
    SUBGRADIENT: replace(BASE, solver="subgradient", thresholds=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "proximal": BASE,
    "proximal, L1/2": replace(BASE, penalty="half"),
    "proximal, Hoyer": replace(BASE, penalty="hoyer"),
    PLAIN: replace(BASE, wanted=(0.0,)),
}


@dataclass(frozen=True)
class Scale:
    """Seeds, steps of localizing and of the training before, and kept losses in nats."""

    seeds: int
    steps: int
    train_steps: int
    wanted: tuple[float, ...]


SCALES = {
    "quick": Scale(2, 600, 1000, (0.1,)),
    "cpu": Scale(5, 3000, 3000, (0.02, 0.1)),
    "paper": Scale(20, 10_000, 3000, (0.02, 0.1)),
}


def compare_penalty(settings: PenaltyRuns) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Localize a subtask of a trained network at several losses, and look at what is left.

    Returns:
        "before": loss and accuracy by subtask on the report split. "runs": per wanted loss and threshold, the number of
        "live" units, the kept subtask's "loss" on the selection split in nats, loss and accuracy of all subtasks on the
        "report" split, the last "strength", and "revivals".
    """
    training = ParityTraining(
        n=settings.n,
        sets=settings.sets,
        composites=settings.composites,
        width=settings.width,
        steps=settings.train_steps,
        seed=settings.seed,
    )
    network, world = _trained(training), world_of(training)
    kept, seed = world[settings.kept], settings.seed
    selection = kept.draw(HELD_OUT, split="selection", seed=seed)
    report = {name: subtask.draw(HELD_OUT, seed=seed) for name, subtask in world.items()}
    way: dict[str, Any] = {"penalty": settings.penalty, "solver": settings.solver}
    runs = []
    for wanted in settings.wanted:
        config = LocalizeConfig(
            training=TrainConfig(steps=settings.steps, rate=settings.rate, evaluate_every=EVALUATE_EVERY),
            strength=START if wanted else 0.0,
            wanted_loss=wanted or None,
            threshold=1e-12,  # takes nothing away; the thresholds of the spec do, below
            examples=settings.examples,
            **way,
        )
        model, history = localize(network, [kept], config, seed=seed)
        units = units_of(model)
        norms = group_norms(model, units)
        for threshold in settings.thresholds:
            with ExitStack() as stack:
                for hook, part in units.split(norms <= threshold).items():
                    stack.enter_context(zeroed(model, hook, np.flatnonzero(part).tolist()))
                runs.append(
                    {
                        "wanted": wanted,
                        "strength": float(history.of("strength")[-1]),
                        "threshold": threshold,
                        "live": int((norms > threshold).sum()),
                        "loss": _scores(model, selection)["loss"],
                        "report": {name: _scores(model, batch) for name, batch in report.items()},
                        "revivals": int(history.of("revivals")[-1]),
                    }
                )
    return {"before": {name: _scores(network, batch) for name, batch in report.items()}, "runs": runs}, {}


def _scores(model: nn.Module, batch: Examples) -> dict[str, float]:
    with torch.no_grad():
        right = face_of(model).run(batch.inputs).argmax(dim=1) == batch.targets
    return {"loss": float(losses(model, batch).mean()), "accuracy": float(right.float().mean())}


@lru_cache(maxsize=2)
def _trained(training: ParityTraining) -> MLP:
    """Train a network once per worker: all ways of localizing start from the same one."""
    return network_of(Result(asdict(training), *train_parity(training)))


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Localize every network in every way."""
    specs = [
        replace(
            arm,
            steps=scale.steps,
            train_steps=scale.train_steps,
            seed=seed,
            wanted=arm.wanted[:1] if name == PLAIN else scale.wanted,
        )
        for seed in range(scale.seeds)
        for name, arm in ARMS.items()
    ]
    results = run(compare_penalty, specs)
    runs = {name: [result.metrics["runs"] for result in results[i :: len(ARMS)]] for i, name in enumerate(ARMS)}
    found: dict[str, Any] = {"settings": asdict(specs[0]), "seeds": scale.seeds}
    found["plain"] = over_seeds([one[0] for one in runs.pop(PLAIN)], BASE.kept)
    found["wanted"] = {}
    for wanted in scale.wanted:
        picked = {name: [chosen(one, wanted) for one in several] for name, several in runs.items()}
        found["wanted"][str(wanted)] = {
            name: over_seeds(several, BASE.kept, picked[SUBGRADIENT]) for name, several in picked.items()
        }
    return found


def chosen(runs: Sequence[Mapping[str, Any]], wanted: float) -> Mapping[str, Any]:
    """Return the run of a wanted loss with the largest threshold that does not cost more than 1 % of that loss."""
    mine = [run for run in runs if run["wanted"] == wanted]
    bare = min(run["loss"] for run in mine)
    return max((run for run in mine if run["loss"] <= bare + 0.01 * wanted), key=lambda run: run["threshold"])


def over_seeds(
    runs: Sequence[Mapping[str, Any]], kept: str, others: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return what one way of localizing came to. JSON only.

    Args:
        runs: one per seed.
        kept: the kept subtask.
        others: runs of another way on the same seeds, to compare with.

    Returns:
        By seed: "live", "selection_loss", whether that is "equal" to the wanted one within `TOLERANCE`, "strength",
        "threshold". Means with their intervals: "mean_live", "kept_loss", "other_loss" and "other_accuracy" (of the
        other subtasks) on the report split, and "fewer", by how many units there are fewer than in `others`.
    """
    found = {name: [run[name] for run in runs] for name in ("live", "strength", "threshold")}
    rest = {
        score: [np.mean([one[score] for name, one in run["report"].items() if name != kept]) for run in runs]
        for score in ("loss", "accuracy")
    }
    return {
        **found,
        "selection_loss": [run["loss"] for run in runs],
        "equal": [not run["wanted"] or abs(run["loss"] / run["wanted"] - 1) <= TOLERANCE for run in runs],
        "revivals": sum(run["revivals"] for run in runs),
        "mean_live": _interval(found["live"]),
        "kept_loss": _interval([run["report"][kept]["loss"] for run in runs]),
        **{f"other_{score}": _interval(values) for score, values in rest.items()},
        **(
            {}
            if others is None
            else {"fewer": _interval([o["live"] - r["live"] for o, r in zip(others, runs, strict=True)])}
        ),
    }


def _interval(values: Sequence[Any]) -> dict[str, float]:
    return mean_interval(np.array(values, dtype=np.float64)).record()


def draw(found: dict[str, Any]) -> Any:
    """A row per kept loss: live units, what the kept loss is, and what is left of the other subtasks."""
    rows = found["wanted"]
    figure, axes = plots.figure(len(rows), 3, height=1.9 * len(rows) + 0.3, squeeze=False, width_ratios=(1.2, 1, 1))
    units, starred = 2 * found["settings"]["width"], False
    for (live, loss, other), (wanted, arms) in zip(axes, rows.items(), strict=True):
        colours = [CONTROL, *map(plots.colour_of, range(len(arms) - 1))]
        starred = starred or not all(all(arm["equal"]) for arm in arms.values())
        names = [name.replace(", ", ",\n") for name in arms]
        written = [_units(arm, differs=name != SUBGRADIENT) for name, arm in arms.items()]
        interval_rows(live, names, [arm["mean_live"] for arm in arms.values()], colours=colours, beside=written)
        for place, (arm, colour) in enumerate(zip(arms.values(), colours, strict=True)):
            live.plot(arm["live"], [place + 0.27] * len(arm["live"]), "|", color=colour, ms=5)
        live.set(title=f"kept loss {wanted} nats", xlabel=f"live units of {units}", xlim=(0, None))
        accuracies, losses = ([arm[key] for arm in arms.values()] for key in ("other_accuracy", "kept_loss"))
        interval_rows(loss, names, losses, colours=colours, beside=[f"{one['value']:.3f}" for one in losses])
        loss.axvline(float(wanted), color="black", lw=0.6, ls=(0, (4, 3)))
        loss.set(xlabel="kept loss (nats)", xlim=(0, None), yticklabels=[])
        interval_rows(other, names, accuracies, colours=colours, beside=[f"{one['value']:.2f}" for one in accuracies])
        other.axvline(0.5, color="black", lw=0.6, ls=(0, (4, 3)))
        plain = found["plain"]["other_accuracy"]
        other.axvspan(plain["low"], min(plain["high"], 1), color=CONTROL, alpha=0.3, lw=0)
        other.set(xlabel="accuracy, other subtasks", xlim=(0.4, 1), yticklabels=[])
    about = (
        f"{found['seeds']} seeds, {found['settings']['steps']:,} steps. Bars: means, 95 %; in brackets: of units "
        "fewer than the first, in pairs. Ticks: seeds.\nDashed: the loss aimed at; chance. "
        f"Grey band: plain finetuning, all {units} units."
    )
    figure.supxlabel(about + (" *: not at that loss on every seed." if starred else ""), fontsize=6.5)
    return figure


def _units(arm: dict[str, Any], *, differs: bool) -> str:
    """Write a mean number of units, a star if losses differ, and how many fewer than the first way there are."""
    found = f"{arm['mean_live']['value']:.1f}" + ("" if all(arm["equal"]) else "*")
    return found + ("" if not differs else "\n[{low:.1f}, {high:.1f}]".format(**arm["fewer"]))


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
