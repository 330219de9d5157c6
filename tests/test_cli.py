"""The command line as a user meets it: a tiny model in a folder, texts in files, commands, results, refusals."""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from skilloc import locality, store
from skilloc.ablation import ablation_effects
from skilloc.cli import COMMANDS, main, tour
from skilloc.cli.effects import sources_of
from skilloc.cli.places import following
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.locality.intervals import Interval, number, said
from skilloc.models.language import open_model
from skilloc.report.record import as_json
from skilloc.study import draws
from skilloc.study.draws import experiment_of, subtasks_of
from skilloc.study.redrawn import redraw
from skilloc.study.settings import Settings
from skilloc.tasks.text import Document

SMALL = ["--sequences", "6", "--length", "12", "--folds", "3", "--workers", "1"]
WORDS = {
    "fish": ["cod", "eel", "ray", "net", "sea", "tide", "fin", "salt", "boat", "hook"],
    "code": ["def", "x = 1", "return", "if y:", "for z in", "lambda", "import", "self.", "()", "pass"],
}


def texts(kind: str, n: int = 150) -> list[str]:
    rng = random.Random(kind)
    return [" ".join(rng.choice(WORDS[kind]) + str(rng.randrange(40)) for _ in range(60)) + "\n" for _ in range(n)]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a tiny model, another one, and texts of two kinds."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    home = tmp_path_factory.mktemp("home")
    for kind in WORDS:
        (home / kind).mkdir()
        for i, text in enumerate(texts(kind)):
            (home / kind / f"{i}.txt").write_text(text)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts("fish", 20) + texts("code", 20), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    shape = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(fast), num_key_value_heads=2, max_position_embeddings=48, initializer_range=0.3, **shape
    )
    for name, seed in (("model", 0), ("other", 1), ("broken", 0)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        if name == "broken":
            model.model.layers[1].mlp.down_proj.weight.data[3, 3] = float("nan")
        model.save_pretrained(home / name)
        fast.save_pretrained(home / name)
    return home


def effects_args(out: Path, *more: object, model: str = "model") -> list[object]:
    return ["effects", model, "--subtask", "fish=fish/*.txt", "code=code/*.txt", "--out", out, *SMALL, *more]


@pytest.fixture(scope="module")
def done(home, tmp_path_factory) -> Path:
    """A finished study of all units."""
    out = tmp_path_factory.mktemp("done") / "study"
    before = Path.cwd()
    os.chdir(home)
    try:
        main([str(arg) for arg in effects_args(out)])
    finally:
        os.chdir(before)
    return out


@pytest.fixture
def study(done, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(done, tmp_path / "study"))


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_effects_are_those_of_the_library(home, done, monkeypatch):
    monkeypatch.chdir(home)
    opened = open_model("model")
    subtasks = subtasks_of(opened, {"fish": "fish/*.txt", "code": "code/*.txt"}, length=12)
    expected = ablation_effects(experiment_of(opened, subtasks, Settings(sequences=6, length=12, folds=3)))
    found = store.load(Effects, done / "effects")
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.baseline, expected.baseline)
    assert not (done / "items").exists()


def test_json_is_all_there_is_on_stdout_and_says_what_the_tables_say(run, study):
    status, out, _ = run("effects", *effects_args(study)[1:], "--json")
    record = json.loads(out)
    assert status == 0
    assert (record["measured"], record["exact"], record["units"]) == (56, 56, 56)
    effects = store.load(Effects, study / "effects")
    best = record["top"]["fish"][0]
    assert best["value"] == pytest.approx(effects.mean("fish").max())
    assert best["unit"] == effects.units.names[int(effects.mean("fish").argmax())]
    _, table, _ = run("effects", *effects_args(study)[1:])
    assert best["unit"] in table
    assert number(best["value"], 3) in table
    assert str(study) in table


