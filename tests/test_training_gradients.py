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
from skilloc.training.gradients import Gradients, Layer, by_hand
from skilloc.training.many import Stack


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
    loss = functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), examples.targets)
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters()]


def gradients_of(model, products="float32"):
    """The backward pass of one network, and its gradients in the order of its parameters."""
    gradients = Gradients([Layer([m.weight], m.bias) for m in face_of(model).chain.linears], products=products)
    return gradients, [part for layer in gradients.slopes for part in (layer.weights[0], layer.bias)]


@pytest.mark.parametrize("d_out", [2, 5])
@pytest.mark.parametrize("width", [(32,), (32, 24), (8, 16, 40)])
@pytest.mark.parametrize("rows", [1, 70, 250])
def test_those_of_autograd(d_out, width, rows):
    model, examples = parts(d_out, width)
    assert takes(model, examples)
    loss, wanted = autograd(model, examples)
    gradients, found = gradients_of(model)
    for _ in range(2):  # the second time over used memory
        assert gradients(examples.inputs, examples.targets, rows=rows).item() == pytest.approx(loss, rel=1e-6)
        for own, theirs in zip(found, wanted, strict=True):
            assert (own - theirs).norm() <= 1e-6 * theirs.norm()


WIDTHS = [[(4, 7), (1, 2), (6, 1)], [(40,), (2,)], [(9, 3, 5), (3, 9, 3)], [(5, 5)], [(32, 24)] * 3]


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("d_out", [2, 5])
@pytest.mark.parametrize("rows", [9, 70, 250])
def test_those_of_autograd_for_many_networks(widths, d_out, rows):
    models = [MLP(13, d_out, width, len(width) + 1, seed=seed) for seed, width in enumerate(widths)]
    _, examples = parts(d_out)
    exact = replace(examples, inputs=examples.inputs.double())
    wanted = [autograd(copy.deepcopy(model).double(), exact) for model in models]
    stack = Stack([face_of(model).chain for model in models])
    gradients = Gradients(stack.layers, products="float32")
    for _ in range(2):
        losses = gradients(examples.inputs, examples.targets, rows=rows)
        assert losses.tolist() == pytest.approx([loss for loss, _ in wanted], rel=1e-6)
    with torch.no_grad():
        stack.weights.copy_(gradients.slope)  # so that the networks hold their gradients
    stack.part()
    with torch.no_grad():
        stack.weights.zero_()  # and in memory of their own
    for model, (_, theirs) in zip(models, wanted, strict=True):
        assert all(own.is_contiguous() for own in model.parameters())
        found, exactly = (torch.cat([p.flatten() for p in many]) for many in (model.parameters(), theirs))
        # Of all weights at once: in a bias of few neurons, sums cancel to less than the rounding of their terms.
        assert (found - exactly).norm() <= 1e-6 * exactly.norm()


@pytest.mark.parametrize("d_out", [2, 5])
def test_those_of_autograd_to_the_rounding_of_bfloat16(d_out):
    model, examples = parts(d_out)
    loss, wanted = autograd(model, examples, products="bfloat16")
    _, exact = autograd(model, examples)
    gradients, found = gradients_of(model, products="bfloat16")
    assert gradients(examples.inputs, examples.targets, rows=250).item() == pytest.approx(loss, rel=1e-3)
    for own, theirs, truth in zip(found, wanted, exact, strict=True):
        assert (own - theirs).norm() <= 0.01 * theirs.norm()
        # No further from the truth than autograd is, apart from chance.
        assert (own - truth).norm() <= 1.5 * (theirs - truth).norm() + 1e-4
        assert own.dtype == torch.float32


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
    config = TrainConfig(steps=1500, rate=5e-3, evaluate_every=50, until={"composite_01": 0.1}, products=products)

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
