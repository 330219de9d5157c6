"""Do the intervals that are printed hold the truth?

Question: worlds are simulated in which the true effects are known: benign ones (lognormal, 8 folds) and ones that are
hard (heavier tails, few units among many without effect, most of the mass in units below the noise, effects of rare
tokens, 3 folds). An answer: for each number, how often its nominal 95 % interval holds the truth where it is printed
(at least 0.90), and how often it is withheld (hardly ever in the benign worlds).

Minutes on one core: under one for `--scale quick` (40 repetitions), half an hour for `cpu` (2,000).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from _frame import Cells, analyse
from skilloc import locality
from skilloc.attribution.calibration import RECALLS, calibrate
from skilloc.attribution.sampling import chances, draw_sample
from skilloc.effects import Effects
from skilloc.units import Units, neurons

SCALES = {"quick": 40, "cpu": 2000, "paper": 10_000}
"""Repetitions."""

LEAST, TOP = 0.90, 10
SHARED = 0.6
"""Part of the units that have the same effect on both subtasks, where two are compared."""


class World(NamedTuple):
    """True effects, and how they are measured.

    Attributes:
        effects: draws the true effects.
        noise: standard deviation of the mean over folds.
        folds: number of folds.
        rare: events per fold that an effect comes from; 0 where every token tells.
    """

    effects: Callable[[np.random.Generator], Float[np.ndarray, " unit"]]
    noise: float
    folds: int = 8
    rare: float = 0.0

    def measure(
        self, effects: Float[np.ndarray, "*subtask unit"], rng: np.random.Generator
    ) -> Float[np.ndarray, "fold *subtask unit"]:
        """Return fold values of true effects."""
        shape = (self.folds, *effects.shape)
        seen = effects * rng.poisson(self.rare, shape) / self.rare if self.rare else np.broadcast_to(effects, shape)
        return np.asarray(seen + self.noise * np.sqrt(self.folds) * rng.standard_normal(shape))


def lognormal(s: float, n: int = 400, *, share: float = 1.0) -> Callable[..., Any]:
    """Magnitudes of this spread, three in ten negative; a share of the units has any."""

    def draw(rng: np.random.Generator) -> Float[np.ndarray, " unit"]:
        sign = np.where(rng.random(n) < 0.7, 1.0, -1.0) * (rng.random(n) < share)
        return np.asarray(sign * np.exp(s * rng.standard_normal(n)))

    return draw


def pareto(rng: np.random.Generator, n: int = 400) -> Float[np.ndarray, " unit"]:
    """Magnitudes with a tail of index 1.2."""
    return np.asarray(np.where(rng.random(n) < 0.7, 1.0, -1.0) * (1 + rng.pareto(1.2, n)))


def tiny(rng: np.random.Generator, n: int = 1000, large: int = 10) -> Float[np.ndarray, " unit"]:
    """Seven tenths of the mass in many units that are small (a fifth of the noise, in `WORLDS`)."""
    effects = rng.exponential(size=n)
    size = np.exp(0.5 * rng.standard_normal(large))
    effects[:large] = size / size.sum() * (n - large) * 3 / 7
    return np.asarray(effects)


WORLDS = {
    "lognormal 1": World(lognormal(1.0), 0.5),
    "lognormal 1.5": World(lognormal(1.5), 1.0),
    "lognormal 2": World(lognormal(2.0), 1.0),
    "Pareto 1.2": World(pareto, 1.0),
    "sparse": World(lognormal(1.0, 1000, share=0.05), 0.5),
    "tiny units": World(tiny, 5.0),
    "rare tokens": World(lognormal(1.0), 0.3, rare=1.0),
    "3 folds": World(lognormal(1.5), 1.0, folds=3),
}
BENIGN = ("lognormal 1", "lognormal 1.5")


class Hit(NamedTuple):
    """One interval: whether it was printed, and whether it holds the truth."""

    number: str
    printed: bool
    held: bool


def _hit(number: str, found: Any, truth: float, *, place: Any = ()) -> Hit:
    value, low, high = (float(np.asarray(end)[place]) for end in found[:3])
    slack = 1e-9 * max(1.0, abs(truth))
    return Hit(number, bool(np.isfinite(value)), bool(low - slack <= truth <= high + slack))


def of_one(world: World, rng: np.random.Generator) -> Iterator[Hit]:
    """Locality scores and picked units of one subtask."""
    truth = world.effects(rng)
    table = world.measure(truth, rng)
    expected = locality.plain(truth, top=TOP)
    for name, found in locality.scores(table, top=TOP).items():
        yield _hit(name, found, expected[name])
    units = locality.picked(table, top=TOP)
    for place, unit in enumerate(units.units):
        yield _hit("picked units", (units.value, units.low, units.high), float(truth[unit]), place=place)


def of_two(world: World, rng: np.random.Generator) -> Iterator[Hit]:
    """Entanglement of two subtasks that share part of their units, and what their joint removal does."""
    first, other = world.effects(rng), world.effects(rng)
    both = np.stack([first, np.where(rng.random(len(first)) < SHARED, first, other)])
    table = world.measure(both, rng)
    mass = np.maximum(both, 0.0)
    p, q = (row / row.sum() for row in mass)
    ruzicka = np.minimum(p, q).sum() / np.maximum(p, q).sum()
    yield _hit("overlap", locality.overlap(table, draws=1), ruzicka, place=(0, 1))
    ranks = np.argsort(np.argsort(both, axis=1), axis=1)
    truth = float(np.asarray(np.corrcoef(ranks))[0, 1])
    if len(np.unique(both[0])) == len(both[0]):  # ties at 0 have no order
        yield _hit("rank correlation", locality.rank_correlation(table), truth, place=(0, 1))


def of_removal(world: World, rng: np.random.Generator) -> Iterator[Hit]:
    """Loss increases on two targets, by the units of two sources, and by random masks."""
    losses = np.abs(world.effects(rng)[:4]).reshape(2, 2) + 0.1 + np.diag([1.0, 1.0])
    scale = 0.3 * losses.mean()
    folds = (world.folds, 2, 2)
    gain = (
        rng.poisson(4 * world.rare, folds) / (4 * world.rare)
        if world.rare
        else np.exp(0.5 * rng.standard_normal(folds) - 0.125)
    )
    removal = losses * gain + 0.1 * scale * rng.standard_normal(folds)
    random = 0.1 * scale * rng.standard_normal((20, *folds)) + 0.1 * scale * rng.standard_normal((20, 1, 2, 2))
    found = locality.removal_scores(removal, random)
    for a, b in np.ndindex(2, 2):
        yield _hit("loss increase", found["loss_increase"], losses[a, b], place=(a, b))
        yield _hit("excess", found["excess"], losses[a, b], place=(a, b))
    yield _hit("share", found["share"], losses[0, 1] / losses[0, 0], place=(0, 1))
    yield _hit("specificity", found["specificity"], losses[0, 0] / losses[0, 1], place=0)
    yield _hit("hierarchy", found["hierarchy"], losses[0, 1] - losses[1, 0], place=(0, 1))


def of_calibration(world: World, rng: np.random.Generator) -> Iterator[Hit]:
    """An estimate that is right within a factor, against a sample of 64 units beside its top 100."""
    truth = world.effects(rng)
    exact = world.measure(truth, rng)
    guess = exact.mean(axis=0) * np.exp(0.5 * rng.standard_normal(len(truth))) + world.noise * rng.standard_normal(
        len(truth)
    )
    estimate = np.broadcast_to(guess, exact.shape)
    certain = np.zeros(len(truth), dtype=bool)
    certain[np.argsort(-np.abs(guess))[:100]] = True
    everything = np.ones(len(truth), dtype=bool)
    chance = chances(estimate[:, None], count=64, certain=certain, candidates=everything)
    sample = draw_sample(chance, seed=int(rng.integers(2**31)))

    def effects(values: Float[np.ndarray, "fold unit"]) -> Effects:
        units = Units((neurons("blocks.0.mlp.hook_post", len(truth), 0),))
        return Effects(values[:, None], np.ones((len(values), 1)), ("a",), units, everything)

    part = np.where(sample.drawn, exact, np.nan)
    found = calibrate(effects(estimate), effects(part), drawn=sample.drawn, chance=chance)["a"]
    whole = calibrate(effects(estimate), effects(exact), drawn=everything, chance=np.ones(len(truth)))["a"]
    yield _hit("Spearman", found.spearman, whole.spearman.value)
    yield _hit("relative error", found.relative_error, whole.relative_error.value)
    for k, m in RECALLS[:2]:
        yield _hit(f"recall {k} in {m}", found.recall[f"{k} in {m}"], whole.recall[f"{k} in {m}"].value)


def coverage(world: World, repetitions: int, *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return for every number how often it holds the truth where it is printed, and how often it is withheld."""
    rng = np.random.default_rng(seed)
    hits: dict[str, list[Hit]] = {}
    for _ in range(repetitions):
        for part in (of_one, of_two, of_removal, of_calibration):
            for hit in part(world, rng):
                hits.setdefault(hit.number, []).append(hit)
    found = {}
    for number, rows in hits.items():
        printed = [row for row in rows if row.printed]
        held = float(np.mean([row.held for row in printed])) if printed else float("nan")
        found[number] = (held, 1 - len(printed) / len(rows))
    return found