def test_locality_removal_and_show_read_a_study(run, study):
    status, out, _ = run("locality", study, "--count", 5, "--json")
    record = json.loads(out)["results"][0]
    assert status == 0
    assert set(record["scores"]) == {"fish", "code"}
    for score in record["scores"]["fish"].values():
        assert set(score) == {"value", "low", "high", "chance"}
    status, out, _ = run("removal", "model", study, "--count", 3, 6, "--draws", 2, "--json")
    removal = json.loads(out)
    assert status == 0
    assert list(removal["sizes"]) == ["3", "6"]
    assert np.array(removal["sizes"]["3"]["loss_increase"]["value"]).shape == (2, 2)
    status, out, _ = run("show", study, "--count", 5)
    assert status == 0
    for words in ("how local", "overlap of effects", "top 6 units removed", "largest effects in nats"):
        assert words in out
    pictures = {path.name for path in (study / "pictures").iterdir()}
    for name in ("units", "sorted", "locality", "entanglement", "removal"):
        assert {f"{name}.png", f"{name}.svg"} <= pictures


@pytest.mark.slow
def test_positions_are_kept_and_shown(run, study, monkeypatch):
    status, out, _ = run("positions", "model", study, "--count", 2, "--json")
    record = json.loads(out)
    assert status == 0
    assert record["positions"] == [str(place) for place in range(12)]
    effects = store.load(Effects, study / "effects")
    needed = effects.units.names[int(effects.mean("fish").argmax())]
    fish = record["subtasks"]["fish"]
    assert needed in fish["units"]
    assert np.array(fish["value"]).shape == (len(fish["units"]), 12)
    status, _, error = run("positions", "model", study, "--count", 2, "--names", "subject", "--out", study / "named")
    assert (status, 'unknown `at` "subject"' in error) == (2, True)
    monkeypatch.setattr("skilloc.study.positioned.position_effects", None)  # calling it would fail
    status, table, _ = run("positions", "model", study, "--count", 2)
    assert status == 0
    assert needed in table
    assert "held at one of 12 positions only" in run("show", study)[1]
    assert (study / "pictures" / "positions.png").is_file()
    assert run("report", study)[0] == 0
    assert "Where does each unit matter?" in (study / "report.html").read_text()
    status, _, error = run("positions", "model", study, "--count", 3)
    assert (status, "other units or another study" in error) == (2, True)


@pytest.mark.slow
def test_check_tries_everything(run):
    status, out, _ = run("check", "model")
    assert status == 0
    lines = out.splitlines()
    assert all(line.startswith("yes") for line in lines)
    for words in ("neurons measured", "heads cut out", "without some residual dimensions, saved padded"):
        assert any(words in line for line in lines)
    record = json.loads(run("check", "model", "--json")[1])
    assert {line["what"] for line in record["lines"]} >= {"opens", "saved as it is", "whole layers measured"}


def test_removal_draws_the_very_tokens_again_and_is_not_measured_twice(run, study, monkeypatch):
    run("removal", "model", study, "--count", 3, "--draws", 2)
    first = contents(study / "removal")
    monkeypatch.setattr("skilloc.study.removing.removal_effects", None)  # calling it would fail
    status, out, _ = run("removal", "model", study, "--count", 3, "--draws", 2)
    assert (status, contents(study / "removal")) == (0, first)
    assert "specificity" in out


def test_removal_can_be_of_one_kind_of_unit_and_refuses_to_mix(run, study, monkeypatch):
    dropped = []
    from skilloc.ablation import removal

    original = removal.mask_effects
    monkeypatch.setattr(
        removal,
        "mask_effects",
        lambda experiment, masks, **kw: dropped.extend(masks) or original(experiment, masks, **kw),
    )
    status, out, _ = run("removal", "model", study, "--count", 3, "--draws", 2, "--units", "head", "--json")
    assert (status, json.loads(out)["units"]) == (0, "heads")
    for mask in dropped:
        assert mask.dropped == 3
        assert {kind for kind, kept in zip(mask.units.kinds, mask.keep, strict=True) if not kept} == {"head"}
    before = contents(study)
    status, _, error = run("removal", "model", study, "--count", 3, "--draws", 2, "--units", "neuron")
    assert (status, "another removal" in error) == (2, True)
    assert contents(study) == before


def test_a_single_subtask_has_locality_removal_and_pictures(run, tmp_path):
    out = tmp_path / "one"
    args = ["--subtask", "fish=fish/*.txt", "--out", out, *SMALL, "--units", "head"]
    assert run("effects", "model", *args)[0] == 0
    assert run("locality", out, "--count", 3)[0] == 0
    status, _, error = run("removal", "model", out, "--count", 2, "--draws", 2)
    assert (status, error) == (0, "")
    status, text, _ = run("show", out, "--count", 3)
    assert status == 0
    assert "top 2 units removed" in text


