import json
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import curriculum
import curriculum_controls
import depth
import precision
from _arms import Arm, median_times, outcome, parameters, run_arms, speed_up
from _frame import Cells
from _parity import ParityTraining, world_of
from _worlds import curriculum_network, nonlocality_network
from curriculum_controls import control_arms, halved_world, pair_arms
from skilloc import plots, store
from skilloc.locality.intervals import survival
from skilloc.models.mlp import MLP


def metrics(losses: list[float], bits: float) -> dict:
    """A run that was evaluated every 100 examples; losses in bits."""
    examples = [100.0 * i for i in range(len(losses))]
    return {"bits": {"a": bits}, "history": {"examples": examples, "a": (np.array(losses) * np.log(2)).tolist()}}


def outcomes(times: list[float], happened: list[bool]) -> dict:
    return {"examples": times, "happened": happened}


def bits_of(training: ParityTraining, name: str) -> set[int]:
    return {bit for atom in world_of(training)[name].made["code"] for bit in training.sets[atom]}


def test_an_outcome_says_who_learned_and_when() -> None:
    learned = metrics([1.0, 0.5, 0.09, 0.2, 0.01], 0.02)
    lost_again = metrics([1.0, 0.05, 0.7], 0.7)  # below on the way, not at the end
    never = metrics([1.0, 1.0, 1.0, 1.0], 1.0)
    found = outcome([learned, lost_again, never], "a")
    assert found["learned"] == 1
    assert found["happened"] == [True, False, False]
    # When it was first below, and for the others until when they were watched.
    assert found["examples"] == [200, 200, 300]
    assert found["fraction"]["value"] == 1 / 3
    assert found["survival"]["time"] == [0, 200]
    assert found["survival"]["fraction"] == pytest.approx([1, 2 / 3])
    assert found["survival"]["end"] == 400
    assert found["curve"][0] == {"examples": [0, 100, 200, 300, 400], "bits": [1, 0.5, 0.09, 0.2, 0.01]}
    json.dumps(found)


def test_a_long_curve_keeps_its_ends() -> None:
    (curve,) = outcome([metrics(np.linspace(1, 0, 1001).tolist(), 0.0)], "a")["curve"]
    assert len(curve["bits"]) <= 60
    assert (curve["examples"][0], curve["examples"][-1]) == (0, 100_000)
    assert (curve["bits"][0], curve["bits"][-1]) == (1, 0)


def test_the_median_time_counts_runs_that_never_learn() -> None:
    times = np.array([9.0, 1, 9, 2])
    one, two, all_learn = (np.array(happened, bool) for happened in ([0, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]))
    # Of four, two are done at 2. If only one ever learns, half never do; unless it is drawn as often as all others.
    samples = np.array([[1, 1, 1, 1], [1, 3, 1, 1], [2, 0, 0, 0]])
    assert median_times(times, all_learn, samples).tolist() == [2, 1, 9]
    assert median_times(times, two, samples).tolist() == [2, 1, np.inf]
    assert median_times(times, one, samples).tolist() == [np.inf, 1, np.inf]


def test_the_median_time_is_that_of_the_survival_curve() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        times = generator.integers(1, 12, 20).astype(float)  # with ties
        happened = generator.random(20) < 0.7
        curve = survival(times, happened)
        below = curve.time[curve.fraction <= 0.5 + 1e-9]
        expected = below[0] if len(below) else np.inf
        assert median_times(times, happened, np.ones((1, 20), int)).tolist() == [expected]


def test_speed_up_is_the_ratio_of_median_times() -> None:
    fast = outcomes([100.0, 110, 120, 130], [True] * 4)
    slow = outcomes([1000.0, 1100, 1200, 1300], [True] * 4)
    found = speed_up(fast, slow)
    assert found.value == pytest.approx(10)
    # The seeds are drawn together, so a seed that is slow in both arms does not widen the interval.
    assert (found.low, found.high) == pytest.approx((10, 10))
    assert speed_up(slow, fast).value == pytest.approx(0.1)


