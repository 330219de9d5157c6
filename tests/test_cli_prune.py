"""`skilloc prune` as a user meets it: an MLP with its world, a tiny language model with texts."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from skilloc import store
from skilloc.cli import main
from skilloc.effects import Effects
from skilloc.experiment import losses
from skilloc.models.language import open_model
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP, save_mlp
from skilloc.pruning import Curve
from skilloc.study.world import open_world, save_world
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train


@pytest.fixture(scope="module")
def home(tmp_path_factory, saved) -> Path:
    """A folder with a trained network, a tiny Llama, and the effects of both on the selection split."""
    home = tmp_path_factory.mktemp("home")
    world = parity_subtasks(8, atoms=2, k=2, composites=[(0, 1)])
    network = MLP(10, 2, 16, 3)
    evaluate = {name: subtask.draw(100, split="selection") for name, subtask in world.items()}
    config = TrainConfig(500, rate=1e-2)
    train(network, parity_stream(world.values(), 100, seed=0), config, evaluate=evaluate, progress=False)
    save_mlp(network, home / "mlp")
    save_world(world.values(), home / "mlp")
    rng = random.Random(0)
    words = ["cat", "sat", "mat", "def", "return", "void", "x", "int"]
    for i in range(60):
        (home / f"{i}.txt").write_text(" ".join(rng.choice(words) + str(rng.randrange(9)) for _ in range(60)))
    (home / "llama").symlink_to(saved)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        small = ["--folds", "4", "--split", "selection", "--workers", "1"]
        main(["effects", "mlp", "--out", "effects", "--sequences", "400", *small])
        texts = ["--subtask", "text=*.txt", "--sequences", "4", "--length", "12"]
        main(["effects", "llama", "--out", "text", *texts, *small])
        main(["effects", "llama", "--out", "some", "--only", "L0N1", *texts, *small])
    return home


def test_a_network_is_pruned_saved_and_reported(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ("prune", "mlp", "effects", "--count", 12, "--keep", "parity_0", "--draws", 3, "--out", out)
    status, printed, error = run(*arguments, "--json")
    assert (status, error) == (0, "")
    record = json.loads(printed)
    opened = open_model(out / "model")
    assert len(units_of(opened.model)) == 12 + record["zeros"]
    assert record["split"] == "report"  # units were chosen on selection
    assert open_world(out / "model").keys() == {"parity_0", "parity_1", "composite_01"}
    curve = store.load(Curve, out / "curve")
    effects = store.load(Effects, Path("effects/effects"))
    scores = np.abs(effects.mean("parity_0"))
    kept = curve.masks[curve.kept.tolist().index(12)].keep
    assert scores[kept].min() >= scores[~kept].max()
    batch = open_world("mlp")["parity_0"].draw(400, split="report")
    found = record["subtasks"]["parity_0"]
    assert found["loss"]["after"]["value"] == pytest.approx(losses(opened.model, batch).mean().item(), abs=1e-5)
    assert found["loss"]["before"]["value"] == pytest.approx(losses(open_model("mlp").model, batch).mean().item())
    at = curve.kept.tolist().index(12)
    assert found["loss"]["after"]["value"] == pytest.approx(curve.losses[at, :, 0].mean(), abs=1e-5)
    assert found["loss"]["random"]["value"] == pytest.approx(curve.random_losses[:, at, :, 0].mean())
    assert found["accuracy"]["after"]["value"] > found["accuracy"]["random"]["value"]
    assert record["parameters"]["after"] == sum(p.numel() for p in opened.model.parameters())
    assert (out / "curve.png").stat().st_size > 0
    # Again: nothing is measured twice, and the tables say the same.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skilloc.study.pruning.mask_curve", None)  # calling it would fail
        status, table, _ = run(*arguments)
    assert status == 0
    assert "parity_1 (not kept)" in table
    assert "accuracy" in table
    # Another question is refused, before a model is read.
    monkeypatch.setattr("skilloc.cli.machine.Machine.open", None)  # calling it would fail
    status, _, error = run(*arguments[:4], 10, *arguments[5:])
    assert (status, "choose another folder" in error) == (2, True)


def test_the_smaller_model_is_measured_like_any_other(run, tmp_path):
    run("prune", "mlp", "effects", "--share", 0.5, "--out", tmp_path / "out")
    status, out, _ = run(
        "effects", tmp_path / "out/model", "--subtask", "parity_0", "--out", tmp_path / "again", "--sequences", 100,
        "--workers", 1, "--json",
    )  # fmt: skip
    assert status == 0
    assert 16 <= json.loads(out)["units"] < 32


def test_iterative_pruning_measures_again(run, tmp_path):
    status, out, _ = run("prune", "mlp", "effects", "--count", 8, "--iterative", 4, "--out", tmp_path / "a", "--json")
    assert status == 0
    status, shown, _ = run("show", tmp_path / "a")  # a folder without effects says what it is
    assert status == 0
    assert "8 of 32 units kept" in shown
    status, _, error = run("locality", tmp_path / "a")
    assert status == 2
    assert "written by `skilloc prune`" in error
    again = json.loads(out)
    assert not (tmp_path / "a" / "items").exists()
    run("prune", "mlp", "effects", "--count", 8, "--out", tmp_path / "b")
    first, second = (store.load(Curve, tmp_path / name / "curve") for name in "ab")
    masks = [curve.masks[curve.kept.tolist().index(8)].keep for curve in (first, second)]
    assert (masks[0] != masks[1]).any()
    assert first.kept.min() == 8
    assert again["kept"] == 8


@pytest.mark.parametrize("more", [(), ("--units", "neuron"), ("--per-layer", "--signed")])
def test_a_language_model_is_pruned_saved_and_opened(run, tmp_path, more):
    out = tmp_path / "out"
    status, printed, error = run("prune", "llama", "text", "--share", 0.6, "--draws", 2, "--out", out, *more, "--json")
    assert (status, error) == (0, "")
    record = json.loads(printed)
    opened = open_model(out / "model")
    units = units_of(opened.model, kinds=more[1:] if "--units" in more else ("neuron", "head"))
    assert len(units) == record["kept"] + record["zeros"]
    assert dict(zip(units.hooks, units.widths, strict=True)) == record["widths"]
    assert "accuracy" not in record["subtasks"]["text"]
    assert record["parameters"]["after"] < record["parameters"]["before"]
    with torch.no_grad():
        assert torch.isfinite(opened.model(torch.arange(12)[None])).all()


def test_names_and_numbers_are_refused_before_a_model_is_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr("skilloc.cli.machine.Machine.open", None)  # calling it would fail
    out = ("--out", tmp_path / "out")
    for arguments, cure in {
        ("mlp", "effects", "--count", 99): "keep 1 to 32",
        ("mlp", "effects", "--count", 8, "--keep", "parity_9"): "these effects have parity_0",
        ("mlp", "effects", "--count", 8, "--units", "neurons"): "among these 32; use neuron",
        ("llama", "text", "--count", 60, "--reference", "mean"): "from position to position; prune at zero",
        ("llama", "text", "--count", 60, "--reference", "paired"): "to example; prune at zero (--reference zero)",
    }.items():
        status, _, error = run("prune", *arguments, *out)
        assert (status, cure in error) == (2, True), error


def test_refusals_are_one_line_and_say_what_to_do(run, tmp_path):
    out = ("--out", tmp_path / "out")
    for arguments, cure in {
        ("prune", "mlp", "effects"): "give `count`",
        ("prune", "mlp", "effects", "--count", 3, "--share", 0.5): "not both",
        ("prune", "mlp", "effects", "--share", 1.5): "at most 1",
        ("prune", "mlp", "effects", "--count", 99): "keep 1 to 32",
        ("prune", "mlp", "effects", "--count", 8, "--curve", 99): "keep 1 to 32",
        ("prune", "mlp", "effects", "--count", 8, "--keep", "parity_9"): "these effects have parity_0",
        ("prune", "mlp", "effects", "--count", 8, "--iterative", 0): "at least 1",
        ("prune", "llama", "effects", "--count", 8): "is not the model",
        ("prune", "llama", "some", "--count", 8): "measure all of them",
        ("prune", "llama", "text", "--count", 60, "--reference", "flat mean"): "without a bias",
        ("prune", "llama", "text", "--count", 60, "--reference", "mean"): "from position to position; prune at zero",
        (
            "prune",
            "llama",
            "text",
            "--count",
            60,
            "--reference",
            "resample",
        ): "to example; prune at zero (--reference zero)",
        ("prune", "mlp", "nothing", "--count", 8): "skilloc effects",
    }.items():
        status, printed, error = run(*arguments, *out)
        assert (status, printed) == (2, ""), arguments
        assert cure in error, error
        assert len(error.strip().splitlines()) <= 2
        assert "Traceback" not in error