def test_two_stage_keeps_estimates_and_measures_a_sample_and_the_top(run, tmp_path):
    out = tmp_path / "two"
    status, _, _ = run(*effects_args(out, "--method", "two-stage", "--sample", 10, "--top", 4))
    assert status == 0
    effects, estimate = store.load(Effects, out / "effects"), store.load(Effects, out / "estimate")
    exact = store.load(Effects, out / "exact")
    assert 10 <= effects.exact.sum() <= 10 + 2 * 4
    for subtask in effects.subtasks:
        assert effects.exact[np.argsort(-np.abs(estimate.mean(subtask)))[:4]].all()
    np.testing.assert_array_equal(effects.values[..., effects.exact], exact.values[..., effects.exact])
    np.testing.assert_array_equal(effects.values[..., ~effects.exact], estimate.values[..., ~effects.exact])
    status, text, _ = run("show", out, "--count", 3)
    assert status == 0
    assert "Spearman" in text
    assert (out / "pictures" / "calibration.png").is_file()


def test_an_attribution_stays_an_estimate_and_is_compared_all_the_same(run, tmp_path):
    out = tmp_path / "estimate"
    _, text, _ = run(
        *effects_args(out, "--method", "attribution", "--curvature", 2, "--sample", 12, "--top", 2, "--json")
    )
    record = json.loads(text)
    assert record["exact"] == 0
    assert 8 <= record["calibration"]["fish"]["drawn"] <= 12  # what is sure to be drawn is not counted
    assert abs(record["calibration"]["fish"]["spearman"]["value"]) <= 1


def test_units_can_be_selected(run, tmp_path):
    status, _, _ = run(*effects_args(tmp_path / "a", "--units", "neuron", "--layers", 1, "--sample", 5))
    assert status == 0
    effects = store.load(Effects, tmp_path / "a" / "effects")
    assert effects.measured.sum() == 5
    assert set(effects.units.layers[effects.measured]) == {1}
    run(*effects_args(tmp_path / "b", "--only", "L0H1", "L1N3"))
    effects = store.load(Effects, tmp_path / "b" / "effects")
    assert [n for n, m in zip(effects.units.names, effects.measured, strict=True) if m] == ["L0H1", "L1N3"]


def test_the_top_of_another_study_can_be_measured_on_other_text(run, study, tmp_path):
    status, _, _ = run(*effects_args(tmp_path / "top", "--top", 2, "--of", study, "--split", "selection"))
    assert status == 0
    ranking, found = store.load(Effects, study / "effects"), store.load(Effects, tmp_path / "top" / "effects")
    wanted = {int(u) for s in ranking.subtasks for u in np.argsort(-np.abs(ranking.mean(s)))[:2]}
    assert set(np.flatnonzero(found.measured)) == wanted
    assert found.made["tokens"] != ranking.made["tokens"]


@pytest.mark.parametrize("reference", ["mean", "flat mean", "resample"])
def test_references_differ_and_their_spread_is_printed(run, study, tmp_path, reference):
    status, _, _ = run(*effects_args(tmp_path / reference, "--reference", reference))
    assert status == 0
    found = store.load(Effects, tmp_path / reference / "effects")
    assert not np.allclose(found.values, store.load(Effects, study / "effects").values)
    _, out, _ = run("locality", study, tmp_path / reference, "--count", 5, "--json")
    record = json.loads(out)
    assert record["spread"]["references"] == ["zero", reference]
    masses = [result["scores"]["fish"]["mass"]["value"] for result in record["results"]]
    place = locality.NAMES.index("mass")
    assert [row[place] for row in record["spread"]["subtasks"]["fish"]["values"]] == pytest.approx(masses)


