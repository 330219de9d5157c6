"""What the page shows of units on prompts: activations, attention and pushed tokens, against the model itself."""

import json

import pytest
import torch

from skilloc import store
from skilloc.experiment import Experiment
from skilloc.models.makers import face_of
from skilloc.models.mlp import MLP
from skilloc.study.examples import top_examples
from skilloc.study.on_prompts import on_prompts, pushed_tokens, write_shown
from skilloc.tasks import IGNORE, Examples


def seen(model, tokens, hook):
    with torch.no_grad():
        return model.run_with_cache(tokens)[1][hook]


def asked(tokens, places):
    """Examples in which only what follows some places is scored."""
    targets = torch.full_like(tokens, IGNORE)
    for place in places:
        targets[:, place] = tokens[:, place + 1]
    return Examples(tokens, targets)


def test_a_prompt_is_shown_with_its_answer_and_what_units_do_at_each_token(llama, tokens):
    experiment = Experiment(llama, {"facts": asked(tokens, (9, 10))}, folds=1)
    found = on_prompts(experiment, ["L1N7", "L2H3", "tokens"], decode=lambda i: f"<{i}>", n=2, length=6)
    assert [one["subtask"] for one in found] == ["facts", "facts"]
    for row, one in enumerate(found):
        span = slice(5, 11)
        assert one["tokens"] == [f"<{i}>" for i in tokens[row, span].tolist()]
        assert (one["asked"], one["answer"]) == (4, f"<{tokens[row, 10]}><{tokens[row, 11]}>")
        neuron = seen(llama, tokens, "blocks.1.mlp.hook_post")[row, span, 7]
        head = seen(llama, tokens, "blocks.2.attn.hook_z")[row, span, 3].norm(dim=-1)
        assert one["activations"].keys() == {"L1N7", "L2H3"}
        assert one["activations"]["L1N7"] == pytest.approx(neuron.tolist(), rel=1e-2)
        assert one["activations"]["L2H3"] == pytest.approx(head.tolist(), rel=1e-2)
        pattern = seen(llama, tokens, "blocks.2.attn.hook_pattern")[row, 3]
        assert one["attention"].keys() == {"L2H3"}
        for place, shares in enumerate(one["attention"]["L2H3"]):
            wanted = pattern[5 + place, 5 : 6 + place]
            assert [share / 100 for share in shares] == pytest.approx(wanted.tolist(), abs=0.006)


def test_of_running_text_the_last_token_is_asked(llama, tokens):
    (one,) = on_prompts(Experiment(llama, {"text": Examples(tokens, tokens)}, folds=1), ["L0N0"], n=1, length=4)
    assert one["tokens"] == [str(i) for i in tokens[0, -4:].tolist()]
    assert (one["asked"], one["answer"]) == (3, str(int(tokens[0, -1])))
    assert one["attention"] == {}


def test_padding_is_not_shown(llama, tokens):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, :5] = False
    padded = Examples({"tokens": tokens, "mask": mask}, tokens.where(mask, IGNORE))
    bare = Examples(tokens[:, 5:], tokens[:, 5:])
    ours, theirs = (
        on_prompts(Experiment(llama, {"text": one}, folds=1), ["L0N2", "L2H1"], length=40) for one in (padded, bare)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["tokens"] == other["tokens"]
        assert mine["asked"] == other["asked"]
        for unit, values in other["activations"].items():
            assert mine["activations"][unit] == pytest.approx(values, rel=2e-2, abs=1e-4)
        for row, wanted in zip(mine["attention"]["L2H1"], other["attention"]["L2H1"], strict=True):
            assert row == pytest.approx(wanted, abs=1)


def test_of_a_network_a_prompt_is_its_bits():
    model = MLP(4, 2, 3, 2, seed=0)
    inputs = torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 0]])
    experiment = Experiment(model, {"parity": Examples(inputs, torch.tensor([0, 1]))}, folds=1)
    found = on_prompts(experiment, ["L0N1", "bit 0"], n=5)
    assert [("".join(one["tokens"]), one["asked"], one["answer"]) for one in found] == [
        ("0 0 1 1 ", 3, "0"), ("1 1 0 0 ", 3, "1")
    ]  # fmt: skip
    wanted = torch.relu(model.layers[0](inputs))[:, 1].tolist()
    assert [one["activations"]["L0N1"] for one in found] == [pytest.approx([value], rel=1e-2) for value in wanted]
    assert pushed_tokens(experiment, ["L0N1"], decode=str) == {}


def test_top_examples_of_heads_say_what_they_attend_to(llama, tokens):
    experiment = Experiment(llama, {"text": Examples(tokens, tokens)}, folds=1)
    found = top_examples(experiment, ["L1N7", "L2H3"], n=1, context=3)
    assert "attention" not in found["L1N7"][0]
    (record,) = found["L2H3"]
    rows = record["attention"]
    assert [len(row) for row in rows] == list(range(1, len(record["tokens"]) + 1))
    size = seen(llama, tokens, "blocks.2.attn.hook_z")[..., 3, :].norm(dim=-1)
    row = int(size.amax(dim=1).argmax())
    first = max(0, record["at"] - 3)
    pattern = seen(llama, tokens, "blocks.2.attn.hook_pattern")[row, 3]
    shown = pattern[record["at"], first : record["at"] + 1].tolist()
    assert [share / 100 for share in rows[record["at"] - first]] == pytest.approx(shown, abs=0.006)


@pytest.mark.parametrize("family", ["llama", "gpt2", "native_plain_ln"])
def test_what_a_neuron_pushes_is_what_the_end_of_the_model_makes_of_it(family, request, tokens):
    """Far along a direction w the norm forgets all else: logits(c w) - logits(-c w) is w's push, times a scale."""
    from conftest import _model

    model = _model(family)
    face = face_of(model)
    vectors = face.write("blocks.1.mlp.hook_post").detach()[:5]
    pushed = face.pushes(vectors)
    with torch.no_grad():
        ends = [model.unembed(model.ln_final((sign * vectors)[None]))[0] for sign in (1e3, -1e3)]
    for mine, other in zip(pushed, ends[0] - ends[1], strict=True):
        assert torch.corrcoef(torch.stack([mine, other]))[0, 1] == pytest.approx(1, abs=1e-4)
        assert float(mine @ other) > 0
    found = pushed_tokens(Experiment(model, {"text": Examples(tokens, tokens)}, folds=1), ["L1N2"], decode=str, n=2)
    order = pushed[2].argsort(descending=True).tolist()
    assert found == {"L1N2": {"up": [str(i) for i in order[:2]], "down": [str(i) for i in order[::-1][:2]]}}


def test_both_are_written_beside_the_circuits(llama, tokens, tmp_path):
    class Tokenizer:
        def decode(self, ids):
            return f"<{ids[0]}>"

    experiment = Experiment(llama, {"text": Examples(tokens, tokens)}, folds=1)
    examples, shown = write_shown(tmp_path / "new", experiment, ["L1N7"], Tokenizer())
    assert store.read_json(tmp_path / "new" / "examples.json") == json.loads(json.dumps(examples))
    assert store.read_json(tmp_path / "new" / "shown.json") == json.loads(json.dumps(shown))
    assert shown["pushes"]["L1N7"]["up"][0].startswith("<")
    assert len(shown["prompts"]) == 3
