import json
import math
import runpy
from pathlib import Path

import pytest
import torch

from skilloc.tasks.text import BUILTIN, builtin_documents

ANALYSES = Path(__file__).parents[1] / "analyses"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A toy of the embedded model, trained for a few steps and measured, on short files of the standard library."""
    made = tmp_path_factory.mktemp("embedded")
    short = [document for document in builtin_documents("python") if len(document.text) < 8000]
    corpora = {name: short[number::3] for number, name in enumerate(BUILTIN)}
    for name, arguments in (
        ("train_embedded", ["--out", made / "model", "--runs", made / "runs"]),
        ("embedded_losses", ["--model", made / "model"]),
    ):
        main = runpy.run_path(str(ANALYSES / f"{name}.py"))["main"]
        main.__globals__["builtin_documents"] = corpora.__getitem__
        main(["--scale", "quick", *map(str, arguments)])
    return made / "model"


@pytest.mark.long
def test_the_folder_opens_offline_and_is_small(folder):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert model.config.tie_word_embeddings
    assert sum(weight.numel() for weight in model.parameters()) == 1_967_808
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    text = "def f(x):\n    return x  # ünïcödé ☃\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer(text)["input_ids"][0] != 0  # special tokens are added by who packs the rows
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12_000_000


@pytest.mark.long
def test_the_card_holds_the_numbers_that_json_holds(folder):
    facts = json.loads((folder / "card.json").read_text())
    text = (folder / "README.md").read_text()
    for name in BUILTIN:
        assert f"| {name} | " + " | ".join(map(str, facts["losses"]["model"][name].values())) in text
        assert facts["made"]["data"][name]["train"]["hash"] in text
    assert facts["losses"]["bigram"]["cpp"]["cpp"]["nats_per_token"] < math.log(2048)
    looks = facts["made"]["looks"]
    assert looks[-1]["step"] == facts["made"]["steps"]
    assert looks[-1]["python"] < math.log(2048)  # it has learnt something


@pytest.mark.long
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    module = runpy.run_path(str(ANALYSES / "train_embedded.py"))
    tokens = torch.arange(800) ** 2 % 97
    streams = {name: {"train": tokens, "selection": tokens} for name in BUILTIN}
    scale = module["Scale"](4, (1, 1, 1), None, 2)
    whole, halves = module["build"](), module["build"]()
    module["train"](whole, streams, scale, tmp_path / "whole.pt")

    class Stopped(Exception):
        pass

    def stop(*arguments):
        if arguments[-1] == 3:
            raise Stopped
        return one_step(*arguments)

    space = module["train"].__globals__
    one_step, space["one_step"] = space["one_step"], stop
    with pytest.raises(Stopped):
        module["train"](halves, streams, scale, tmp_path / "halves.pt")
    space["one_step"] = one_step
    again = module["build"]()
    looks, _ = module["train"](again, streams, scale, tmp_path / "halves.pt")
    assert [look["step"] for look in looks] == [2, 4]
    for left, right in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)


def test_each_pass_reads_every_window_once():
    module = runpy.run_path(str(ANALYSES / "train_embedded.py"))
    tokens = torch.arange(256 * 11 + 1)
    passes = [module["windows"](tokens, 10 * turn, 10, 0) for turn in range(2)]
    for rows in passes:
        starts = rows[:, 0].sort().values
        assert rows.shape == (10, 257)
        assert torch.equal(starts - starts[0], 256 * torch.arange(10))
        assert torch.equal(rows, rows[:, :1] + torch.arange(257))
    assert not torch.equal(passes[0], passes[1])


def test_bigram_losses_are_those_of_a_loop():
    module = runpy.run_path(str(ANALYSES / "embedded_losses.py"))
    train, report = torch.tensor([0, 1, 1, 2, 0, 1]), torch.tensor([2, 0, 1, 2, 2])
    pairs = list(zip(train.tolist(), train.tolist()[1:], strict=False))
    expected = 0.0
    for first, second in zip(report.tolist(), report.tolist()[1:], strict=False):
        seen = sum(pair[0] == first for pair in pairs)
        expected -= math.log((pairs.count((first, second)) + 0.5) / (seen + 0.5 * 3))
    counts = module["count"](report, 3)
    assert module["bigram_nats"](counts, module["count"](train, 3), 0.5) == pytest.approx(expected)


def test_the_card_of_the_embedded_model_is_made_from_its_record():
    """Which is from before the type of products was recorded."""
    folder = ANALYSES.parent / "skilloc" / "assets" / "embedded"
    facts = json.loads((folder / "card.json").read_text())
    assert "products" not in facts["made"]["scale"]
    card = runpy.run_path(str(ANALYSES / "embedded_losses.py"))["card"]
    assert card(facts["made"], facts["losses"]) == (folder / "README.md").read_text()
    facts["made"]["scale"]["products"] = "float32"
    assert "computed in float32" in card(facts["made"], facts["losses"]).replace("\n", " ")