def measure(scale: int, run: Cells) -> dict[str, Any]:
    """Simulate every world."""
    return {
        "repetitions": scale,
        "worlds": {
            name: {number: [None if np.isnan(held) else held, withheld] for number, (held, withheld) in rows.items()}
            for name, rows in ((name, coverage(world, scale)) for name, world in WORLDS.items())
        },
    }


def table(record: dict[str, Any]) -> str:
    """Return the record as a table in Markdown: coverage, and in brackets the share withheld where there is any."""
    worlds = record["worlds"]
    numbers = list(dict.fromkeys(number for rows in worlds.values() for number in rows))
    lines = ["| | " + " | ".join(worlds) + " |", "|---" * (1 + len(worlds)) + "|"]
    for number in numbers:
        cells = []
        for rows in worlds.values():
            held, withheld = rows.get(number, (None, 1.0))
            said = "–" if held is None else f"{held:.2f}"
            cells.append(said if not withheld else f"{said} ({withheld:.2f})")
        lines.append(f"| {number.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Any:
    """Draw a row of dots per number, one per world."""
    from skilloc.plots.style import Drawing as Figure

    worlds = record["worlds"]
    numbers = list(dict.fromkeys(number for rows in worlds.values() for number in rows))
    figure = Figure(figsize=(7.0, 0.24 * len(numbers) + 1.2))
    ax = figure.add_subplot()
    for w, (name, rows) in enumerate(worlds.items()):
        seen = [
            (n, rows[number][0]) for n, number in enumerate(numbers) if number in rows and rows[number][0] is not None
        ]
        places, held = zip(*seen, strict=True)
        ax.plot(held, np.array(places) + 0.06 * (w - len(worlds) / 2), "o", ms=3.5, label=name)
    ax.axvline(LEAST, color="0.5", lw=0.8)
    ax.axvline(0.95, color="0.8", lw=0.8)
    ax.set_yticks(range(len(numbers)), [number.replace("_", " ") for number in numbers])
    ax.invert_yaxis()
    ax.set_xlabel("how often a nominal 95 % interval holds the truth, where it is printed")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle(f"{record['repetitions']:,} repetitions per world; grey: 0.90 and 0.95", fontsize=9)
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
