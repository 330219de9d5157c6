"""`skilloc localize` on a saved MLP and on a language model."""

import json
import multiprocessing
import os
import random
import shutil
import socket

import numpy as np
import pytest

from skilloc import store
from skilloc.cli import main
from skilloc.experiment import losses
from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.models.language import digest, open_model
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP, save_mlp
from skilloc.study.draws import subtasks_of
from skilloc.study.world import save_world
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train

WORLD = parity_subtasks(8, atoms=2, k=2, composites=[(0, 1)])
SMALL = ["--steps", "60", "--rate", "0.01", "--examples", "50", "--evaluate-every", "20"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlp") / "network"
    model = MLP(10, 2, 16, 3)
    evaluate = {name: subtask.draw(100, split="selection") for name, subtask in WORLD.items()}
    train(model, parity_stream(WORLD.values(), 100, seed=0), TrainConfig(steps=300, rate=1e-2), evaluate=evaluate)
    save_mlp(model, folder)
    save_world(WORLD.values(), folder)
    return folder


def run(capsys, *arguments):
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skilloc: ")]
    assert len(told) == 1
    return told[0]


def test_a_network_is_localized_like_in_the_library_and_opens_again(network, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["localize", network, "--keep", "composite_01", "--out", out, "--strength", "0.02", *SMALL]
    printed = run(capsys, *asked)
    config = LocalizeConfig(
        TrainConfig(steps=60, rate=1e-2, evaluate_every=20), strength=0.02, examples=50, held_out=64
    )
    wanted, history = localize(
        open_model(network).model,
        [WORLD["composite_01"]],
        config,
        seed=0,
        watched=[WORLD["parity_0"], WORLD["parity_1"]],
    )
    model = open_model(out / "model").model
    assert digest(model) == digest(wanted)
    found = store.read(out / "history")
    assert found.metrics["history"] == json.loads(json.dumps(history.record()))
    live = group_norms(wanted, units_of(wanted)) > 0
    assert 1 < live.sum() < 32
    assert f"live units: {live.sum()} of 32" in printed
    assert f"layers.1.hook_post  {live[16:].sum()} of 16" in printed
    np.testing.assert_array_equal(found.arrays["norms"].values > 0, live)
    for name, row in found.metrics["subtasks"].items():
        batch = WORLD[name].draw(64)
        assert row["kept"] == (name == "composite_01")
        assert row["before"] == pytest.approx(float(losses(open_model(network).model, batch).mean()))
        assert row["after"] == pytest.approx(float(losses(model, batch).mean()))
        assert row["change"]["low"] < row["after"] - row["before"] < row["change"]["high"]
    assert sorted(path.name for path in out.iterdir()) == ["history", "model", "request"]
    # The localized network knows its world, and the same command reads what is there.
    assert list(subtasks_of(open_model(out / "model"), {"x": "parity_0"}, length=1)) == ["x"]
    before = (out / "history" / "metrics.json").stat().st_mtime_ns
    assert run(capsys, *asked) == printed
    assert (out / "history" / "metrics.json").stat().st_mtime_ns == before
    assert json.loads(run(capsys, *asked, "--json"))["live"] == found.metrics["live"]
    said = refused(capsys, *asked, "--seed", "1")
    assert "choose another folder" in said


def test_a_killed_run_goes_on(network, tmp_path, capsys, monkeypatch):
    from skilloc import training
    from skilloc.study import localizing

    monkeypatch.setattr(localizing, "CHECKPOINT_EVERY", 20)
    asked = ["localize", network, "--keep", "composite_01", *SMALL]
    wanted = json.loads(run(capsys, *asked, "--out", tmp_path / "whole", "--json"))
    real, done = training.take_step, 0

    def stop(*arguments):
        nonlocal done
        done += 1
        if done > 45:
            raise KeyboardInterrupt
        return real(*arguments)

    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", stop)
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in [*asked, "--out", out]])
    assert stopped.value.code == 130
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_000000040"]
    found = json.loads(run(capsys, *asked, "--out", out, "--json"))
    assert {**found, "out": ""} == {**wanted, "out": ""}
    # A model without its history is of a call that was killed between the two.
    shutil.rmtree(out / "history")
    found = json.loads(run(capsys, *asked, "--out", out, "--json"))
    assert {**found, "out": ""} == {**wanted, "out": ""}


