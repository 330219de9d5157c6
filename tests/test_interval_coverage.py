"""Printed intervals hold the truth, in benign worlds and in hard ones."""

import pytest

from _frame import Cells
from interval_coverage import BENIGN, LEAST, WORLDS, coverage, draw, measure, table


def problems(name: str, repetitions: int, least: float) -> dict[str, tuple[float, float]]:
    """Numbers whose printed intervals hold the truth too seldom, where they are printed often enough to tell."""
    found = coverage(WORLDS[name], repetitions)
    return {n: both for n, both in found.items() if (1 - both[1]) * repetitions >= 20 and both[0] < least}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_printed_intervals_hold_the_truth(name):
    assert problems(name, 40, 0.80) == {}  # 40 repetitions: 0.90 less two standard errors


@pytest.mark.slow
@pytest.mark.parametrize("name", BENIGN)
def test_in_benign_worlds_nearly_all_is_printed(name):
    withheld = {number: both[1] for number, both in coverage(WORLDS[name], 20).items()}
    assert max(withheld.values()) <= 0.1, withheld


@pytest.mark.long
@pytest.mark.parametrize("name", WORLDS)
def test_printed_intervals_hold_the_truth_in_2000_repetitions(name):
    assert problems(name, 2000, LEAST) == {}


def test_the_record_becomes_a_table_and_a_figure(monkeypatch, tmp_path):
    monkeypatch.setattr("interval_coverage.WORLDS", {"3 folds": WORLDS["3 folds"]})
    record = measure(2, Cells(tmp_path))
    assert "| mass |" in table(record)
    assert draw(record).axes
