import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc.models.makers import face_of
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train
from skilloc.training.gradients import Gradients, by_hand


def parts(d_out=2, width=(32, 24), n=250, **settings):
    model = MLP(13, d_out, width, len(width) + 1, seed=3, **settings)
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.normal(size=(n, 13)).astype(np.float32))
    return model, Examples(inputs, torch.from_numpy(rng.integers(d_out, size=n)))


def takes(model, examples):
    return by_hand(face_of(model), examples, examples.targets)


def autograd(model, examples, products="float32"):
    model = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=products == "bfloat16"):
        logits = model(examples.inputs)
    loss = functional.cross_entropy(logits.float(), examples.targets)
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("d_out", [2, 5])
@pytest.mark.parametrize("width", [(32,), (32, 24), (8, 16, 40)])
@pytest.mark.parametrize("rows", [1, 70, 250])
def test_those_of_autograd(d_out, width, rows):
    model, examples = parts(d_out, width)
    assert takes(model, examples)
    loss, wanted = autograd(model, examples)
    gradients = Gradients(face_of(model).chain, rows, products="float32")
    for _ in range(2):  # the second time over used memory
        assert gradients(examples.inputs, examples.targets) == pytest.approx(loss, rel=1e-6)
        for p, theirs in zip(model.parameters(), wanted, strict=True):
            assert (p.grad - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize("d_out", [2, 5])
def test_those_of_autograd_to_the_rounding_of_bfloat16(d_out):
    model, examples = parts(d_out)
    loss, wanted = autograd(model, examples, products="bfloat16")
    _, exact = autograd(model, examples)
    gradients = Gradients(face_of(model).chain, 250, products="bfloat16")
    assert gradients(examples.inputs, examples.targets) == pytest.approx(loss, rel=1e-3)
    for p, theirs, truth in zip(model.parameters(), wanted, exact, strict=True):
        assert (p.grad - theirs).norm() <= 0.01 * theirs.norm()
        # No further from the truth than autograd is, apart from chance.
        assert (p.grad - truth).norm() <= 1.5 * (theirs - truth).norm() + 1e-4
        assert p.grad.dtype == torch.float32


def frozen(model):
    model.out.bias.requires_grad_(False)


def hooked(model):
    model.layers[0].hook_post.add_hook(lambda value, hook: 0 * value)


def hooked_backward(model):
    model.layers[0].hook_post.add_hook(lambda gradient, hook: None, dir="bwd")


def hooked_module(model):
    model.register_forward_hook(lambda *_: None)


def hooked_weight(model):
    model.out.weight.register_hook(lambda gradient: 2 * gradient)


def other_activation(model):
    model.activation = functional.gelu


def parametrised(model):
    torch.nn.utils.parametrizations.weight_norm(model.out)


@pytest.mark.parametrize(
    "change",
    [frozen, hooked, hooked_backward, hooked_module, hooked_weight, other_activation, parametrised, MLP.double],
)
def test_autograd_where_it_must_be(change):
    model, examples = parts()
    change(model)
    assert not takes(model, examples)


def test_examples_by_autograd_where_it_must_be():
    model, examples = parts()
    inputs, targets = examples.inputs, examples.targets
    assert not takes(model, replace(examples, inputs=inputs.double()))
    assert not takes(model, replace(examples, inputs=inputs.clone().requires_grad_()))
    targets[3] = -100
    assert not takes(model, examples)
    hook = model.layers[0].hook_post
    hook.add_hook(lambda value, hook: value)
    model.reset_hooks()
    targets[3] = 0
    assert takes(model, examples)


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_training_learns_as_by_autograd(products, monkeypatch):
    subtasks = parity_subtasks(10, atoms=2, k=2, composites=[(0, 1)])
    evaluate = {name: subtask.draw(500, split="selection") for name, subtask in subtasks.items()}
    config = TrainConfig(steps=1500, lr=5e-3, evaluate_every=50, until={"composite_01": 0.1}, products=products)

    def term(model):
        return 1e-5 * sum(p.square().sum() for p in model.parameters())

    found = []
    for hand in (True, False):
        monkeypatch.setattr("skilloc.training.step.by_hand", by_hand if hand else lambda *_: False)
        model = MLP(12, 2, 32, 3)
        sample = parity_stream(subtasks.values(), 100, seed=0)
        found.append(train(model, sample, config, evaluate=evaluate, terms={"size": term}))
    hand, auto = found
    assert hand.of("composite_01")[-1] < 0.1 > auto.of("composite_01")[-1]
    assert abs(hand.of("step")[-1] - auto.of("step")[-1]) <= 200
    np.testing.assert_allclose(hand.of("loss")[:2], auto.of("loss")[:2], rtol=0.01 if products == "bfloat16" else 1e-4)
    np.testing.assert_allclose(hand.of("size")[:2], auto.of("size")[:2], rtol=1e-3)
