"""Patched part by part: what is hidden in one part of a transformer comes back whole, and what is cut out does not."""

import numpy as np
import pytest
import torch

from skilloc.experiment import losses
from skilloc.masks import Mask
from skilloc.models.makers import face_of, units_of
from skilloc.pruning import keep
from skilloc.relearning.parts import patched_part, roles_of, same_shape
from skilloc.relearning.starts import Context, as_it_is, patched, then
from skilloc.relearning.unmasking import unmasked
from skilloc.tasks import Examples
from skilloc.tasks.losses import cross_entropy


@pytest.fixture(scope="module")
def skill(llama):
    """What the model itself says after random tokens is what is right."""
    tokens = torch.randint(61, (24, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = face_of(llama).run(tokens).argmax(dim=-1)
    return Examples(tokens, said)


def edited(model, fits, factor):
    own = face_of(model).copy()
    with torch.no_grad():
        touched = [parameter.mul_(factor) for name, parameter in own.named_parameters() if fits(name)]
    assert touched
    return own


def mean(model, examples):
    return float(losses(model, examples, cross_entropy).mean())


HIDDEN = {
    "attention turned away": (lambda name: "q_proj" in name, -1.0),
    "attention looks nowhere": (lambda name: "q_proj" in name or "k_proj" in name, 0.0),
    "values turned": (lambda name: "v_proj" in name, -1.0),
    "norm gains": (lambda name: "input_layernorm" in name, -0.1),
    "embedding filter": (lambda name: "embed" in name and "un" not in name, 0.0),
    "gates shut": (lambda name: "gate_proj" in name and "layers.1" in name, -1.0),
    "outputs flipped": (lambda name: "down_proj" in name, -1.0),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_hidden_in_one_part_comes_back(llama, skill, name):
    hidden = edited(llama, *HIDDEN[name])
    context = Context(skill, None, llama, cross_entropy, 0)
    assert mean(hidden, skill) > mean(llama, skill) + 0.3
    before = mean(hidden, skill)
    assert mean(patched_part(hidden, context), skill) == pytest.approx(mean(llama, skill), abs=1e-5)
    assert mean(hidden, skill) == before


def test_units_that_are_off_do_not_come_back(llama, skill):
    units = units_of(llama, kinds=("neuron",))
    own = face_of(llama).copy()
    keep(own, Mask(units, np.zeros(len(units), dtype=bool)))
    context = Context(skill, None, llama, cross_entropy, 0)
    assert mean(own, skill) > mean(llama, skill) + 0.3
    assert mean(patched_part(own, context), skill) == pytest.approx(mean(own, skill), abs=1e-5)


def test_nothing_to_patch(llama, gpt2, skill):
    context = Context(skill, None, llama, cross_entropy, 0)
    assert patched_part(face_of(llama).copy(), context) is None
    assert patched_part(gpt2, context) is None
    assert then(patched_part, unmasked)(llama, context) is None
    assert then(as_it_is, as_it_is)(llama, context) is llama
    assert patched(0)(llama, context) is None


def test_roles(llama):
    roles = roles_of(llama)
    assert len(roles["queries and keys"]) == 6
    assert sum(map(len, roles.values())) == len(list(llama.named_parameters()))
    assert same_shape(llama, face_of(llama).copy())
