"""Passes of any size give the same numbers; what has no room in memory lies in files, and that changes no byte."""

import tempfile

import numpy as np
import pytest
import torch

from skilloc.ablation import ablation_effects
from skilloc.ablation.injection import injections
from skilloc.attribution import attribution_effects
from skilloc.cli import main
from skilloc.effects import Effects
from skilloc.experiment import Experiment, read_activations
from skilloc.experiment.roomy import roomy
from skilloc.models.language import open_model
from skilloc.models.losses import MAX_LOGITS
from skilloc.models.makers import units_of
from skilloc.store import load
from skilloc.study.memory import entries_within
from skilloc.study.redrawn import redraw
from skilloc.tasks import Examples, fold

REFERENCES = ("zero", "mean", "flat mean", "resample")


@pytest.fixture
def batches(tokens):
    return {name: Examples(part[:, :-1], part[:, 1:]) for name, part in (("a", tokens[:2]), ("b", tokens[2:]))}


@pytest.fixture
def crowded(monkeypatch, tmp_path):
    """A machine whose memory has no room for anything."""
    monkeypatch.setattr("skilloc.experiment.roomy.SHARE", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("reference", REFERENCES)
def test_rows_one_by_one_give_what_all_together_give(llama, batches, reference):
    whole = Experiment(llama, batches, reference=reference, folds=2)
    single = Experiment(llama, batches, reference=reference, folds=2, entries=1)
    assert len(single.blocks) > len(whole.blocks)
    np.testing.assert_allclose(ablation_effects(single).values, ablation_effects(whole).values, atol=2e-6)
    slopes = [attribution_effects(one, curvature=0).values for one in (single, whole)]
    np.testing.assert_allclose(*slopes, atol=2e-6)
    assert single.record()["entries"] == 1
    assert "entries" not in whole.record()


def test_held_values_far_outside_are_found_block_by_block(llama, batches):
    examples, units = fold(batches, 1).examples, units_of(llama)
    far = np.zeros(len(units))
    far[[3, 40]] = 50.0, -80.0
    held = Experiment(llama, batches, reference=far, folds=2).held
    whole = injections(llama, examples, units, held)
    assert {alarm.about for alarm in whole} >= {units.names[3], units.names[40]}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("skilloc.models.losses.MAX_LOGITS", 1)
        single = injections(llama, examples, units, held)
    assert [alarm.about for alarm in single] == [alarm.about for alarm in whole]
    np.testing.assert_allclose([alarm.value for alarm in single], [alarm.value for alarm in whole], rtol=1e-5)


@pytest.mark.parametrize("reference", ["zero", "resample"])
def test_what_lies_in_files_is_the_same_to_the_byte_and_leaves_nothing(llama, batches, reference, request):
    here = ablation_effects(Experiment(llama, batches, reference=reference, folds=2))
    crowded = request.getfixturevalue("crowded")
    there = ablation_effects(Experiment(llama, batches, reference=reference, folds=2))
    assert there.values.tobytes() == here.values.tobytes()
    assert not list(crowded.iterdir())


def test_room_is_what_was_asked_for(crowded):
    like = {"a": torch.zeros(1, dtype=torch.float64), "b": torch.zeros(1, dtype=torch.int32)}
    found = roomy({"a": (3, 4), "b": (0, 2)}, like)
    assert {name: (tuple(one.shape), one.dtype) for name, one in found.items()} == {
        "a": ((3, 4), torch.float64),
        "b": ((0, 2), torch.int32),
    }
    found["a"][1] = 2.0
    assert found["a"].sum() == 8.0


def test_a_disk_without_room_says_so_before_anything_is_written(crowded):
    with pytest.raises(OSError, match=r"(?i)space|large"):
        roomy({"a": (2**40, 2**20)}, {"a": torch.zeros(1, dtype=torch.int8)})


def test_activations_in_another_order(llama, batches):
    examples, units = fold(batches, 1).examples, units_of(llama)
    own = read_activations(llama, examples, units)
    order = torch.tensor([2, 2, 0, 1])[: len(examples)]
    for entries in (None, 1):
        moved = read_activations(llama, examples, units, order=order, entries=entries)
        for hook, value in own.items():
            torch.testing.assert_close(moved[hook][: len(order)], value[order], atol=1e-6, rtol=1e-5)


def test_less_memory_is_fewer_rows_and_too_little_is_refused(llama, batches):
    experiment = Experiment(llama, batches, folds=2)
    row = experiment.folded.examples.positions * experiment.face.widest
    assert entries_within(experiment, 100.0, gradients=True) <= MAX_LOGITS
    found = [entries_within(experiment, gigabytes, gradients=True) // row for gigabytes in (0.602, 0.61, 0.7, 2.0)]
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert all(count & (count - 1) == 0 for count in found)
    assert entries_within(experiment, 0.61, gradients=False) >= entries_within(experiment, 0.61, gradients=True)
    with pytest.raises(ValueError, match=r"`memory` is 0.1, but one row at a time takes 0\.6 GB"):
        entries_within(experiment, 0.1, gradients=False)


@pytest.mark.slow
def test_a_study_within_some_gigabytes_is_the_same_study_in_smaller_passes(tmp_path, capsys):
    few = ["effects", "embedded", "--subtask", "python", "--sequences", "4", "--folds", "4", "--length", "24"]
    few += ["--method", "two-stage", "--sample", "8", "--top", "2", "--curvature", "0", "--reference", "mean"]
    main([*few, "--out", str(tmp_path / "whole")])
    main([*few, "--memory", "0.63", "--out", str(tmp_path / "small")])
    whole, small = (load(Effects, tmp_path / name / "effects") for name in ("whole", "small"))
    assert small.made["entries"] < 4 * 24 * 2048
    np.testing.assert_allclose(small.values, whole.values, atol=2e-6)
    opened = open_model("embedded")
    assert redraw(opened, small).record()["entries"] == small.made["entries"]
    assert "entries" not in redraw(opened, whole).record()
    with pytest.raises(SystemExit):
        main([*few, "--out", str(tmp_path / "small")])
    assert "with passes of another size" in capsys.readouterr().err
