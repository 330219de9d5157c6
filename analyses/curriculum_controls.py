"""Is it composition that makes a composite parity learnable beside its atoms, or would any easier company do?

Question: the reviewers of the paper ask whether composites are learned because their atoms are in the data, or whether
"composite" only stands for "hard". Controls: atoms on other bits than the composite's; some of the atoms only; a parity
of as many bits that is no composite of the trained atoms, beside the same atoms and the composite, in one network.
And where the composite is learned alone too, how many times as many examples that takes. An answer: fractions of seeds
that learn, with intervals, and median times, at two rates of Adam; seeds that never learn are censored, not dropped.

Minutes on two cores: a few seconds for `--scale quick`, 20 for `cpu` (9-bit composites of 24 bits, width 64, and 6-bit
composites of 24 and 32 bits, width 128); `paper` takes its world of 64 bits, for a cluster.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from _arms import Arm, run_arms, speed_up
from _frame import Cells, analyse
from _parity import LEARNED, ParityTraining
from _worlds import curriculum_network
from skilloc import plots
from skilloc.plots.learning import examples_axis, learned_dots, ratio_dots, survival_curve
from skilloc.plots.style import CONTROL

BLUE = "#0072b2"
# By arm, and by subtask of the arm: what it is called, and its colour.
ROWS: dict[str, tuple[tuple[str, str], ...]] = {
    "all atoms": (("composite, with its atoms", BLUE),),
    "straddling": (("… beside a straddling parity", BLUE), ("that straddling parity", "#d55e00")),
    "outside": (("… beside a parity of other bits", BLUE), ("that parity of other bits", "#cc79a7")),
    "all but one": (("composite, with all atoms but one", "#56b4e9"),),
    "one": (("composite, with one atom", "#009e73"),),
    "other atoms": (("composite, with atoms of other bits", "#e69f00"),),
    "alone": (("composite alone", CONTROL),),
}
AT_LOW_RATE = ("all atoms", "straddling", "alone")


@dataclass(frozen=True)
class Scale:
    """Seeds; atoms of k bits; the settings of most arms, and what the low rate changes; two atoms of 3 of n bits."""

    seeds: int
    k: int
    atoms: int
    base: ParityTraining
    low: Mapping[str, Any]
    pairs: ParityTraining
    sizes: tuple[int, ...]


SMALL = ParityTraining(steps=5000, stop_below=0.05)
PAIRS = replace(SMALL, width=128, rate=2e-3, steps=15_000, evaluate_every=50)
TINY = replace(SMALL, n=16, examples=50, width=16, steps=150, evaluate_every=50)
LARGE = replace(curriculum_network(), steps=200_000, stop_below=0.05)
SCALES = {
    "quick": Scale(3, 2, 3, TINY, {"rate": 1e-2}, replace(TINY, examples=100, width=32, rate=1e-2, steps=400), (7, 8)),
    "cpu": Scale(20, 3, 3, SMALL, {"rate": 1e-3, "steps": 10_000}, PAIRS, (24, 32)),
    "paper": Scale(40, 4, 4, LARGE, {"rate": 3e-4}, replace(LARGE, width=256, steps=1_000_000), (48, 64)),
}


def control_arms(base: ParityTraining, *, k: int, atoms: int) -> dict[str, Arm]:
    """Return the arms of one world: a composite of all its atoms, each of k bits, and what it is trained beside.

    - "all atoms": its atoms;
    - "straddling", "outside": its atoms, and a parity of as many bits that is no composite of them (`halved_world`);
      both the composite and that parity are asked about;
    - "all but one", "one": some of its atoms;
    - "other atoms": atoms of other bits, as many, while its own are never trained;
    - "alone": nothing, and as many examples per step in all as with its atoms.

    Args:
        base: n, the network, and how it is trained; sets, composites, and what is trained are replaced.
        k: bits per atom.
        atoms: number of atoms.
    """
    bits = [tuple(range(k * i, k * (i + 1))) for i in range(2 * atoms)]
    single = [f"parity_{i}" for i in range(atoms)]
    code, other = tuple(range(atoms)), tuple(range(atoms, 2 * atoms))
    plain = replace(base, sets=tuple(bits[:atoms]), composites=(code,))
    name = _name(code)
    arms = {"all atoms": _arm(plain, (*single, name), name)}
    sets, parts = halved_world(k, atoms)
    for parity in ("straddling", "outside"):
        codes = [parts[part] for part in (*(f"atom_{i}" for i in range(atoms)), "composite", parity)]
        world = replace(base, sets=sets, composites=tuple(code for code in codes if len(code) > 1))
        arms[parity] = _arm(world, map(_name, codes), _name(codes[-2]), _name(codes[-1]))
    arms["all but one"] = _arm(plain, (*single[:-1], name), name)
    arms["one"] = _arm(plain, (single[0], name), name)
    far = replace(base, sets=tuple(bits), composites=(other,))
    arms["other atoms"] = _arm(far, (*single, _name(other)), _name(other))
    arms["alone"] = _arm(replace(plain, examples=base.examples * (atoms + 1)), (name,), name)
    return arms


def pair_arms(base: ParityTraining, *, n: int) -> dict[str, Arm]:
    """Return "both", a composite of two atoms of 3 of n bits beside its atoms, and "alone", as many examples per step.

    Args:
        base: the network, and how it is trained; the world and what is trained are replaced.
        n: number of task bits.
    """
    world = replace(base, n=n, sets=((0, 1, 2), (3, 4, 5)), composites=((0, 1),))
    name = _name((0, 1))
    return {
        "both": _arm(world, ("parity_0", "parity_1", name), name),
        "alone": _arm(replace(world, examples=3 * base.examples), (name,), name),
    }


def _arm(training: ParityTraining, trained: Iterable[str], *asked: str) -> Arm:
    return Arm(replace(training, trained=tuple(trained), stop_on=asked), asked)


def _name(code: tuple[int, ...]) -> str:
    return f"parity_{code[0]}" if len(code) == 1 else f"composite_{''.join(map(str, code))}"


def halved_world(k: int, atoms: int) -> tuple[tuple[tuple[int, ...], ...], dict[str, tuple[int, ...]]]:
    """Return index sets of half atoms, and which of them make the parities that controls compare.

    Atom i has the bits ki to ki + k - 1, cut into halves of k // 2 and of the rest. A parity of as many bits as the
    composite of all atoms then need not be a composite of atoms: `straddling` takes the second half of each atom and
    fresh bits, `outside` has no bit in common with them.

    Args:
        k: bits per atom.
        atoms: number of atoms.

    Returns:
        The index sets, and sets of their numbers: "atom_0", "atom_1", ..., "composite", "straddling", "outside".

    Raises:
        ValueError: if `k` is below 2, which has no halves.
    """
    if k < 2:
        raise ValueError(f"`k` is {k}; use atoms of at least 2 bits, which have halves")
    half = k // 2
    halves = [part for i in range(atoms) for part in _cut(range(k * i, k * (i + 1)), half)]
    fresh, outside = k * atoms, (k + half) * atoms
    sets = (*halves, tuple(range(fresh, outside)), tuple(range(outside, outside + k * atoms)))
    parts: dict[str, tuple[int, ...]] = {f"atom_{i}": (2 * i, 2 * i + 1) for i in range(atoms)}
    parts["composite"] = tuple(range(2 * atoms))
    parts["straddling"] = (*range(1, 2 * atoms, 2), 2 * atoms)
    parts["outside"] = (2 * atoms + 1,)
    return sets, parts


def _cut(bits: range, half: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(bits[:half]), tuple(bits[half:])


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Train every arm at both rates, and the pairs of atoms."""
    arms = control_arms(scale.base, k=scale.k, atoms=scale.atoms)
    low = {name: Arm(replace(arms[name].training, **scale.low), arms[name].subtasks) for name in AT_LOW_RATE}
    pairs = {f"{n} {name}": arm for n in scale.sizes for name, arm in pair_arms(scale.pairs, n=n).items()}
    trained = run_arms(run, pairs, scale.seeds)
    outcomes = {name: one["subtasks"]["composite_01"] for name, one in trained.items()}
    return {
        "learned_below": LEARNED,
        "arms": {"high": run_arms(run, arms, scale.seeds), "low": run_arms(run, low, scale.seeds)},
        "pairs": trained,
        "speed_up": {str(n): _ratios(outcomes[f"{n} both"], outcomes[f"{n} alone"]) for n in scale.sizes},
    }


