"""`skilloc export`: folders for plain transformers with their cards, and GGUF files."""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_relearning_verdict import made

from skilloc import store
from skilloc.cli import main
from skilloc.masks import Mask, sample
from skilloc.models.gguf_file import check_gguf, write_gguf
from skilloc.models.language import digest, open_model
from skilloc.models.makers import save_model, units_of
from skilloc.models.reading import read_gguf, read_plain
from skilloc.models.saving import plain_shape
from skilloc.pruning import prune
from skilloc.pruning.handed import Made
from skilloc.pruning.reading import load_localized
from skilloc.relearning import ORIGINAL, UNSEEN
from skilloc.report.handed import _step

WORDS = ["cat", "sat", "mat", "def", "return", "void", "x", "int"]


@pytest.fixture(scope="module")
def home(tmp_path_factory, saved) -> Path:
    """A tiny Llama that was localized for one text and pruned for it, and what an attack on it found."""
    home = tmp_path_factory.mktemp("home")
    rng = random.Random(0)
    for name in ("one", "two"):
        (home / name).mkdir()
        for i in range(60):
            text = " ".join(rng.choice(WORDS) + str(rng.randrange(9)) for _ in range(60))
            (home / name / f"{i}.txt").write_text(text)
    (home / "llama").symlink_to(saved)
    texts = ["--subtask", "one=one/*.txt", "two=two/*.txt", "--length", "12"]
    short = ["--steps", "4", "--evaluate-every", "2", "--examples", "4", "--held-out", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        main(["localize", "llama", "--keep", "one", "--out", "narrow", "--strength", "0.01", *texts, *short])
        small = ["--folds", "4", "--split", "selection", "--workers", "1", "--sequences", "4"]
        main(["effects", "narrow/model", "--out", "effects", "--units", "neuron", *texts, *small])
        main(["prune", "effects", "--share", "0.6", "--keep", "one", "--draws", "2", "--out", "small"])
    # What an attack would leave: the models' digests, and losses whose verdict is known.
    asked = {"what": "relearning study", "model": {"it": digest(open_model(home / "small/model").model)}}
    store.write(home / "gone" / "request", asked, {})
    store.save(made({ORIGINAL: [0, 0, 0, 0], UNSEEN: [1, 1, 1, 1], "it": [1, 1, 0.8, 0.5]}), home / "gone" / "it")
    return home


@pytest.mark.slow
def test_finetuning_without_a_penalty_is_called_that(home):
    found = load_localized(home / "narrow")
    assert _step(Made({"strength": 0.0}, found)) == "Finetuned on one, without a penalty: 4 steps."
    assert _step(Made({"strength": 0.01}, found)).startswith("Localized: ")


@pytest.mark.slow
def test_a_narrow_model_is_handed_over_with_its_card(run, home, tmp_path):
    out = tmp_path / "out"
    status, printed, error = run("export", "llama", "narrow", "small", "--attacks", "gone", "--out", out, "--gguf")
    assert (status, "Traceback" in error) == (0, False)
    wanted = open_model(home / "small/model").model
    inputs = torch.arange(40).view(2, 20)
    with torch.no_grad():
        for found in (read_plain(out), read_gguf(out / "model.gguf", dtype=torch.float32).model):
            torch.testing.assert_close(found(inputs).logits, wanted(inputs), atol=1e-5, rtol=1e-5)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "from transformers import LlamaForCausalLM" in card
    for heading in ("What it is", "Is the rest gone?", "What was kept, and what was not", "How it was made"):
        assert f"## {heading}" in card
        assert heading in printed
    assert "- this: partly removed" in card
    assert "the attack brings back at most 50%" in card
    assert "Kept: one." in card
    assert "Not kept: two." in card
    assert re.search(r"\| 20 tokens|\| 48 tokens", card), "the context is 48 tokens"
    before, after = (sum(p.numel() for p in read_plain(place).parameters()) for place in (home / "llama", out))
    assert f"| parameters in the file | {before:,} | {after:,} |" in card
    # Whoever has it may write on its card, and it is still opened and measured.
    (out / "README.md").write_text("mine")
    with torch.no_grad():
        torch.testing.assert_close(open_model(out).model(inputs), wanted(inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_what_was_not_attacked_is_not_said_to_be_gone(run, tmp_path):
    status, printed, _ = run("export", "llama", "narrow", "--out", tmp_path / "out", "--json")
    found = json.loads(printed)
    assert status == 0
    card = (tmp_path / "out/README.md").read_text()
    assert found["verdicts"] == []
    assert found["gguf"] is None
    assert found["difference"] < 1e-5
    assert found["parameters"]["before"] == found["parameters"]["after"]  # localized: zeros, none cut out
    assert "whether what was not kept is removed, or only hidden, is not known" in card


@pytest.mark.slow
def test_refusals_come_before_anything_is_written(run, home, tmp_path):
    out = ("--out", tmp_path / "out")
    for arguments, cure in {
        ("export", "llama", "small"): "in the order in which they were made",
        ("export", "embedded", "narrow"): "was not made of the original",
        ("export", "llama", "narrow", "small", "--attacks", "effects"): "holds no attack on this model",
        ("export", "llama", "effects"): "holds no model of `skilloc prune`",
    }.items():
        status, printed, error = run(*arguments, *out)
        assert (status, printed) == (2, ""), arguments
        assert cure in error, error
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    status, _, error = run("export", "llama", "narrow", *out)
    assert (status, "choose a new folder" in error) == (2, True)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_layers_of_different_widths_and_heads_go_into_gguf(saved, tmp_path):
    opened = open_model(saved)
    units = units_of(opened.model)
    smaller = prune(opened.model, Mask(units, ~sample(units, len(units) // 3, seed=4)))
    assert plain_shape(smaller) == "rectangular"
    save_model(smaller, tmp_path / "plain", tokenizer=opened.tokenizer, shape="rectangular")
    write_gguf(read_plain(tmp_path / "plain"), opened.tokenizer, tmp_path / "model.gguf", name="tiny")
    again = read_gguf(tmp_path / "model.gguf", dtype=torch.float32)
    inputs = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(again.model(inputs).logits, smaller(inputs), atol=1e-5, rtol=1e-5)
    text = "def add(a, b):\n    return a + b, 3"
    assert again.tokenizer(text)["input_ids"] == opened.tokenizer(text)["input_ids"]


def test_what_gguf_has_no_form_for_is_refused(saved, tokenizer):
    model = read_plain(saved)
    model.config.rope_parameters["rope_type"] = "linear"
    with pytest.raises(ValueError, match="positions of type linear, which is not written as GGUF"):
        check_gguf(model, tokenizer)
    model.config.rope_parameters["rope_type"] = "default"
    with pytest.raises(ValueError, match="in a way that GGUF has no name for"):
        check_gguf(model, SimpleNamespace(is_fast=False))
    model.config.model_type = "gpt2"
    with pytest.raises(ValueError, match="is a gpt2, which is not written"):
        check_gguf(model, tokenizer)


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_a_model_of_equal_widths_is_told_from_one_that_needs_zeros(family, request):
    model = request.getfixturevalue(family)
    units = units_of(model, kinds=("neuron",))
    even = prune(model, Mask(units, np.arange(len(units)) % 3 > 0))
    assert plain_shape(even) == "as it is"
    uneven = prune(model, Mask(units, np.arange(len(units)) > 5))
    assert plain_shape(uneven) == "rectangular"