def test_the_mean_reference_comes_from_other_text_than_the_measured(run, tmp_path):
    run(*effects_args(tmp_path / "mean", "--reference", "mean", "--only", "L0N0"))
    made = store.load(Effects, tmp_path / "mean" / "effects").made
    assert made["reference"]["made"]["tokens"].keys() == made["tokens"].keys()
    assert set(made["reference"]["made"]["tokens"].values()).isdisjoint(made["tokens"].values())


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same_and_repeats_nothing(home, done, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "skilloc", *map(str, effects_args(out))]
    process = subprocess.Popen(command, cwd=home, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while len(list((out / "items").glob("*/manifest.json")) if (out / "items").is_dir() else []) < 2:
        assert time.monotonic() < deadline
        if process.poll() is not None:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name for path in (out / "items").iterdir() if not path.name.startswith(".")}
    finished = (out / "effects").is_dir()  # on a fast machine it may have run to its end
    measured = []
    from skilloc.ablation.prober import Prober

    original = Prober.effects
    monkeypatch.setattr(
        Prober,
        "effects",
        lambda self, hook, units: measured.append((hook, tuple(units))) or original(self, hook, units),
    )
    monkeypatch.chdir(home)
    main([str(arg) for arg in effects_args(out)])
    everything = 6  # 24 neurons in two pieces and 4 heads in one, in each of 2 layers
    if not finished:
        assert len(measured) == everything - len(kept)
    np.testing.assert_array_equal(
        store.load(Effects, out / "effects").values, store.load(Effects, done / "effects").values
    )
    assert not (out / "items").exists()


def test_a_time_budget_ends_early_and_the_same_command_goes_on(run, tmp_path, done):
    out = tmp_path / "budget"
    status, text, _ = run(*effects_args(out, "--seconds", 0, "--json"))
    assert (status, json.loads(text)["measured"]) == (0, 0)
    status, text, _ = run(*effects_args(out, "--seconds", 600, "--json"))
    assert (status, json.loads(text)["measured"]) == (0, 56)
    np.testing.assert_array_equal(
        store.load(Effects, out / "effects").values, store.load(Effects, done / "effects").values
    )


def test_a_loss_positions_and_kinds_are_those_of_the_library(run, home, tmp_path):
    given = ["--loss", "error", "--at", "last", "--units", "layer", "--reference", "mean"]
    status, out, error = run(*effects_args(tmp_path / "study", *given))
    assert (status, error) == (0, "")
    assert "error in share" in out
    assert ", at last positions" in out
    opened = open_model("model")
    subtasks = subtasks_of(opened, {"fish": "fish/*.txt", "code": "code/*.txt"}, length=12)
    experiment = Experiment(
        opened.model, subtasks, kinds=("layer",), loss="error", at="last", reference="mean", folds=3, count=6
    )
    found = store.load(Effects, tmp_path / "study" / "effects")
    np.testing.assert_array_equal(found.values, ablation_effects(experiment).values)
    assert (found.unit, set(found.units.kinds)) == ("share", {"layer"})
    again = redraw(opened, found)  # a result knows its loss and positions
    assert (again.metric.name, again.at, again.reference) == ("error", "last", "mean")
    assert again.held.record() == experiment.held.record()


def test_a_loss_of_ones_own_is_named_by_its_module(run, home, tmp_path):
    source = "def doubled(logits, examples):\n    return 2 * skilloc.losses.cross_entropy(logits, examples)\n"
    (home / "mine.py").write_text(f"import skilloc\n\n\n{source}")
    try:
        status, _, error = run(*effects_args(tmp_path / "mine", "--loss", "mine:doubled", "--units", "head"))
        assert (status, error) == (0, "")
        run(*effects_args(tmp_path / "plain", "--units", "head"))
        found, plain = (store.load(Effects, tmp_path / name / "effects") for name in ("mine", "plain"))
        np.testing.assert_allclose(found.values, 2 * plain.values, atol=1e-6)
        assert found.made["loss"]["identity"].startswith("mine.doubled ")
        assert run("removal", "model", tmp_path / "mine", "--count", 2, "--draws", 2)[0] == 0
    finally:
        sys.modules.pop("mine", None)


def test_the_type_of_the_weights_is_a_setting_and_auto_finds_a_device(run, tmp_path):
    for dtype in ("float64", "bfloat16"):
        given = ["--dtype", dtype, "--device", "auto", "--units", "head"]
        assert run(*effects_args(tmp_path / dtype, *given))[0] == 0
    exact, rough = (store.load(Effects, tmp_path / dtype / "effects") for dtype in ("float64", "bfloat16"))
    assert exact.made["model"] != rough.made["model"]
    np.testing.assert_allclose(rough.baseline, exact.baseline, rtol=0.05)


def test_a_map_spreads_a_model_and_changes_no_number(run, home, tmp_path):
    assert run(*effects_args(tmp_path / "map", "--device-map", "auto", "--units", "head"))[0] == 0
    assert run(*effects_args(tmp_path / "one", "--units", "head"))[0] == 0
    found, wanted = (store.load(Effects, tmp_path / name / "effects") for name in ("map", "one"))
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-6)


