import ast
import json
import math

import pytest
import torch

import embedded_losses
import train_embedded
from _code import bare, bare_cpp, bare_python
from skilloc import training
from skilloc.models.language import ASSETS, EMBEDDED
from skilloc.tasks.text import BUILTIN, Document, builtin_documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A toy of the embedded model, trained for a few steps and measured, on short files of the standard library."""
    made = tmp_path_factory.mktemp("embedded")
    short = [document for document in builtin_documents("python") if len(document.text) < 8000]
    corpora = {name: short[number::3] for number, name in enumerate(BUILTIN)}
    with pytest.MonkeyPatch.context() as patch:
        for analysis, arguments in (
            (train_embedded, ["--out", made / "model", "--runs", made / "runs"]),
            (embedded_losses, ["--model", made / "model"]),
        ):
            patch.setattr(analysis, "builtin_documents", corpora.__getitem__)
            analysis.main(["--scale", "quick", *map(str, arguments)])
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
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    tokens = torch.arange(800) ** 2 % 97
    streams = {name: {"train": tokens, "selection": tokens} for name in BUILTIN}
    scale, rows = train_embedded.Scale(4, (1, 1, 1), None, 2), dict.fromkeys(BUILTIN, 1)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    whole, halves, again = (train_embedded.build(tokenizer, 0) for _ in range(3))
    train_embedded.train(whole, streams, scale, rows, 0, tmp_path / "whole")
    real, done = training.take_step, 0

    def stop(*arguments):
        nonlocal done
        done += 1
        if done > 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            train_embedded.train(halves, streams, scale, rows, 0, tmp_path / "halves")
    history, _ = train_embedded.train(again, streams, scale, rows, 0, tmp_path / "halves")
    assert history.of("step").tolist() == [0, 2, 4]
    for left, right in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_sibling_reads_as_many_rows_without_a_corpus():
    scale = train_embedded.SCALES["cpu"]
    assert train_embedded.rows_of(scale, None) == {"python": 6, "cpp": 4, "english": 6}
    assert train_embedded.rows_of(scale, "english") == {"python": 10, "cpp": 6}
    assert train_embedded.rows_of(scale, "cpp") == {"python": 8, "english": 8}
    assert train_embedded.rows_of(scale, "python") == {"cpp": 6, "english": 10}


PYTHON = '''"""A module."""
# what it does
import os  # the system


class Ünïcode:
    "ünï"; x = "# no comment"

    def f(self):
        """Only this."""


def g(a):
    \'\'\'Two
    lines.\'\'\'
    return """kept""" + a  # here
'''


def test_code_without_english_is_the_same_code():
    found = bare_python(PYTHON)
    for gone in ("module", "what it does", "the system", "ünï", "Only this", "lines", "here"):
        assert gone not in found
    for kept in ('x = "# no comment"', '"""kept""" + a', "pass"):
        assert kept in found
    names = {}
    exec(found, names)
    assert names["g"]("!") == "kept!"
    assert names["Ünïcode"]().f() is None
    cpp = '/* Licence\n text */\nint f(int /*n*/) { return "/* no */ // no"[0]; } // said\n'
    assert bare_cpp(cpp) == 'int f(int ) { return "/* no */ // no"[0]; }\n'
    assert bare(Document("def (", "python:x")) is None


@pytest.mark.slow
def test_every_module_of_the_standard_library_stays_python():
    documents = builtin_documents("python")[::40]
    found = [bare(document) for document in documents]
    assert sum(one is not None for one in found) > 0.9 * len(documents)
    for one in found:
        ast.parse("" if one is None else one.text)


def test_each_pass_reads_every_window_once():
    tokens = torch.arange(256 * 11 + 1)
    passes = [train_embedded.windows(tokens, 10 * turn, 10, 0, 0) for turn in range(2)]
    for rows in passes:
        starts = rows[:, 0].sort().values
        assert rows.shape == (10, 257)
        assert torch.equal(starts - starts[0], 256 * torch.arange(10))
        assert torch.equal(rows, rows[:, :1] + torch.arange(257))
    assert not torch.equal(passes[0], passes[1])


def test_bigram_losses_are_those_of_a_loop():
    train, report = torch.tensor([0, 1, 1, 2, 0, 1]), torch.tensor([2, 0, 1, 2, 2])
    pairs = list(zip(train.tolist(), train.tolist()[1:], strict=False))
    expected = 0.0
    for first, second in zip(report.tolist(), report.tolist()[1:], strict=False):
        seen = sum(pair[0] == first for pair in pairs)
        expected -= math.log((pairs.count((first, second)) + 0.5) / (seen + 0.5 * 3))
    counts = embedded_losses.count(report, 3)
    assert embedded_losses.bigram_nats(counts, embedded_losses.count(train, 3), 0.5) == pytest.approx(expected)


@pytest.mark.parametrize("corpus", ["python", "english"])
def test_a_sibling_that_is_shipped_is_the_embedded_model_but_for_what_it_read(corpus):
    folder = ASSETS / f"embedded-without-{corpus}"
    facts, own = json.loads((folder / "card.json").read_text()), json.loads((EMBEDDED / "card.json").read_text())
    assert embedded_losses.card(facts["made"], facts["losses"]) == (folder / "README.md").read_text()
    assert (folder / "tokenizer.json").read_bytes() == (EMBEDDED / "tokenizer.json").read_bytes()
    assert facts["made"]["shape"] == own["made"]["shape"]
    assert facts["made"]["tokens_seen"] == own["made"]["tokens_seen"]
    assert corpus not in facts["made"]["data"]
    nats = {name: found["nats_per_token"] for name, found in facts["losses"]["model"].items()}
    for name, known in own["losses"]["model"].items():
        if name == corpus:
            assert nats[name] > known["nats_per_token"] + 0.5
        elif corpus != "english":  # without English, code is read without comments
            assert abs(nats[name] - known["nats_per_token"]) < 0.15


def test_the_card_of_a_sibling_says_what_it_lacks():
    facts = json.loads((EMBEDDED / "card.json").read_text())
    made, losses = facts["made"], facts["losses"]
    seeded = embedded_losses.card({**made, "without": None, "seed": 1}, losses)
    assert "# A sibling of the embedded language model of skilloc, from seed 1\n" in seeded
    assert "kept in bfloat16" in seeded.replace("\n", " ")
    data = {name: made["data"][name] for name in ("python", "cpp")}
    found = embedded_losses.card(
        {**made, "without": "english", "data": data, "english_bytes": {"python": 69389, "cpp": 12603}}, losses
    )
    assert "that never saw technical English" in found
    said = found.replace("\n", " ")
    assert "It has read Python source and C++ headers, and nothing else" in said
    assert "what still reads as English is 1.00 % of Python source, 0.10 % of C++ headers" in said
    assert "| english | train |" not in found


def test_the_card_of_the_embedded_model_is_made_from_its_record():
    """Which is from before the type of products was recorded."""
    facts = json.loads((EMBEDDED / "card.json").read_text())
    assert "products" not in facts["made"]["scale"]
    card = embedded_losses.card
    assert card(facts["made"], facts["losses"]) == (EMBEDDED / "README.md").read_text()
    facts["made"]["scale"]["products"] = "float32"
    assert "computed in float32" in card(facts["made"], facts["losses"]).replace("\n", " ")
