"""Several models on the same examples become what each becomes alone."""

import copy

import numpy as np
import pytest
import torch

from skilloc import Mask, units_of
from skilloc.experiment import losses
from skilloc.models.mlp import MLP
from skilloc.pruning import keep
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train
from skilloc.training.many import retrain

FIRST, SECOND = parity_subtasks(8, atoms=2, k=2).values()
HELD_OUT = FIRST.draw(200, split="report")
CONFIG = TrainConfig(steps=20, rate=5e-3, evaluate_at=(1, 7))


def sample():
    return parity_stream([FIRST, SECOND], 60, seed=0)


def look(model):
    assert not model.training
    return float(losses(model, HELD_OUT).mean())


def networks():
    """Some that fit into one stack, another depth, and one whose gradients are not by hand."""
    shapes = [((12, 8), "relu"), ((3, 20), "relu"), ((16,), "relu"), ((12, 8), "gelu"), ((1, 1), "relu")]
    return [MLP(10, 2, width, len(width) + 1, activation=name, seed=seed) for seed, (width, name) in enumerate(shapes)]


@pytest.fixture
def steps_by_the_loop(monkeypatch):
    """The models that `train` takes."""
    taken = []

    def noted(model, *arguments, **settings):
        taken.append(model)
        return train(model, *arguments, **settings)

    monkeypatch.setattr("skilloc.training.many.train", noted)
    return taken


@pytest.mark.parametrize("settings", [{}, {"optimiser": "sgd", "rate": 0.1}, {"optimiser": "adamw", "decay": "linear"}])
@pytest.mark.parametrize("width", [400, 20])
def test_what_becomes_of_each_is_what_becomes_of_it_alone(monkeypatch, steps_by_the_loop, settings, width):
    monkeypatch.setattr("skilloc.training.many.WIDTH", width)
    monkeypatch.setattr("skilloc.training.step.CACHED", 45 * 36)  # several blocks, with a rest
    config = TrainConfig(**{**CONFIG.__dict__, "weight_decay": 0.01, **settings})
    models, alone = networks(), networks()
    found = dict(retrain(iter(models), sample(), config, look))
    assert sorted(found) == list(range(len(models)))
    assert steps_by_the_loop == [models[3]]
    for place, (model, other) in enumerate(zip(models, alone, strict=True)):
        start = look(other.eval())
        train(other, sample(), config, evaluate={}, progress=False)
        assert [len(found[place]), found[place][0]] == [4, pytest.approx(start, abs=1e-6)]
        assert found[place][-1] == pytest.approx(look(other), abs=1e-5) == pytest.approx(look(model), abs=1e-5)
        assert found[place][-1] != found[place][1]
        for own, wanted in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(own, wanted, atol=2e-5, rtol=1e-4)
            assert own.untyped_storage().nbytes() == 4 * own.numel()  # in memory of its own again


@pytest.mark.parametrize("settings", [{"clip": 1.0}, {"optimiser": "muon"}])
def test_settings_about_single_weights_are_for_each_alone(steps_by_the_loop, settings):
    models = [MLP(10, 2, 8, 3, seed=seed) for seed in range(2)]
    if "optimiser" in settings:
        with pytest.raises(ValueError, match="muon is for matrices"):
            list(retrain(models, sample(), TrainConfig(steps=2, **settings), look))
        assert len(steps_by_the_loop) == 1
    else:
        assert len(list(retrain(models, sample(), TrainConfig(steps=2, **settings), look))) == 2
        assert len(steps_by_the_loop) == 2


def test_rules_act_on_each(steps_by_the_loop):
    models = [MLP(10, 2, 8, 3, seed=seed) for seed in range(2)]
    mask = Mask(units_of(models[0]), np.arange(16) % 2 > 0)
    found = list(retrain(models, sample(), CONFIG, look, rules=lambda model: [keep(model, mask)]))
    assert [place for place, _ in found] == [0, 1]
    assert steps_by_the_loop == models
    for model in models:
        assert not model.layers[0].weight[::2].any()


def test_one_that_diverges_leaves_the_others_alone():
    def broken():
        models = networks()
        for place, value in ((1, torch.nan), (3, torch.inf)):
            models[place].out.weight.data[0, 0] = value
        return models

    with pytest.raises(FloatingPointError, match=r"step 0 .*smaller `rate`"):
        list(retrain(networks()[:1] + broken()[1:2], sample(), CONFIG, look))
    whole = dict(retrain(networks(), sample(), CONFIG, look))
    found = dict(retrain(broken(), sample(), CONFIG, look, go_on=True))
    for place, seen in found.items():
        if place in (1, 3):
            assert len(seen) == 1
        else:
            assert seen == pytest.approx(whole[place], abs=1e-5)
    (_, seen), *_ = retrain(broken()[1:2], sample(), CONFIG, look, go_on=True)
    assert len(seen) == 1


def test_networks_are_taken_one_by_one_where_they_are_trained_alone():
    seen = []

    def made():
        for model in networks()[3:4] * 2:
            seen.append(len(done))
            yield copy.deepcopy(model)

    done = []
    for place, _ in retrain(made(), sample(), CONFIG, look):
        done.append(place)
    assert seen == [0, 1]


def test_settings_that_cannot_be():
    for change in ({"until": {"parity_0": 0.1}}, {"evaluate_at": (30,)}):
        with pytest.raises(ValueError, match=next(iter(change))):
            list(retrain(networks(), sample(), TrainConfig(steps=20, **change), look))
