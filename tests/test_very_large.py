"""Results of very many subtasks, units or circuits are shown in bounds, and it is said what is left out."""

from dataclasses import replace

import numpy as np
import pytest
from faults import sizes

from skilloc import store
from skilloc.effects import Effects
from skilloc.report import bounds, write_report
from skilloc.report.scored import locality_of


@pytest.mark.slow
def test_of_very_many_subtasks_the_first_are_shown_and_it_is_said_where_the_rest_is(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "SUBTASKS", 3)
    effects = sizes.make_study(tmp_path, 5, 12)
    found = write_report(tmp_path)
    assert found.about.subtasks == tuple(found.top) == found.removal.subtasks == ("subtask 0", "subtask 1", "subtask 2")
    for name in ("report.html", "summary.md"):
        page = (tmp_path / name).read_text()
        assert "the first 3 of 5 subtasks" in page
        assert "subtask 2" in page
        assert "subtask 3" not in page
    # What is shown does not depend on what is left out.
    few = replace(
        effects, values=effects.values[:, :3], baseline=effects.baseline[:, :3], subtasks=effects.subtasks[:3]
    )
    np.testing.assert_equal(locality_of(few, top=2).between, locality_of(effects, top=2).between)
    assert list(locality_of(effects, top=2).scores) == list(effects.subtasks)
    assert store.load(Effects, tmp_path / "effects").subtasks == effects.subtasks


def test_of_few_subtasks_nothing_is_left_out(tmp_path):
    effects = sizes.make_study(tmp_path, 40, 4)
    assert bounds.first(effects) is effects
    assert not bounds.subtasks_words(40)


MEMORY = {"1000x200": 1300, "200x5000": 1000, "3x100000": 1000}
"""MB that a report takes at its peak, at most, by its subtasks and units."""


@pytest.mark.long
@pytest.mark.parametrize("size", sizes.SIZES)
def test_a_report_of_very_many_subtasks_or_units_stays_small(tmp_path, size):
    subtasks, units = map(int, size.split("x"))
    sizes.make_study(tmp_path, subtasks, units, circuits=min(30, subtasks))
    for line in (("report", tmp_path), ("show", tmp_path, "--json")):
        found = sizes.took(*line)
        assert found.status == 0
        assert found.memory < MEMORY[size]
        assert found.printed < 5
    assert (tmp_path / "report.html").stat().st_size < 10e6
    assert sum(path.stat().st_size for path in (tmp_path / "pictures").iterdir()) < 10e6
