"""Measured on more and more text: until it can be relied on, or a budget is spent, and on where it stopped."""

from dataclasses import replace

import numpy as np
import pytest

from skilloc.attribution.measured import Measured
from skilloc.effects import Effects
from skilloc.models.language import open_model
from skilloc.study import until
from skilloc.study.settings import Settings
from skilloc.study.until import Goal, Round, measure_until
from skilloc.tasks import Subtask
from skilloc.units import Units, neurons

UNITS = Units((neurons("blocks.0.mlp.hook_post", 300, 0),))
NAMES = ("first", "second")
SUBTASKS = {name: Subtask(name, lambda n, split, seed: None) for name in NAMES}
SETTINGS = Settings(sequences=8, length=10)


@pytest.fixture
def measured(monkeypatch):
    """Stands for the measurement: true effects of size 1, noise that falls with the text. Lists how much was read."""
    read = []

    def measure(opened, subtasks, settings, folder, *, workers):
        read.append(settings.sequences)
        rng = np.random.default_rng(len(read))
        true = np.random.default_rng(0).normal(size=(len(NAMES), len(UNITS)))
        noise = 20 / np.sqrt(settings.sequences) * np.array([[1.0], [0.2]])
        values = true + noise * rng.normal(size=(settings.folds, *true.shape))
        effects = Effects(values, np.ones((settings.folds, 2)), NAMES, UNITS, np.ones(len(UNITS), bool), {})
        return Measured(effects, None)

    monkeypatch.setattr(until, "measure", measure)
    return read


def asked(saved, folder, goal, **changes):
    return measure_until(open_model(str(saved)), SUBTASKS, replace(SETTINGS, **changes), folder, goal)


def test_more_text_is_read_until_the_noisiest_subtask_can_be_relied_on(saved, tmp_path, measured):
    found = asked(saved, tmp_path, Goal(0.5))
    assert found.reached
    assert found.rounds[-1].low >= 0.5 > found.rounds[-2].low
    assert measured == [*(one.sequences for one in found.rounds), found.rounds[-1].sequences]
    for before, after in zip(found.rounds, found.rounds[1:], strict=False):
        assert 2 * before.sequences <= after.sequences <= 8 * before.sequences
        assert after.tokens == after.sequences * 10 * 2
    assert found.record()["rounds"][0]["sequences"] == 8
    # Sets of 3 folds are compared: noise has variance 400 / (3 sequences) on the first subtask, true effects have 1.
    last = found.rounds[-1]
    assert last.reliability == pytest.approx(1 / (1 + 400 / (3 * last.sequences)), abs=0.07)


def test_no_round_is_begun_beyond_the_budget(saved, tmp_path, measured):
    found = asked(saved, tmp_path, Goal(0.9, budget=1000))
    assert not found.reached
    assert all(one.tokens <= 1000 for one in found.rounds)
    assert "was not reached within the budget" in str(found)


def test_the_same_call_goes_on_where_it_stopped(saved, tmp_path, measured):
    first = asked(saved, tmp_path, Goal(0.5))
    measured.clear()
    again = asked(saved, tmp_path, Goal(0.5))
    assert again.rounds == first.rounds
    assert measured == [first.rounds[-1].sequences]
    further = asked(saved, tmp_path, Goal(0.8))
    assert further.rounds[: len(first.rounds)] == first.rounds
    assert len(further.rounds) > len(first.rounds)


@pytest.mark.parametrize(("low", "reliability", "sequences"), [(0.0, 0.001, 80), (0.4, 0.45, 20), (0.2, 0.25, 50)])
def test_the_next_round_is_what_the_formula_asks_for_within_bounds(low, reliability, sequences):
    assert until._next(Round(10, 100, reliability, low), 0.5) == sequences


def test_what_cannot_be_asked(saved, tmp_path, measured):
    with pytest.raises(ValueError, match="`until` is 1"):
        Goal(1.0)
    with pytest.raises(ValueError, match="`folds` is 2"):
        asked(saved, tmp_path, Goal(0.5), folds=2)
    assert not measured