def test_speed_up_covers_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for draw in range(300):
        fast = outcomes(np.exp(generator.normal(0, 0.5, 20)).tolist(), [True] * 20)
        slow = outcomes(np.exp(generator.normal(np.log(4), 0.5, 20)).tolist(), [True] * 20)
        found = speed_up(fast, slow, draws=300, seed=draw)
        covered.append(found.low <= 4 <= found.high)
    # The bootstrap of a median is somewhat wide: its values are few.
    assert 0.92 <= np.mean(covered) <= 0.995


def test_speed_up_is_endless_where_the_slow_arm_never_learns_and_refused_where_the_fast_one_does_not() -> None:
    fast, never = outcomes([1.0, 2, 3], [True] * 3), outcomes([50.0, 50, 50], [False] * 3)
    assert speed_up(fast, never)[:3] == (np.inf, np.inf, np.inf)
    with pytest.raises(ValueError, match="train it longer"):
        speed_up(never, fast)


@pytest.mark.parametrize("training", [curriculum_network(depth=2, width=361), nonlocality_network(32, 0)])
def test_parameters_are_counted_as_the_network_has_them(training: ParityTraining) -> None:
    model = MLP(len(training.sets) + training.n, 2, training.width, training.depth)
    assert parameters(training) == sum(p.numel() for p in model.parameters())


def test_the_papers_networks_have_the_papers_sizes() -> None:
    # Stated in the authors' notebook.
    sizes = [parameters(curriculum_network(width=w, depth=d)) for w, d in ((128, 3), (128, 2), (361, 2))]
    assert sizes == [25_602, 9_090, 25_633]


def test_depth_3_shares_its_cells_with_the_curriculum() -> None:
    shared = curriculum.SCALES["cpu"][1]["curriculum"]
    assert store.key(asdict(depth.SCALES["cpu"].deep)) == store.key(asdict(shared))
    assert shared == replace(curriculum_network(), products="bfloat16")


@pytest.mark.parametrize(("k", "atoms"), [(2, 3), (3, 3), (4, 4)])
def test_parities_beside_the_composite_are_as_large_but_no_composites_of_its_atoms(k: int, atoms: int) -> None:
    sets, parts = halved_world(k, atoms)
    assert len({bit for bits in sets for bit in bits}) == sum(map(len, sets))
    covered = {name: {bit for place in places for bit in sets[place]} for name, places in parts.items()}
    singles = [covered[f"atom_{i}"] for i in range(atoms)]
    assert [len(bits) for bits in singles] == [k] * atoms
    assert covered["composite"] == set().union(*singles)
    for name in ("straddling", "outside"):
        assert len(covered[name]) == len(covered["composite"])
        assert not any(bits <= covered[name] for bits in singles)
    assert all(0 < len(bits & covered["straddling"]) < k for bits in singles)
    assert not covered["composite"] & covered["outside"]


def test_atoms_that_have_no_halves_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 bits"):
        halved_world(1, 3)


def test_controls_differ_from_the_curriculum_in_what_they_are_about() -> None:
    arms = control_arms(ParityTraining(), k=3, atoms=3)
    asked = {name: [bits_of(arm.training, subtask) for subtask in arm.subtasks] for name, arm in arms.items()}
    trained = {name: [bits_of(arm.training, subtask) for subtask in arm.training.trained] for name, arm in arms.items()}
    nine = set(range(9))
    atoms = [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]
    assert trained["all atoms"] == [*atoms, nine]
    assert trained["all but one"] == [*atoms[:2], nine]
    assert trained["one"] == [atoms[0], nine]
    assert trained["alone"] == [nine]
    for name in ("straddling", "outside"):
        assert trained[name][:4] == [*atoms, nine]
        assert asked[name][0] == nine
        assert asked[name][1] == trained[name][4] != nine
    # The composite shares no bit with what is trained beside it.
    assert trained["other atoms"][:3] == atoms
    assert asked["other atoms"] == [set(range(9, 18))]
    # As many examples per step with the atoms and alone.
    rows = {name: arm.training.examples * len(arm.training.trained) for name, arm in arms.items()}
    assert rows["alone"] == rows["all atoms"] == rows["other atoms"] == 1000
    assert all(arm.training.stop_on == arm.subtasks for arm in arms.values())


