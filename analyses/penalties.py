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

from dataclasses import asdict, dataclass, replace
from typing import Any

from skilloc import plots
from skilloc.experiments.penalties import PenaltyRuns, chosen, over_seeds
from skilloc.experiments.script import Run, analyse
from skilloc.plots.learning import interval_rows
from skilloc.plots.style import CONTROL

CELL = "skilloc.experiments.penalties:compare_penalty"
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


def measure(scale: Scale, run: Run) -> dict[str, Any]:
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
    results = run(CELL, [asdict(spec) for spec in specs])
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