def test_a_map_needs_accelerate(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, error = run(*effects_args(tmp_path / "map", "--device-map", "auto"))
    assert (status, "pip install accelerate" in error) == (2, True)


REFUSED = {
    "unknown unit kind": (["effects", "model", "--units", "nerve"], "units of kind .*neuron"),
    "unknown method": (["effects", "model", "--method", "magic"], "two-stage"),
    "unknown reference": (["effects", "model", "--reference", "nine"], "resample"),
    "unknown loss": (["effects", "model", "--loss", "perplexity"], "cross_entropy, .* or package.module:function"),
    "loss in no module": (["effects", "model", "--loss", "nowhere:f"], 'no module "nowhere"'),
    "loss not in its module": (["effects", "model", "--loss", "json:f"], "name a function"),
    "loss that is no function": (["effects", "model", "--loss", "json:decoder"], "name a function"),
    "loss without its field": (["effects", "model", "--loss", "logit_difference"], '"wrong"'),
    "loss without a gradient": (["effects", "model", "--method", "attribution", "--loss", "error"], "ablation"),
    "unknown positions": (["effects", "model", "--at", "subject"], "all, scored, last"),
    "pairs without pairs": (["effects", "model", "--reference", "paired"], "paired"),
    "kinds that overlap": (["effects", "model", "--units", "neuron", "layer"], "axes of their own"),
    "unknown device": (["effects", "model", "--device", "cuda:9"], "cpu.* or auto"),
    "unknown type": (["effects", "model", "--dtype", "int8"], "float64"),
    "map and device": (["effects", "model", "--device", "auto", "--device-map", "auto"], "leave `device` out"),
    "unknown map": (["effects", "model", "--device-map", "nine"], "balanced"),
    "unknown split": (["effects", "model", "--split", "best"], "report"),
    "unknown unit": (["effects", "model", "--only", "L9N9"], "L0H0"),
    "unknown layer": (["effects", "model", "--layers", "7"], r"layers \[0, 1\]"),
    "no such model": (["effects", "nosuch"], "smollm2"),
    "empty glob": (["effects", "model", "--subtask", "a=none/*.txt"], "quote it in the shell"),
    "no such file": (["effects", "model", "--subtask", "a=none.txt"], "existing file"),
    "not a subtask": (["effects", "model", "--subtask", "fish"], "NAME=SOURCE"),
    "subtask twice": (["effects", "model", "--subtask", "a=x", "--subtask", "a=y"], "name of its own"),
    "subtask without tokens": (["effects", "model", "--subtask", "a=empty.txt"], "more documents"),
    "too long": (["effects", "model", "--length", "49"], "at most"),
    "too many folds": (["effects", "model", "--folds", "9", "--sequences", "8"], "sequence of its own"),
    "NaN weights": (["effects", "broken", "--subtask", "fish=fish/*.txt"], "NaN"),
    "nothing to measure": (["effects", "model", "--sample", "0"], "every unit"),
    "nothing to rank by": (["effects", "model", "--top", "3"], "two-stage"),
    "nothing there": (["locality", "nowhere"], "skilloc effects"),
    "nothing named": (["locality"], "."),
    "no study to show": (["show", "fish"], "skilloc effects"),
    "no study to remove from": (["removal", "model", "fish"], "skilloc effects"),
    "unknown download": (["fetch", "gpt9"], "smollm2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_users_error_is_two_lines_at_most_with_its_cure(run, home, tmp_path, case):
    (home / "empty.txt").write_text("")
    args, cure = REFUSED[case]
    if args[0] == "effects":
        args = [*args, "--out", str(tmp_path / "out"), *([] if "--length" in args else ["--length", "12"])]
        args += [] if "--subtask" in args else ["--subtask", "fish=fish/*.txt"]
    status, out, error = run(*args)
    assert (status, out) == (2, "")
    lines = error.strip().splitlines()
    if case != "nothing named":  # there, tyro draws a box around what is missing
        assert len(lines) <= 2, error
    assert "Traceback" not in error
    assert re.search(cure, error), error


def test_a_wrong_reference_shape_is_refused_by_the_library(home, monkeypatch):
    monkeypatch.chdir(home)
    opened = open_model("model")
    subtasks = subtasks_of(opened, {"fish": "fish/*.txt"}, length=12)
    with pytest.raises(ValueError, match="one value per unit"):
        ablation_effects(Experiment(opened.model, subtasks, reference=np.zeros(5), folds=3, count=3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["MODEL"], "another model"),
        (["--seed", "1"], "`seed` 0 and not 1"),
        (["--sequences", "7"], "`sequences` 6 and not 7"),
        (["--units", "head"], "other units"),
        (["--reference", "mean"], "`reference` zero and not mean"),
        (["--folds", "2"], "`folds` 3 and not 2"),
        (["--method", "attribution"], "`method` ablation and not attribution"),
        (["--only", "L0N0"], "`only`"),
        (["--subtask", "third=fish/*.txt"], "of subtasks"),
        (["TEXT"], "other tokens"),
    ],
)
def test_a_folder_of_another_study_is_refused_and_untouched(run, study, change, said):
    before = contents(study)
    args = effects_args(study)
    if change == ["MODEL"]:
        args[1] = "other"
    elif change == ["TEXT"]:
        args[3] = "fish=code/*.txt"
    else:
        args += change
    status, out, error = run(*args)
    assert (status, out) == (2, "")
    assert said in error
    assert "choose another folder" in error
    assert len(error.strip().splitlines()) <= 2
    assert contents(study) == before


def test_a_study_that_was_refused_leaves_its_folder_free(run, tmp_path):
    assert run(*effects_args(tmp_path / "out", model="broken"))[0] == 2
    assert run(*effects_args(tmp_path / "out", "--only", "L0N0"))[0] == 0


def test_a_file_is_no_folder(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, error = run(*effects_args(tmp_path / "file"))
    assert (status, "is a file" in error) == (2, True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_one_line_without_the_systems_number(run, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    status, _, error = run(*effects_args(tmp_path / "out"))
    assert status == 2
    assert "No space left on device" in error
    assert "Errno" not in error
    assert len(error.strip().splitlines()) == 1


def test_a_folder_of_other_files_is_refused_and_untouched(run, home, tmp_path):
    before = contents(home / "fish")
    status, _, error = run(*effects_args(home / "fish"))
    assert status == 2
    assert "empty or a new folder" in error
    assert contents(home / "fish") == before


def test_removal_refuses_another_model_and_texts_that_have_changed(run, home, study):
    status, _, error = run("removal", "other", study, "--count", 3)
    assert (status, "open model" in error) == (2, True)
    path = next((home / "fish").iterdir())
    text = path.read_text()
    try:
        # Another text moves the rows that are drawn, wherever it is put.
        for file in (home / "fish").iterdir():
            file.write_text("wet " + file.read_text())
        status, _, error = run("removal", "model", study, "--count", 3)
    finally:
        for file in (home / "fish").iterdir():
            file.write_text(file.read_text().removeprefix("wet "))
    assert path.read_text() == text
    assert status == 2
    assert "measure the effects again" in error
    assert not (study / "removal").exists()


@pytest.mark.parametrize("part", ["effects/tensors.safetensors", "effects/spec.json", "effects/manifest.json"])
def test_a_cut_result_is_refused(run, study, part):
    path = study / part
    path.write_bytes(path.read_bytes()[:-7])
    status, _, error = run("locality", study)
    assert status == 2
    assert "cut or altered" in error
    assert len(error.strip().splitlines()) <= 2


def test_a_bug_keeps_its_traceback(run, study, monkeypatch):
    def wrong(*_: object, **__: object) -> None:
        np.zeros(3) + np.zeros(4)  # a ValueError of numpy's, not one that skilloc raised

    monkeypatch.setattr("skilloc.locality.table", wrong)
    with pytest.raises(ValueError, match="broadcast"):
        run("locality", study)


def test_an_interrupt_says_what_is_kept(run, study, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skilloc.locality.table", stop)
    status, _, error = run("locality", study)
    assert status == 130
    assert "goes on" in error


def test_every_command_has_help(run):
    for name in COMMANDS:
        status, out, _ = run(name, "--help")
        assert status == 0
        assert f"skilloc {name}" in out


def test_sources_are_read_and_built_in_ones_are_the_default():
    assert sources_of([]) == {"python": "python", "cpp": "cpp", "english": "english"}
    assert sources_of([["a=b=c", "cpp"], ["x=y/*.txt"]]) == {"a": "b=c", "cpp": "cpp", "x": "y/*.txt"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.5, "0.500"), (1234.6, "1,235"), (-0.0123, "−0.0123"), (0.1, "0.100"), (float("nan"), "–")],
)
def test_numbers_in_tables(value, text):
    assert number(value, 3) == text


def test_a_narrow_terminal_cuts_no_number(run, study, monkeypatch):
    from rich.console import Console

    from skilloc.cli import printed

    _, wide, _ = run("locality", study, "--count", 5)
    monkeypatch.setattr(printed, "_console", lambda: Console(highlight=False, width=50, soft_wrap=False))
    _, narrow, _ = run("locality", study, "--count", 5)
    assert "…" not in narrow
    numbers = re.compile(r"[0-9][0-9.,]*[0-9]")
    assert set(numbers.findall(wide)) <= set(numbers.findall(narrow))


def test_intervals_in_tables():
    score = Interval(0.634, 0.58, 0.67, 0.1)
    assert said(score, 3) == "0.634 [0.580, 0.670]"
    assert said(score._replace(value=float("nan"))) == "–"


@pytest.mark.slow
def test_the_quick_demo_is_exact_where_it_says_so_and_shows_numbers_first(home, tmp_path, monkeypatch):
    monkeypatch.setattr(
        draws, "documents", lambda name: [Document(name + text, f"{name}:{i}") for i, text in enumerate(texts("code"))]
    )
    settings = replace(tour.QUICK.settings, sequences=6, length=12, folds=6, sample=8, top=4)
    plan = replace(tour.QUICK, settings=settings, sizes=(10,), circuit=tour.QUICK.circuit._replace(n=4))
    lines: list[str] = []
    found = tour.run_demo(tmp_path, plan=plan, model=str(home / "model"), report=lines.append)
    assert found.about.exact < found.about.measured == found.about.units
    effects = store.load(Effects, tmp_path / "effects")
    units = effects.units
    cheap = np.isin(units.kinds, "head") | (units.layers == units.layers.max())
    assert effects.exact[cheap].all()
    assert not (tmp_path / "items").exists()
    told = [line for line in lines if line.startswith("  python: loss ")]
    assert len(told) == 1
    assert lines.index(told[0]) < next(i for i, line in enumerate(lines) if line.startswith("measuring exactly"))


@pytest.mark.slow
def test_the_demo_measures_draws_and_writes_a_page_from_its_numbers(home, tmp_path, monkeypatch):
    kinds = {"python": "code", "cpp": "fish", "english": "fish"}
    monkeypatch.setattr(
        draws,
        "documents",
        lambda name: [Document(name + text, f"{name}:{i}") for i, text in enumerate(texts(kinds[name]))],
    )
    plan = replace(tour.FULL, settings=Settings(sequences=6, length=12, folds=6))
    lines: list[str] = []
    folder = tmp_path / "demo"
    found = tour.run_demo(folder, model=str(home / "model"), plan=plan, report=lines.append)
    assert found.about.measured == found.about.exact == found.about.units
    assert found.calibration["python"].drawn == found.about.units
    steps = [line for line in lines if not line.startswith("no circuit of ")]  # of what an untrained model cannot do
    assert len(steps) == 6
    report = (folder / "report.html").read_bytes()
    best = found.top["python"][0].unit
    assert best.encode() in report
    page = (folder / "summary.md").read_text()
    for words in ("How local", "same units", "What is lost", "gradients", "does not say"):
        assert words in page
    assert best in page
    pictures = {path.name for path in (folder / "pictures").glob("*.png")}
    assert pictures == set(re.findall(r"pictures/(\w+\.png)", page))
    assert {"units.png", "locality.png", "entanglement.png", "removal.png", "calibration.png"} <= pictures
    monkeypatch.setattr("skilloc.study.measure.ablation_effects", None)  # nothing is measured again
    monkeypatch.setattr("skilloc.cli.tour.attribution_effects", None)
    again = tour.run_demo(folder, model=str(home / "model"), plan=plan)
    assert (folder / "summary.md").read_text() == page
    assert (folder / "report.html").read_bytes() == report
    np.testing.assert_equal(as_json(again), as_json(found))


def test_the_next_command_is_one_that_a_shell_takes():
    assert following("show", Path("my runs")) == "next: skilloc show 'my runs'"
