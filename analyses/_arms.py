"""Arms: parity networks of several settings, each over the same seeds, and whether and when they learn a subtask."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from _frame import Cells
from _parity import LEARNED, ParityTraining, train_parity
from skilloc.locality.intervals import Interval, proportion_interval, survival

DRAWS = 2000
"""Bootstrap samples."""


CURVE = 60
"""Points of a curve in a record, at most."""


class Arm(NamedTuple):
    """A setting, and the subtasks that are asked about."""

    training: ParityTraining
    subtasks: tuple[str, ...]


def run_arms(run: Cells, arms: Mapping[str, Arm], seeds: int) -> dict[str, Any]:
    """Train every arm on every seed.

    Args:
        run: as `_frame.analyse` gives it to `measure`.
        arms: by name.
        seeds: number of seeds, from 0.

    Returns:
        By arm: its settings, the number of parameters, and by subtask `outcome`. JSON only.

    Raises:
        ValueError: if two arms have the same training, which is run only once.
    """
    # Seed by seed, so that a sweep that is stopped has something of every arm.
    results = run(train_parity, [replace(arm.training, seed=seed) for seed in range(seeds) for arm in arms.values()])
    if len(results) != seeds * len(arms):
        raise ValueError(f"`arms` {list(arms)} has the same training twice; leave one of the two out")
    found = {}
    for place, (name, arm) in enumerate(arms.items()):
        metrics = [result.metrics for result in results[place :: len(arms)]]
        found[name] = {
            "settings": asdict(arm.training),
            "parameters": parameters(arm.training),
            "seeds": seeds,
            "subtasks": {subtask: outcome(metrics, subtask) for subtask in arm.subtasks},
        }
    return found


def note_of(settings: Mapping[str, Any]) -> str:
    """Return how the runs of an arm were trained, for a figure, from its record."""
    return (
        f"{settings['n']} bits, {settings['examples']:,} examples of each subtask per step, "
        f"at most {settings['steps']:,} "
        "steps; bars and bands: 95 % over seeds"
    )


def parameters(training: ParityTraining) -> int:
    """Return the number of weights and biases of a network."""
    widths = (len(training.sets) + training.n, *(training.width,) * (training.depth - 1), 2)
    return sum((a + 1) * b for a, b in pairwise(widths))


def outcome(metrics: Sequence[Mapping[str, Any]], subtask: str) -> dict[str, Any]:
    """Return whether and when networks learned a subtask.

    A network has learned it if its loss at the end, on the report split, is below `LEARNED`; when is the first
    evaluation on the selection split below it. A network that has not is censored at its end.

    Args:
        metrics: what `train_parity` measured, one per seed.
        subtask: its name.

    Returns:
        `learned`, the number of seeds; `fraction` with its interval; per seed `happened`, `examples` (of all subtasks,
        until it was learned or training ended), `bits` at the end, and a `curve` of `examples` and `bits`; and
        `survival`. JSON only.
    """
    bits = [float(one["bits"][subtask]) for one in metrics]
    happened = np.array(bits) < LEARNED
    examples = np.array(
        [_first_below(one["history"], subtask) if ok else _end(one) for one, ok in zip(metrics, happened, strict=True)]
    )
    return {
        "learned": int(happened.sum()),
        "fraction": proportion_interval(int(happened.sum()), len(bits)).record(),
        "happened": happened.tolist(),
        "examples": examples.tolist(),
        "bits": [round(value, 5) for value in bits],
        "curve": [_curve(one["history"], subtask) for one in metrics],
        "survival": {
            **{name: values.tolist() for name, values in survival(examples, happened)._asdict().items()},
            "end": max(_end(one) for one in metrics),
        },
    }


def _curve(history: Mapping[str, Any], subtask: str) -> dict[str, list[float]]:
    # Points enough for a picture, the last one always among them.
    places = np.unique(np.linspace(0, len(history["examples"]) - 1, CURVE).round().astype(int))
    bits = np.array(history[subtask])[places] / np.log(2)
    return {"examples": np.array(history["examples"])[places].tolist(), "bits": bits.round(4).tolist()}


def _first_below(history: Mapping[str, Any], subtask: str) -> float:
    below = np.flatnonzero(np.array(history[subtask]) < LEARNED * np.log(2))
    return float(history["examples"][below[0] if len(below) else -1])


def _end(metrics: Mapping[str, Any]) -> float:
    return float(metrics["history"]["examples"][-1])


def median_times(
    times: Float[np.ndarray, " run"], happened: Bool[np.ndarray, " run"], counts: Int[np.ndarray, "sample run"]
) -> Float[np.ndarray, " sample"]:
    """Return when half of the runs of each sample have had the event, by the product-limit estimate of `survival`.

    Args:
        times: when the event happened, or until when the run was watched.
        happened: whether the event happened.
        counts: how often each run is in a sample; all ones for the runs themselves.

    Returns:
        The first time at which at most half of a sample is without the event; infinite if that never comes.
    """
    order = np.lexsort((~happened, times))
    taken = counts[:, order]
    watched = np.cumsum(taken[:, ::-1], axis=1)[:, ::-1]
    left = np.cumprod(1 - taken * happened[order] / np.maximum(watched, 1), axis=1)
    below = left <= 0.5 + 1e-9  # 10 of 20 are not left below a half by rounding
    return np.where(below.any(axis=1), times[order][below.argmax(axis=1)], np.inf)


def speed_up(fast: Mapping[str, Any], slow: Mapping[str, Any], *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Return how many times as many examples the slow arm needs as the fast one: the ratio of median times.

    The interval is the 2.5 to 97.5 % range of the ratio over bootstrap samples of the seeds, drawn for both arms
    together as a seed means the same initial weights in both. Censored runs are in the medians; where half of the slow
    runs never learn, the ratio or an end of its interval is infinite. Samples without a median of the fast arm are left
    out.

    Args:
        fast: an `outcome`.
        slow: an `outcome` on the same seeds.
        draws: number of bootstrap samples.
        seed: of the draws.

    Raises:
        ValueError: if half of the runs of `fast` never learn, so that there is nothing to compare with.
    """
    seeds = len(fast["happened"])
    drawn = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    counts = np.concatenate([np.ones((1, seeds), dtype=drawn.dtype), drawn])
    first, second = (
        median_times(np.array(arm["examples"], dtype=float), np.array(arm["happened"]), counts) for arm in (fast, slow)
    )
    if np.isinf(first[0]):
        raise ValueError("`fast` is learned by less than half of its runs, so it has no median time; train it longer")
    value, *sampled = (second[np.isfinite(first)] / first[np.isfinite(first)]).tolist()
    # Not interpolated: between a number and infinity there is nothing.
    low, high = np.quantile(sampled, (0.025, 0.975), method="inverted_cdf")
    return Interval(value, float(low), float(high))
