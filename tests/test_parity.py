import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import curriculum
from _frame import analyse
from _parity import EVALUATED, ParityTraining, network_of, train_parity, world_of
from skilloc import plots, store
from skilloc.experiment import losses

# Two atoms of 2 of 4 bits, and their composite: a second or less.
TINY = ParityTraining(
    n=4,
    sets=((0, 1), (2, 3)),
    composites=((0, 1),),
    examples=50,
    width=32,
    steps=600,
    rate=1e-2,
    evaluate_every=50,
    stop_on=("composite_01",),
)


@pytest.fixture(scope="module")
def trained() -> tuple[dict, dict]:
    return train_parity(TINY)


def test_a_cell_learns_its_world_and_stops(trained: tuple[dict, dict]) -> None:
    metrics, _ = trained
    assert set(metrics["bits"]) == {"parity_0", "parity_1", "composite_01"}
    assert max(metrics["bits"].values()) < 0.1
    assert metrics["steps"] < TINY.steps
    history = metrics["history"]
    assert history["step"][-1] == metrics["steps"]
    assert history["examples"][-1] == 3 * TINY.examples * metrics["steps"]
    assert history["composite_01"][-1] < TINY.stop_below * math.log(2) <= history["composite_01"][-2]
    assert history["composite_01"][0] > 0.5  # nats: nothing is known before the first step


def test_the_same_spec_gives_the_same_numbers_and_another_seed_others(trained: tuple[dict, dict]) -> None:
    again, weights = train_parity(TINY)
    assert json.dumps(again) == json.dumps(trained[0])
    assert all(np.array_equal(array.values, trained[1][name].values) for name, array in weights.items())
    other, _ = train_parity(replace(TINY, seed=1, steps=50))
    assert other["history"]["composite_01"][0] != again["history"]["composite_01"][0]


def test_the_network_comes_back_from_its_stored_result(trained: tuple[dict, dict], tmp_path: Path) -> None:
    metrics, weights = trained
    store.write(tmp_path / "cell", {"cell": "_parity:train_parity", "threads": 1, **asdict(TINY)}, metrics, weights)
    result = store.read(tmp_path / "cell")
    model = network_of(result)
    for name, subtask in world_of(TINY).items():
        loss = float(losses(model, subtask.draw(EVALUATED, split="report", seed=0)).mean())
        assert loss / math.log(2) == pytest.approx(metrics["bits"][name], rel=1e-5)


def test_only_what_is_trained_or_watched_is_evaluated_and_only_the_trained_is_trained() -> None:
    metrics, _ = train_parity(replace(TINY, trained=("parity_0",), watched=("parity_1",), stop_on=("parity_0",)))
    assert set(metrics["bits"]) == {"parity_0", "parity_1"}
    assert metrics["history"]["examples"][-1] == TINY.examples * metrics["steps"]
    assert metrics["bits"]["parity_0"] < 0.1 < 0.5 < metrics["bits"]["parity_1"]


@pytest.mark.parametrize("name", ["examples", "width", "steps", "evaluate_every"])
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="use at least 1"):
        ParityTraining(**{name: 0})


def _analysis(tmp_path: Path, *arguments: str, measured: list[int]) -> None:
    def measure(steps, run):
        measured.append(steps)
        specs = [replace(TINY, steps=steps, seed=seed) for seed in range(2)]
        return {"bits": [result.metrics["bits"]["composite_01"] for result in run(train_parity, specs)]}

    def draw(found):
        figure, axes = plots.figure()
        axes.plot(found["bits"], "o")
        axes.set_title("drawn from the record")
        return figure

    script = tmp_path / "analyses" / "tiny.py"
    given = ["--workers", "0", "--runs", str(tmp_path / "runs"), *arguments]
    analyse(str(script), "about", scales={"quick": 20, "cpu": 30}, measure=measure, draw=draw, arguments=given)


def test_an_analysis_measures_a_record_and_draws_from_it_alone(tmp_path: Path) -> None:
    measured: list[int] = []
    _analysis(tmp_path, "--scale", "quick", measured=measured)
    record = tmp_path / "runs" / "quick" / "tiny.json"
    found = json.loads(record.read_text())
    assert found["scale"] == "quick"
    assert found["versions"] == {"torch": torch.__version__, "numpy": np.__version__}
    assert len(found["bits"]) == 2
    record.write_text(json.dumps({**found, "bits": [0.25]}))
    record.with_suffix(".png").unlink()
    _analysis(tmp_path, "--scale", "quick", "--draw-only", measured=measured)
    assert measured == [20]
    assert record.with_suffix(".png").stat().st_size > 1000
    assert "drawn from the record" in record.with_suffix(".svg").read_text()


def test_the_cpu_scale_lands_beside_the_scripts_and_cells_are_not_run_twice(tmp_path: Path) -> None:
    measured: list[int] = []
    for _ in range(2):
        _analysis(tmp_path, measured=measured)
        (record,) = (tmp_path / "figures").glob("*.json")
        cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/metrics.json")}
        assert len(cells) == 2
        assert json.loads(record.read_text())["scale"] == "cpu"
    assert measured == [30, 30]


def test_a_failed_cell_ends_an_analysis_with_what_to_do(tmp_path: Path) -> None:
    def measure(scale, run):
        run(train_parity, [replace(TINY, trained=("parity_7",), steps=1)])
        return {}

    given = ["--scale", "cpu", "--workers", "0", "--runs", str(tmp_path / "runs")]
    with pytest.raises(RuntimeError, match=r"(?s)parity_7.*run the same command again"):
        analyse(str(tmp_path / "a" / "b.py"), "", scales={"cpu": 0}, measure=measure, draw=lambda _: 0, arguments=given)


def test_the_curriculum_is_measured_and_drawn(tmp_path: Path) -> None:
    tiny = replace(TINY, n=9, sets=((0,), (1,), (2, 3)), composites=((0, 1, 2),), stop_on=("composite_012",), steps=400)
    arms = {"curriculum": tiny, "composite alone": replace(tiny, trained=tiny.stop_on, steps=1)}
    given = ["--scale", "quick", "--workers", "0", "--runs", str(tmp_path)]
    measure, draw = curriculum.measure, curriculum.draw
    analyse(curriculum.__file__, "", scales={"quick": (2, arms)}, measure=measure, draw=draw, arguments=given)
    found = json.loads((tmp_path / "quick" / "curriculum.json").read_text())
    assert found["arms"]["curriculum"]["learned"] == 2
    assert found["arms"]["composite alone"]["learned"] == 0
    first = found["arms"]["curriculum"]["runs"][0]["first_below"]["composite_012"]
    assert 0 < first <= 4 * TINY.examples * tiny.steps
    picture = (tmp_path / "quick" / "curriculum.svg").read_text()
    assert "curriculum: 2 of 2 [0.34, 1.00]" in picture
    assert "composite alone: 0 of 2" in picture
