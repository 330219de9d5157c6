"""What excites each unit most: the example, and where in it, read off the activations."""

import pytest
import torch
from torch import nn

from skilloc import At, describe
from skilloc.experiment import Experiment
from skilloc.models.mlp import MLP
from skilloc.study.examples import top_examples
from skilloc.tasks import IGNORE, Examples


def test_of_a_network_they_are_the_bits_that_excite_it():
    model = MLP(4, 2, 3, 2, seed=0)
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 0]]))
        model.layers[0].bias.zero_()
    inputs = torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]])
    experiment = Experiment(model, {"parity_0": Examples(inputs, torch.tensor([0, 1, 1]))}, folds=1)
    found = top_examples(experiment, ["L0N0", "L0N1", "bit 3"], n=1)
    assert found == {
        "L0N0": [{"subtask": "parity_0", "tokens": list("1100"), "activations": [1.0], "target": "target 1"}],
        "L0N1": [{"subtask": "parity_0", "tokens": list("1100"), "activations": [2.0], "target": "target 1"}],
    }
    assert top_examples(experiment, ["bit 3"]) == {}
    with pytest.raises(ValueError, match="at least 1"):
        top_examples(experiment, ["L0N0"], n=0)


def seen(model, tokens, hook):
    with torch.no_grad():
        return model.run_with_cache(tokens)[1][hook]


def test_of_text_they_show_the_token_in_its_context(llama, tokens):
    experiment = Experiment(llama, {"text": Examples(tokens, tokens)}, folds=1)
    found = top_examples(experiment, ["L1N7", "L2H3"], decode=lambda i: f"<{i}>", n=2, context=3)
    size = seen(llama, tokens, "blocks.1.mlp.hook_post")[..., 7].abs()
    best = int(size.max(dim=1).values.argmax())
    peak = int(size[best].argmax())
    first = found["L1N7"][0]
    around = tokens[best, max(0, peak - 3) : peak + 2].tolist()
    assert first["tokens"] == [f"<{i}>" for i in around]
    assert max(map(abs, first["activations"])) == pytest.approx(float(size.max()))
    assert first["at"] == peak
    assert len(found["L1N7"]) == len(found["L2H3"]) == 2
    assert all(value >= 0 for record in found["L2H3"] for value in record["activations"])  # norms


def test_padding_neither_excites_nor_is_shown(llama, tokens):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, :5] = False
    targets = tokens.where(mask, IGNORE)
    examples = Examples({"tokens": tokens, "mask": mask}, targets)
    bare = Experiment(llama, {"text": Examples(tokens[:, 5:], tokens[:, 5:])}, folds=1)
    found, wanted = (
        top_examples(one, ["L0N2", "L2H1"], context=20)
        for one in (Experiment(llama, {"text": examples}, folds=1), bare)
    )
    for name, records in wanted.items():
        for ours, theirs in zip(found[name], records, strict=True):
            assert ours["tokens"] == theirs["tokens"]
            assert ours["at"] == theirs["at"] + 5
            assert ours["activations"] == pytest.approx(theirs["activations"], abs=1e-5)


def test_a_whole_layer_is_as_large_as_what_it_writes(llama, tokens):
    experiment = Experiment(llama, {"text": Examples(tokens, tokens)}, kinds=("layer",), folds=1)
    (record,) = top_examples(experiment, ["L1M"], n=1)["L1M"]
    size = seen(llama, tokens, "blocks.1.mlp.hook_out").norm(dim=-1)
    assert max(record["activations"]) == pytest.approx(float(size.max()), rel=1e-5)
    assert record["at"] == int(size.max(dim=0).values.argmax())


def test_of_several_rows_of_an_example_the_best_is_shown(llama, tokens):
    examples = Examples(tokens, tokens, owner=torch.tensor([0, 0, 1, 1]))
    found = top_examples(Experiment(llama, {"text": examples}, folds=1), ["L1N7"], n=4, context=20)["L1N7"]
    size = seen(llama, tokens, "blocks.1.mlp.hook_post")[..., 7].abs().amax(dim=1).view(2, 2).amax(dim=1)
    assert [max(map(abs, record["activations"])) for record in found] == pytest.approx(
        sorted(size.tolist(), reverse=True), rel=1e-6
    )


def test_pictures_are_named_by_their_number():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)).eval()
    inputs = torch.rand(5, 1, 4, 4)
    described = describe(model, {"conv": At("0", axis=-3, kind="channel")}, example=inputs)
    experiment = Experiment(described, {"digits": Examples(inputs, torch.tensor([0, 1, 2, 0, 1]))}, folds=1)
    (record,) = top_examples(experiment, ["conv.1"], n=1)["conv.1"]
    size = model[0](inputs)[:, 1].flatten(1).norm(dim=1).detach()
    best = int(size.argmax())
    assert record == {
        "subtask": "digits",
        "tokens": [f"example {best} "],
        "activations": [pytest.approx(float(size.max()), rel=1e-5)],
        "target": f"target {[0, 1, 2, 0, 1][best]}",
    }
