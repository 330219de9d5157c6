"""The comparison of penalties: a small cell, what is chosen of it, and the figure of a small record."""

import json
from dataclasses import replace

import pytest
from answered import Answered

import penalties
from _parity import ParityTraining, world_of
from penalties import PenaltyRuns, chosen, compare_penalty, over_seeds
from skilloc import plots, store

SMALL = PenaltyRuns(
    kept="composite_01", n=8, sets=((0, 1), (2, 3)), composites=((0, 1),), width=16, train_steps=400, steps=300,
    examples=100, wanted=(0.1,),
)  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    thresholds = (0.0, 0.05, 1e9)
    ways = {
        "subgradient": replace(SMALL, solver="subgradient", thresholds=thresholds),
        "proximal": SMALL,
        "plain": replace(SMALL, wanted=(0.0,)),
    }
    return {name: compare_penalty(way)[0] for name, way in ways.items()}


def test_the_strength_is_steered_and_thresholds_count(cells):
    runs = cells["subgradient"]["runs"]
    assert [run["threshold"] for run in runs] == [0.0, 0.05, 1e9]
    assert runs[0]["live"] == 32 > runs[1]["live"] > runs[2]["live"] == 0
    assert 0.03 < runs[0]["loss"] < 0.3
    assert runs[2]["loss"] > 0.6  # nothing is left
    (proximal,) = cells["proximal"]["runs"]
    assert 0 < proximal["live"] < 32
    (plain,) = cells["plain"]["runs"]
    assert (plain["live"], plain["strength"]) == (32, 0)
    assert plain["loss"] < 0.01
    world = world_of(ParityTraining(n=SMALL.n, sets=SMALL.sets, composites=SMALL.composites))
    assert set(plain["report"]) == set(world) == set(cells["plain"]["before"])
    assert cells["plain"]["before"]["parity_0"]["accuracy"] > 0.95


def run(live, loss, threshold=0.0, wanted=0.1):
    report = {"kept": {"loss": loss, "accuracy": 1.0}, "a": {"loss": 1.0, "accuracy": 0.5},
              "b": {"loss": 3.0, "accuracy": 0.7}}  # fmt: skip
    return {"wanted": wanted, "threshold": threshold, "live": live, "loss": loss, "report": report, "revivals": 1,
            "strength": 0.2}  # fmt: skip


def test_the_largest_threshold_that_costs_nothing_is_chosen():
    runs = [run(9, 0.1), run(7, 0.1005, 0.1), run(5, 0.1012, 0.3), run(1, 0.02, 9.0, wanted=0.5)]
    assert chosen(runs, 0.1)["live"] == 7
    assert chosen(runs, 0.5)["live"] == 1


def test_means_over_seeds_by_hand():
    runs, others = [run(4, 0.1), run(6, 0.12), run(5, 0.092)], [run(7, 0.1), run(7, 0.1), run(7, 0.1)]
    found = over_seeds(runs, "kept", others)
    assert found["mean_live"]["value"] == 5
    assert found["fewer"]["value"] == 2
    assert found["fewer"]["high"] == pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3)
    assert found["equal"] == [True, False, True]
    assert (found["other_loss"]["value"], found["other_accuracy"]["value"]) == (2, pytest.approx(0.6))
    assert found["kept_loss"]["value"] == pytest.approx(0.312 / 3)
    assert found["revivals"] == 3
    assert "fewer" not in over_seeds(runs, "kept")


def test_the_figure_shows_every_way_and_the_control():
    def several(cell, specs):
        assert cell is compare_penalty
        results = []
        for spec in specs:
            live = {"subgradient": 30, "proximal": 20}[spec.solver] + spec.seed
            runs = [
                {**run(live, 0.1 if wanted else 0.01, threshold, wanted), "report": {"composite_012": {
                    "loss": 0.1, "accuracy": 1.0}, "parity_0": {"loss": 1.0, "accuracy": 0.5}}}
                for wanted in spec.wanted
                for threshold in spec.thresholds
            ]  # fmt: skip
            results.append(store.Result({}, {"runs": runs}, {}))
        return results

    scale = replace(penalties.SCALES["quick"], wanted=(0.1, 0.05))
    found = json.loads(json.dumps(penalties.measure(scale, Answered(answer=several))))
    arms = found["wanted"]["0.1"]
    assert list(arms) == [name for name in penalties.ARMS if name != penalties.PLAIN]
    assert arms["proximal"]["fewer"]["value"] == 10
    assert not any(found["wanted"]["0.05"]["proximal"]["equal"])  # its loss came out at 0.1
    with plots.style():
        figure = penalties.draw(found)
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "20.5\n[10.0, 10.0]" in words
    assert "20.5*\n[10.0, 10.0]" in words
    assert "plain finetuning" in figure._supxlabel.get_text()
    assert len(figure.axes) == 6
