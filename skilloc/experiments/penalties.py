"""Penalties and solvers of group-sparse finetuning against each other, on parity networks, at equal kept loss."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skilloc.experiments.parity import ParityTraining, network_of, train_parity
from skilloc.experiments.specs import settings_of
from skilloc.intervals import mean_interval

if TYPE_CHECKING:
    from torch import nn

    from skilloc.models.mlp import MLP
    from skilloc.store import Labelled
    from skilloc.tasks import Examples

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
    lr: float = 3e-3
    """its rate"""
    each: int = 250
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


def compare_penalty(spec: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, Labelled]]":
    """Localize a subtask of a trained network at several losses, and look at what is left.

    Args:
        spec: the fields of `PenaltyRuns`.

    Returns:
        "before": loss and accuracy by subtask on the report split. "runs": per wanted loss and threshold, the number of
        "live" units, the kept subtask's "loss" on the selection split in nats, loss and accuracy of all subtasks on the
        "report" split, the last "strength", and "revivals".
    """
    # Late: `skilloc sweep list` reads this file, and must not wait for torch.
    from skilloc.experiments.parity import world_of
    from skilloc.lasso import LocalizeConfig, group_norms, localize
    from skilloc.models.makers import units_of, zeroed
    from skilloc.training import TrainConfig

    settings = settings_of(PenaltyRuns, spec)
    network = _trained(
        settings.n, settings.sets, settings.composites, settings.width, settings.train_steps, settings.seed
    )
    world = world_of(spec)
    kept, seed = world[settings.kept], settings.seed
    selection = kept.draw(HELD_OUT, split="selection", seed=seed)
    report = {name: subtask.draw(HELD_OUT, seed=seed) for name, subtask in world.items()}
    way: dict[str, Any] = {"penalty": settings.penalty, "solver": settings.solver}
    runs = []
    for wanted in settings.wanted:
        config = LocalizeConfig(
            training=TrainConfig(steps=settings.steps, lr=settings.lr, evaluate_every=EVALUATE_EVERY),
            strength=START if wanted else 0.0,
            wanted_loss=wanted or None,
            threshold=1e-12,  # takes nothing away; the thresholds of the spec do, below
            each=settings.each,
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


def _scores(model: "nn.Module", batch: "Examples") -> dict[str, float]:
    import torch

    from skilloc.intervene import losses
    from skilloc.models.makers import face_of

    with torch.no_grad():
        right = face_of(model).run(batch.inputs).argmax(dim=1) == batch.targets
    return {"loss": float(losses(model, batch).mean()), "accuracy": float(right.float().mean())}


@lru_cache(maxsize=2)
def _trained(
    n: int,
    sets: tuple[tuple[int, ...], ...],
    composites: tuple[tuple[int, ...], ...],
    width: int,
    steps: int,
    seed: int,
) -> "MLP":
    """Train a network once per worker: all ways of localizing start from the same one."""
    from dataclasses import asdict

    from skilloc.store import Result

    training = ParityTraining(n=n, sets=sets, composites=composites, width=width, steps=steps, seed=seed)
    spec = asdict(training)
    metrics, arrays = train_parity(spec)
    return network_of(Result(spec, metrics, arrays))
