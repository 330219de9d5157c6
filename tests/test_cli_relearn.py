"""`skilloc relearn` on saved networks, and on a tiny language model."""

import json
from pathlib import Path

import numpy as np
import pytest

from skilloc import Mask, store, units_of
from skilloc.cli import main
from skilloc.cli.relearn import sibling_of
from skilloc.models.language import open_model
from skilloc.models.mlp import MLP, save_mlp
from skilloc.pruning import prune
from skilloc.relearning import PLAIN_WAYS, Grid, record
from skilloc.store.progress import counter
from skilloc.study.attacking import AttackSettings
from skilloc.study.relearning import attack_models
from skilloc.study.world import save_world
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.tasks.text import Document, text_subtask
from skilloc.training import TrainConfig, train

WORLD = parity_subtasks(8, atoms=2, k=2)


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mlp")
    network = MLP(10, 2, 24, 3, seed=0)
    held_out = {name: subtask.draw(100, split="selection") for name, subtask in WORLD.items()}
    config = TrainConfig(steps=300, rate=1e-2, evaluate_every=300)
    train(network, parity_stream(WORLD.values(), 64, seed=0), config, evaluate=held_out, progress=False)
    units = units_of(network)
    smaller = prune(network, Mask(units, (units.layers == 0) | (np.arange(len(units)) % 4 > 0)))
    for name, model in {"large": network, "small": smaller, "other": MLP(11, 3, 24, 3, seed=0)}.items():
        save_mlp(model, folder / name)
    save_world(WORLD.values(), folder / "large")
    return {name: folder / name for name in ("large", "small", "other")}


FAST = ["--budgets", "1", "8", "--rates", "0.001", "0.01", "--held-out", "40", "--folds", "4"]
FAST += ["--repair", "4", "--seeds", "2"]


def relearn(networks, out, *more):
    main(["relearn", str(networks["large"]), str(networks["small"]), "--attack", "parity_1", "--out", str(out), *more])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("skilloc: ")]) == 1
    return said[-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*widen `rates`")
def test_a_pruned_network_is_attacked_and_the_same_command_goes_on(networks, tmp_path, capsys, monkeypatch):
    relearn(networks, tmp_path / "out", *FAST)
    told = capsys.readouterr().out
    for word in (
        "original",
        "random mask",
        "never trained",
        "small",
        "never saw",
        "Controls that are missing: plain finetuning",
    ):
        assert word in told
    assert {"small.json", "small.png", "small.svg"} <= {path.name for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("skilloc.relearning.attack.train", None)
    relearn(networks, tmp_path / "out", *FAST, "--json")
    found = json.loads(capsys.readouterr().out)["results"]["small"]
    assert found == store.read_json(tmp_path / "out" / "small.json")
    assert found["verdicts"]["small"]["sentence"] in found["summary"]
    assert found["kept"] == ["parity_0"]


def test_a_corpus_of_the_embedded_model_has_a_sibling_that_never_saw_it(tmp_path, monkeypatch):
    monkeypatch.setattr("skilloc.models.language.ASSETS", tmp_path)
    assert sibling_of("embedded", "python") is None  # not shipped
    for name in ("embedded-without-python", "smollm2-without-python", "embedded-without-verse"):
        (tmp_path / name).mkdir()
    assert sibling_of("embedded", "python") == "embedded-without-python"
    assert sibling_of("embedded", "verse.txt") is None
    assert sibling_of("embedded", "verse") is None
    assert sibling_of("smollm2", "python") is None


@pytest.mark.filterwarnings("ignore:.*widen `rates`")
def test_a_network_that_never_saw_it_is_attacked_in_the_candidates_size(networks, tmp_path):
    large, small = (open_model(networks[name]) for name in ("large", "small"))
    unseen = large._replace(model=MLP(10, 2, 24, 3, seed=5))
    grid = Grid(rates=(1e-2,), budgets=(1, 4), examples=16, held_out=40, folds=4, repair=2, ways=PLAIN_WAYS)
    settings = AttackSettings("parity_1", grid=grid, seeds=(0, 1))
    found = attack_models(large, {"small": small}, tmp_path, WORLD, settings, others={"never saw": unseen})
    models = record(found["small"])["models"]
    assert models["never saw"]["parameters"] == models["small"]["parameters"] < models["original"]["parameters"]


def test_refusals(networks, tmp_path, capsys):
    large, out = networks["large"], tmp_path / "out"
    asked = ["relearn", large, networks["small"], "--out", out]
    assert "the subtasks are parity_0, parity_1" in refused(capsys, *asked, "--attack", "parity_7")
    assert "write NAME=MODEL" in refused(capsys, *asked[:3], *asked[2:], "--attack", "parity_1")  # one model twice
    assert "use a whole number, at least 1" in refused(capsys, *asked, "--attack", "parity_1", "--seeds", "0")
    assert "it is of the self-test" in refused(capsys, *asked, "--attack", "parity_1", "--seed", "3")
    assert "rising" in refused(capsys, *asked, "--attack", "parity_1", "--rates", "0.1", "0.01")
    said = refused(capsys, "relearn", large, networks["other"], "--out", out, "--attack", "parity_1")
    assert "pass the model that it was pruned from first" in said
    said = refused(capsys, "relearn", large, f"original={networks['small']}", "--out", out, "--attack", "parity_1")
    assert "OTHER=MODEL" in said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*widen `rates`")
def test_a_language_model_of_texts(saved, tmp_path, monkeypatch):
    bars = []

    def counted(*about, **more):
        bars.append(counter(*about, **more))
        return bars[-1]

    monkeypatch.setattr("skilloc.relearning.probe.counter", counted)
    opened = open_model(saved)
    units = units_of(opened.model, kinds=["neuron"])
    smaller = opened._replace(model=prune(opened.model, Mask(units, np.arange(len(units)) % 2 > 0)))
    subtasks = {
        name: text_subtask(name, [Document(text * 3 + str(i), f"{name}:{i}") for i in range(60)], encode, length=8)
        for encode in [lambda texts: [[ord(char) % 200 for char in text] for text in texts]]
        for name, text in {"verse": "the cat sat on the mat", "code": "def f(x): return x"}.items()
    }
    grid = Grid(rates=(1e-3, 1e-2), budgets=(1, 4), examples=4, held_out=8, folds=4, repair=2)
    found = attack_models(
        opened, {"smaller": smaller}, tmp_path, subtasks, AttackSettings("code", grid=grid, seeds=(0, 1))
    )
    assert bars
    assert all(bar.done == bar.total for bar in bars)  # what the short list tried besides is not counted
    models = record(found["smaller"])["models"]
    assert set(models) == {"original", "never trained", "random mask", "smaller"}
    assert models["smaller"]["parameters"] == models["random mask"]["parameters"] < models["original"]["parameters"]
    for model in models.values():
        curve = model["sizes"][0]["loss"]["value"]
        assert curve[-1] <= curve[0]


def test_unknown_ways_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(
            ["relearn", "embedded", "embedded", "--attack", "english", "--ways", "odd", "--out", str(tmp_path / "out")]
        )
    assert stopped.value.code == 2
    assert 'unknown `ways` "odd"; use all or plain' in capsys.readouterr().err