def test_a_pair_has_as_many_examples_per_step_alone() -> None:
    both, alone = pair_arms(ParityTraining(), n=30).values()
    assert len(both.training.trained) * both.training.examples == alone.training.examples == 750
    assert alone.training.trained == both.subtasks == alone.subtasks
    assert bits_of(both.training, "composite_01") == set(range(6))


def test_equal_arms_are_refused(tmp_path: Path) -> None:
    tiny = ParityTraining(examples=1, width=1, steps=1)
    with pytest.raises(ValueError, match="leave one of the two out"):
        run_arms(Cells(tmp_path), {name: Arm(tiny, ("composite_012",)) for name in ("a", "b")}, 2)


def test_depth_is_measured_and_drawn(tmp_path: Path) -> None:
    tiny = replace(ParityTraining(), n=9, examples=40, width=16, steps=10, evaluate_every=5, stop_on=("composite_012",))
    found = _drawn(depth, depth.Scale(tiny, 2, 1, 31), tmp_path)
    assert [arm["parameters"] for arm in found["arms"].values()] == [514, 242, 467]
    assert [arm["seeds"] for arm in found["arms"].values()] == [2, 1, 1]
    assert "0 of 2" in (tmp_path / "drawn.svg").read_text()


def test_precisions_are_measured_and_drawn(tmp_path: Path) -> None:
    easy = {"n": 3, "sets": ((0,), (1,), (2,)), "composites": ((0, 1, 2),), "rate": 1e-2}
    tiny = ParityTraining(**easy, examples=50, width=32, steps=600, evaluate_every=20, stop_on=("composite_012",))
    found = _drawn(precision, (3, tiny), tmp_path)
    assert [arm["settings"]["products"] for arm in found["arms"].values()] == ["bfloat16", "float32"]
    assert list(found["arms"]) == ["bfloat16", "float32"]
    assert [arm["subtasks"]["composite_012"]["learned"] for arm in found["arms"].values()] == [3, 3]
    ratio = found["times_as_many_in_float32"]
    assert 0.3 < ratio["low"] <= ratio["value"] <= ratio["high"] < 3
    more = found["more_often_in_bfloat16"]
    assert more["low"] < more["value"] == 0 < more["high"]
    picture = (tmp_path / "drawn.svg").read_text()
    assert f"float32 takes {ratio['value']:.2f}" in picture
    assert f"larger by 0.00 [{more['low']:.2f}, {more['high']:.2f}]" in picture


def test_precision_shares_its_cells_with_the_curriculum() -> None:
    seeds, training = precision.SCALES["cpu"]
    wanted, arms = curriculum.SCALES["cpu"]
    assert seeds == wanted == 40
    assert replace(training, products="bfloat16") == arms["curriculum"]


@pytest.mark.slow
def test_controls_are_measured_and_drawn(tmp_path: Path) -> None:
    quick = curriculum_controls.SCALES["quick"]
    base = replace(quick.base, steps=2, evaluate_every=1)
    found = _drawn(curriculum_controls, replace(quick, seeds=2, base=base, sizes=(6, 7)), tmp_path)
    assert list(found["arms"]["low"]) == ["all atoms", "straddling", "alone"]
    assert {arm["settings"]["rate"] for arm in found["arms"]["low"].values()} == {1e-2}
    assert set(found["pairs"]) == {"6 both", "6 alone", "7 both", "7 alone"}
    ratios = found["speed_up"]["6"]
    assert ratios["composite"]["value"] == pytest.approx(3 * ratios["all"]["value"])
    picture = (tmp_path / "drawn.svg").read_text()
    assert "that straddling parity" in picture
    assert f"{ratios['all']['value']:.1f} ×" in picture


def _drawn(script: ModuleType, scale: object, folder: Path) -> dict:
    """Measure in this process and draw from what JSON keeps of the record."""
    found = json.loads(json.dumps(script.measure(scale, Cells(folder / "runs"))))
    with plots.style():
        script.draw(found).savefig(folder / "drawn.svg")
    return found
