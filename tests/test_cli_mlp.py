"""The command line on a saved MLP with its world beside it."""

import json
from pathlib import Path

import numpy as np
import pytest

from skilloc import store
from skilloc.ablation import ablation_effects
from skilloc.ablation.removal import Removal
from skilloc.cli import main
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.models.mlp import MLP, save_mlp
from skilloc.study.world import save_world
from skilloc.tasks.parity import parity_subtasks

WORLD = parity_subtasks(8, atoms=2, k=2, composites=[(0, 1)])


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mlp") / "network"
    save_mlp(MLP(10, 2, 12, 3, seed=0), folder)
    save_world(WORLD.values(), folder)
    return folder


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("skilloc: ")]) == 1
    return said[-1]


def test_effects_locality_removal_show(network, tmp_path, capsys):
    out = tmp_path / "study"
    main(["effects", str(network), "--out", str(out), "--sequences", "90", "--folds", "3"])
    effects = store.load(Effects, out / "effects")
    assert effects.subtasks == ("parity_0", "parity_1", "composite_01")
    batches = {name: WORLD[name].draw(90) for name in effects.subtasks}
    wanted = ablation_effects(Experiment(MLP(10, 2, 12, 3, seed=0), batches, folds=3))
    np.testing.assert_allclose(effects.values, wanted.values, atol=1e-7)
    main(["removal", str(network), str(out), "--count", "2", "--draws", "2"])
    main(["show", str(out)])
    capsys.readouterr()
    main(["locality", str(out), "--json"])
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert set(found["scores"]) == set(effects.subtasks)


def test_chosen_and_renamed_subtasks(network, tmp_path):
    out = tmp_path / "study"
    main(["effects", str(network), "--subtask", "composite_01", "easy=parity_1", "--out", str(out), "--folds", "3"])
    assert store.load(Effects, out / "effects").subtasks == ("composite_01", "easy")


def test_refusals(network, tmp_path, capsys):
    said = refused(capsys, "effects", network, "--subtask", "x=parity_9", "--out", tmp_path / "a")
    assert "has parity_0, parity_1, composite_01" in said
    said = refused(capsys, "effects", network, "--subtask", "python", "--out", tmp_path / "a")
    assert "one of parity_0, parity_1, composite_01" in said
    bare = tmp_path / "bare"
    save_mlp(MLP(10, 2, 12, 3, seed=0), bare)
    said = refused(capsys, "effects", bare, "--out", tmp_path / "a")
    assert "save_world(subtasks, folder)" in said


def test_a_study_knows_its_model(network: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    main(["effects", str(network), "--out", str(out), "--folds", "3"])
    main(["removal", str(out), "--count", "2", "--draws", "2"])
    here = store.load(Removal, out / "removal")
    main(["removal", str(network), str(out), "--count", "2", "--draws", "2", "--out", str(tmp_path / "named")])
    np.testing.assert_array_equal(store.load(Removal, tmp_path / "named").values, here.values)
    with pytest.raises(SystemExit):
        main(["removal", str(network), str(out), str(out)])
    with pytest.raises(SystemExit):
        main(["removal"])
