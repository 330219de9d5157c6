import importlib.util

import numpy as np
import pytest

from skilloc import store
from skilloc.effects import Effects
from skilloc.locality.intervals import mean_interval
from skilloc.units import Units, neurons

UNITS = Units((neurons("blocks.0.mlp.hook_post", 3, 0),))


def make(values, exact=True, **made):
    values = np.asarray(values, dtype=float)
    return Effects(values, np.ones(values.shape[:2]), ("a", "b"), UNITS, np.full(3, exact), made)


def test_round_trip(tmp_path):
    effects = make([[[1, np.nan, 3], [4, np.nan, 6]]], reference={"name": "zero"})
    store.save(effects, tmp_path / "e")
    again = store.load(Effects, tmp_path / "e")
    np.testing.assert_array_equal(again.values, effects.values)
    assert again.measured.tolist() == [True, False, True]
    assert (again.subtasks, again.units, again.made) == (effects.subtasks, effects.units, effects.made)


def test_a_cut_or_altered_file_is_refused(tmp_path):
    store.save(make(np.ones((2, 2, 3))), tmp_path / "e")
    file = tmp_path / "e" / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    for broken in (bytes(data), bytes(data[:-4])):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="e"):
            store.load(Effects, tmp_path / "e")


def test_another_kind_of_result_is_refused(tmp_path):
    store.write(tmp_path / "r", {"what": "removal"}, {})
    with pytest.raises(ValueError, match="not effects"):
        store.load(Effects, tmp_path / "r")


def test_overlay_takes_what_was_measured():
    estimate = make([[[1, 2, 3], [4, 5, 6]]], exact=False)
    exact = make([[[np.nan, 20, np.nan], [np.nan, 50, np.nan]]])
    both = estimate.overlay(exact)
    assert both.values.tolist() == [[[1, 20, 3], [4, 50, 6]]]
    assert both.exact.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="same batches, units and folds"):
        estimate.overlay(make(np.ones((2, 2, 3))))


def test_names_and_shapes():
    effects = make([[[1, 2, 3], [4, 5, 6]], [[3, 2, 1], [4, 5, 6]]])
    assert effects.mean("a").tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match='unknown subtask "c"; these effects have a, b'):
        effects.of("c")
    with pytest.raises(ValueError, match="axes are fold, subtask, unit"):
        Effects(np.ones((1, 2, 3)), np.ones((1, 2)), ("a",), UNITS, np.ones(3, bool))
    with pytest.raises(ValueError, match="name each subtask once"):
        Effects(np.ones((1, 2, 3)), np.ones((1, 2)), ("a", "a"), UNITS, np.ones(3, bool))


def test_a_table_has_a_row_per_measured_unit_and_subtask():
    effects = make([[[1, np.nan, 3], [4, np.nan, 6]], [[2, np.nan, 3], [4, np.nan, 8]]])
    frame = effects.to_frame()
    assert frame.columns.tolist() == ["subtask", "unit", "kind", "layer", "effect", "low", "high", "exact"]
    assert frame[["subtask", "unit", "effect"]].to_numpy().tolist() == [
        ["a", "L0N0", 1.5], ["a", "L0N2", 3.0], ["b", "L0N0", 4.0], ["b", "L0N2", 7.0]
    ]  # fmt: skip
    wanted = mean_interval(np.array([1.0, 2.0]))
    assert frame.loc[0, ["low", "high"]].tolist() == pytest.approx([wanted.low, wanted.high])
    assert make(np.ones((1, 2, 3))).to_frame()["low"].isna().all()


def test_a_notebook_shows_the_largest_and_a_terminal_one_line():
    effects = make([[[1, np.nan, 3], [4, np.nan, 6]]])
    assert repr(effects) == "Effects(2 of 3 units on a, b; 1 folds, in nats)"
    page = effects._repr_html_()
    assert page.index("L0N2") < page.index("L0N0")
    assert "L0N1" not in page


def test_xarray_has_the_same_labels():
    effects = make([[[1, np.nan, 3], [4, np.nan, 6]]])
    if importlib.util.find_spec("xarray") is None:
        with pytest.raises(ModuleNotFoundError, match="pip install xarray"):
            effects.to_xarray()
        return
    found = effects.to_xarray()
    assert float(found.effect.sel(subtask="b", unit="L0N2", fold=0)) == 6