def _ratios(both: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    """Ratio of median examples: of all, and of the composite's, a third of all beside two atoms. None: infinite."""
    ends = speed_up(both, alone).record().items()
    shares = {"all": 1, "composite": 3}
    return {what: {end: n * value if np.isfinite(value) else None for end, value in ends} for what, n in shares.items()}


def draw(found: dict[str, Any]) -> Any:
    """Left: fractions that learn and, at the bottom, the speed-up. Right: when, in the colours of the left."""
    figure, axes = plots.figure(3, 2, height=6.8, height_ratios=(9, 4, 4))
    for (left, right), arms in zip(axes, found["arms"].values(), strict=False):
        looks = [(arm, i, *look) for arm, several in ROWS.items() if arm in arms for i, look in enumerate(several)]
        outcomes = [list(arms[arm]["subtasks"].values())[i] for arm, i, _, _ in looks]
        names, colours = [name for _, _, name, _ in looks], [colour for _, _, _, colour in looks]
        settings, seeds = arms["all atoms"]["settings"], [arms["all atoms"]["seeds"]] * len(names)
        learned_dots(left, names, [one["fraction"] for one in outcomes], colours=colours, runs=seeds)
        left.set_title(f"{sum(map(len, settings['sets']))} of {settings['n']} bits, rate {settings['rate']:g}")
        # One curve per colour: that of its first row.
        curves = dict(zip(reversed(colours), reversed(outcomes), strict=True))
        _when(right, [(one, colour, False) for colour, one in curves.items()])
    left, right = axes[2]
    ratios = {
        f"{n} bits, {what} examples": ends for n, each in found["speed_up"].items() for what, ends in each.items()
    }
    ends = [{end: value or np.inf for end, value in one.items()} for one in ratios.values()]
    ratio_dots(left, list(ratios), ends, colours=[BLUE] * len(ends))
    left.set(title="6 bits, two atoms: speed-up", xlabel="examples alone / with atoms (medians)")
    smallest = min(found["speed_up"], key=int)
    pairs = {name: next(iter(arm["subtasks"].values())) for name, arm in found["pairs"].items()}
    _when(right, [(one, CONTROL if "alone" in name else BLUE, smallest in name) for name, one in pairs.items()])
    for n in found["speed_up"]:
        right.plot([], [], color="black", ls=(0, (3, 1.5)) if n == smallest else "-", label=f"{n} bits")
    right.legend(loc="upper right")
    figure.supxlabel("bars and bands: 95 % over seeds; grey: composite alone, as many examples per step", fontsize=6.5)
    return figure


def _when(ax: Any, curves: list[tuple[dict[str, Any], str, bool]]) -> None:
    """Draw what is not yet learned: outcomes, colours, whether the line is dashed."""
    for one, colour, dashed in curves:
        survival_curve(ax, one["survival"], end=one["survival"]["end"], colour=colour, dashed=dashed)
    last = max(one["survival"]["end"] for one, _, _ in curves)
    examples_axis(
        ax, 0.7 * min(min(one["examples"]) for one, _, _ in curves), last, label="training examples, all subtasks"
    )
    ax.set_title("not yet learned")


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