def test_a_language_model(saved, tmp_path, capsys):
    rng = random.Random(0)
    for kind in ("cat", "dog"):
        lines = [" ".join(f"{kind}{rng.randrange(99)}" for _ in range(60)) for _ in range(60)]
        (tmp_path / f"{kind}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    sources = [f"{kind}={tmp_path}/{kind}.jsonl#text" for kind in ("cat", "dog")]
    out = tmp_path / "out"
    printed = run(
        capsys, "localize", saved, "--subtask", *sources, "--keep", "cat", "--out", out, "--length", "12",
        "--steps", "20", "--rate", "0.02", "--examples", "4", "--held-out", "8", "--evaluate-every", "10",
        "--strength", "0.5", "--units", "neuron", "head",
    )  # fmt: skip
    found = store.read(out / "history").metrics
    assert 0 < sum(found["live"].values()) < sum(found["units"].values()) == 136
    assert "cat (kept)" in printed
    assert "blocks.1.attn.hook_z" in printed
    opened = open_model(out / "model")
    norms = group_norms(opened.model, units_of(opened.model))
    assert (norms > 0).sum() == sum(found["live"].values())
    assert digest(opened.model) == found["model"]
    made = subtasks_of(opened, {"cat": sources[0].partition("=")[2]}, length=12)
    assert float(losses(opened.model, made["cat"].draw(8)).mean()) == pytest.approx(found["subtasks"]["cat"]["after"])


def test_refusals(network, tmp_path, capsys):
    out = tmp_path / "out"
    for more, cure in (
        (["--keep", "parity_9"], "these are parity_0, parity_1, composite_01"),
        (["--keep", "parity_0", "--penalty", "ridge"], "use lasso, half, hoyer or l1"),
        (["--keep", "parity_0", "--solver", "magic"], "use proximal or subgradient"),
        (["--keep", "parity_0", "--optimiser", "lion"], "use adam, adamw or sgd"),
        (["--keep", "parity_0", "--units", "head"], "of kind neuron"),
        (["--keep", "parity_0", "--strength", "-1"], "at least 0"),
        (["--keep", "parity_0", "--count", "4", "--wanted-loss", "0.1"], "give one"),
        (["--keep", "parity_0", "--loss", "0.1"], "write --wanted-loss 0.1"),
        (["--keep", "parity_0", "--loss", "error"], "no gradient"),
        (["--keep", "parity_0", "--steps", "0"], "at least 1"),
        (["--keep", "parity_0", "--spread", "wide"], "use alone, replicated or sharded"),
        (["--keep", "parity_0", "--spread", "sharded"], "start them with torchrun"),
        (["--keep", "parity_0", "--accumulate", "0"], "at least 1"),
    ):
        assert cure in refused(capsys, "localize", network, "--out", out, *more)
        assert not (out / "model").exists()
    run(capsys, "localize", network, "--out", out, "--keep", "parity_0", *SMALL)  # a refusal leaves the folder free


def test_products_in_bfloat16_are_recorded_and_advice_is_printed(network, tmp_path, capsys):
    found = {}
    for products in ("float32", "bfloat16"):
        out = tmp_path / products
        asked = ["localize", network, "--keep", "composite_01", "--out", out, "--products", products, *SMALL]
        assert ("products of" in run(capsys, *asked)) == (products == "bfloat16")
        found[products] = store.read(out / "history")
        assert found[products].spec["settings"]["products"] == products
    assert found["float32"].metrics["history"] != found["bfloat16"].metrics["history"]
    assert 'unknown `products` "half"; use float32 or bfloat16' in refused(
        capsys, *asked[:-1], "20", "--products", "half"
    )


@pytest.mark.slow
def test_two_processes_of_torchrun_leave_what_one_does(network, tmp_path, capsys):
    # Few and small steps: over many, what is rounded otherwise grows.
    small = ["--steps", "20", "--rate", "0.003", "--examples", "50", "--evaluate-every", "10"]
    asked = ["localize", network, "--keep", "composite_01", "--strength", "0.02", "--json", *small]
    one = json.loads(run(capsys, *asked, "--out", tmp_path / "one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def go(place, *more):
        told = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        os.environ.update({**told, "RANK": str(place), "LOCAL_RANK": str(place)})
        main([str(argument) for argument in [*asked, "--out", tmp_path / "two", *more]])

    def in_both(*more):
        context = multiprocessing.get_context("fork")  # which has everything imported already
        made = [context.Process(target=go, args=(place, *more), daemon=True) for place in range(2)]
        for process in made:
            process.start()
        for process in made:
            process.join(120)
        return [process.exitcode for process in made]

    assert in_both() == [2, 2]  # both would do the same
    for _ in range(2):  # the second time it is there already
        assert in_both("--spread", "sharded", "--accumulate", "5") == [0, 0]
    two = store.read(tmp_path / "two" / "history").metrics
    assert two["live"] == one["live"]
    assert two["subtasks"]["composite_01"]["after"] == pytest.approx(one["subtasks"]["composite_01"]["after"], abs=1e-5)
    weights = [dict(open_model(tmp_path / name / "model").model.named_parameters()) for name in ("one", "two")]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name].detach(), value.detach(), atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
