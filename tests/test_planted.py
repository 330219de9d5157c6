"""Planted truth: in a hand-made model, known neurons carry known subtasks, and everything must find exactly them.

Token v lies on direction v of the residual stream and is predicted from direction 12 + v. A neuron that reads 0 and
writes 12 + 1 makes the model predict 1 after 0. All other weights are a thousandth of noise.
"""

import numpy as np
import pytest
import torch

from skilloc import locality, store
from skilloc.ablation import ablation_effects
from skilloc.ablation.removal import Removal, pair_interactions, removal_effects
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.masks import top
from skilloc.tasks import IGNORE, Examples, Subtask
from skilloc.tasks.text import shuffled_targets

VOCABULARY = 12
PLANTED = {"L0N5": (0, 1), "L0N2": (2, 3), "L1N4": (4, 5)}
TWINS = {"L0N7": (6, 7), "L1N7": (6, 7)}
LENGTH = 6


@pytest.fixture(scope="module")
def planted():
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    settings = {"n_layers": 2, "d_model": 24, "n_heads": 2, "d_head": 4, "d_mlp": 10, "n_ctx": 8, "seed": 0}
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(**settings, d_vocab=VOCABULARY, act_fn="relu", normalization_type="RMS")
    ).eval()
    native = model.original_model
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for name, parameter in native.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(1e-3 * torch.randn(parameter.shape, generator=generator))
            elif not name.endswith("weight"):
                parameter.zero_()
        model.embed.weight[:, :VOCABULARY] += torch.eye(VOCABULARY)
        model.unembed.weight[:, VOCABULARY:] += 0.5 * torch.eye(VOCABULARY)
        for name, (before, after) in {**PLANTED, **TWINS}.items():
            mlp, neuron = model.blocks[int(name[1])].mlp, int(name[3:])
            getattr(mlp, "in").weight[neuron] = 0
            getattr(mlp, "in").weight[neuron, before] = 1
            mlp.out.weight[:, neuron] = 0
            mlp.out.weight[VOCABULARY + after, neuron] = 1
    return model


def follows(name, pairs):
    """Random tokens in which a pair's second follows its first; only there is anything scored."""

    def sample(n, split, seed):
        rng = np.random.default_rng([seed, len(split)])
        inputs = rng.integers(8, VOCABULARY, size=(n, LENGTH))
        targets = np.full((n, LENGTH), IGNORE)
        for row in range(n):
            for t in range(0, LENGTH - 1, 2):
                inputs[row, t], targets[row, t] = pairs[rng.integers(len(pairs))]
        return Examples(torch.from_numpy(inputs), torch.from_numpy(targets))

    return Subtask(name, sample)


ONE = follows("one", [PLANTED["L0N5"]])
TWO = follows("two", [PLANTED["L0N2"], PLANTED["L1N4"]])


@pytest.fixture(scope="module")
def batches():
    return {"one": ONE.draw(64), "two": TWO.draw(64)}


@pytest.mark.parametrize(
    ("measure", "reference"),
    [
        (ablation_effects, "zero"),
        (ablation_effects, "flat mean"),
        (attribution_effects, "zero"),
    ],
)
def test_exactly_the_planted_units_are_found(planted, batches, measure, reference):
    effects = measure(Experiment(planted, batches, reference=reference))
    names = np.array(effects.units.names)
    assert set(names[top(effects.mean("one"), 1)]) == {"L0N5"}
    assert set(names[top(effects.mean("two"), 2)]) == {"L0N2", "L1N4"}
    rest = ~effects.units.named(PLANTED)
    assert effects.mean("one")[effects.units.named(["L0N5"])] > 50 * np.abs(effects.mean("one")[rest]).max()


def test_locality_of_planted_subtasks(planted, batches):
    effects = ablation_effects(Experiment(planted, batches))
    found = locality.table(effects.values, effects.subtasks, top=1)
    assert found["one"]["locality"].value > 0.99
    assert found["one"]["effective_number"].value == pytest.approx(1, abs=0.02)
    assert found["two"]["effective_number"].value == pytest.approx(2, abs=0.1)
    between = locality.between(effects.values, top=2)
    assert between["overlap"].value[0, 1] < 0.02


def test_a_shuffled_subtask_needs_none_of_them(planted):
    """Every second token of the pairs has one label here, so those of two kinds of pair are shuffled together."""
    mixed = follows("mixed", [(0, 1), (2, 3), (4, 5)])
    batches = {"true": mixed.draw(96), "shuffled": shuffled_targets(mixed).draw(96)}
    effects = ablation_effects(Experiment(planted, batches))
    carriers = effects.units.named(PLANTED)
    assert (effects.mean("true")[carriers] > 0.3).all()
    # A third of the shuffled labels is still right, so taking a carrier away helps on the others.
    assert (effects.mean("shuffled")[carriers] < 0.05).all()
    found = locality.scores(effects.of("shuffled"), top=3)
    assert not found["top_share"].low > found["top_share"].chance
    assert locality.scores(effects.of("true"), top=3)["top_share"].low > 0.95


def test_joint_removal_is_specific_and_its_control_does_nothing(planted, batches):
    experiment = Experiment(planted, batches)
    effects = ablation_effects(experiment)
    removal = removal_effects(experiment, effects, sizes=(1, 2), draws=4)
    scores = locality.removal_scores(removal.at(2), removal.random_at(2))
    increase = scores["loss_increase"].value
    assert increase[0, 0] > 1
    assert increase[1, 1] > 1
    assert abs(increase[0, 1]) < 0.6 * increase[1, 1]  # the second unit of a one-unit subtask is any unit
    assert removal.at(1).mean(axis=0)[0, 1] == pytest.approx(0, abs=0.01)
    assert np.abs(removal.random_at(1)[..., 0, 0]).mean() < removal.at(1)[:, 0, 0].mean()
    # Results name their subtasks, so the order of the batches does not matter.
    turned = removal_effects(Experiment(planted, dict(reversed(batches.items()))), effects, sizes=(1, 2), draws=4)
    np.testing.assert_allclose(turned.values, removal.values, atol=1e-6)
    # One removed unit is a single ablation.
    np.testing.assert_allclose(
        removal.at(1)[:, 0, 0], effects.of("one")[:, effects.units.named(["L0N5"])][:, 0], atol=1e-5
    )


def test_units_that_stand_in_for_each_other_interact(planted):
    batches = {"twins": follows("twins", [(6, 7)]).draw(64)}
    experiment = Experiment(planted, batches)
    found = pair_interactions(experiment, ablation_effects(experiment), subtask="twins", count=3)
    pair = found.names.index("L0N7"), found.names.index("L1N7")
    scores = found.scores
    assert scores.low[pair] > 0.1
    assert scores.value[pair] == pytest.approx(scores.value[pair[::-1]])
    others = ~np.eye(3, dtype=bool)
    others[pair] = others[pair[::-1]] = False
    assert np.abs(scores.value[others]).max() < 0.01


def test_removal_round_trip_and_refusals(planted, batches, tmp_path):
    experiment = Experiment(planted, batches, folds=4)
    effects = ablation_effects(experiment)
    removal = removal_effects(experiment, effects, sizes=(1,), draws=2)
    store.save(removal, tmp_path / "r")
    again = store.load(Removal, tmp_path / "r")
    np.testing.assert_array_equal(again.values, removal.values)
    np.testing.assert_array_equal(again.random, removal.random)
    assert (again.sizes, again.subtasks, again.made) == (removal.sizes, removal.subtasks, removal.made)
    assert again.unit == "nats"
    with pytest.raises(ValueError, match="measured were 1"):
        removal.at(5)
    other = Experiment(planted, {"one": ONE.draw(8), "two": TWO.draw(8)}, folds=4)
    with pytest.raises(ValueError, match="draw the examples of the effects again"):
        removal_effects(other, effects, sizes=(1,))
    with pytest.raises(ValueError, match="as many folds"):
        removal_effects(Experiment(planted, batches), effects, sizes=(1,))
    with pytest.raises(ValueError, match=r"units=effects\.units"):
        removal_effects(Experiment(planted, batches, kinds=("head",), folds=4), effects, sizes=(1,))
    whole = Experiment(planted, batches, folds=1)
    with pytest.raises(ValueError, match="use at least 2"):
        removal_effects(whole, ablation_effects(whole), sizes=(1,))


def test_choosing_on_the_other_half_removes_luck(planted):
    """With pure noise for effects, units chosen on the same folds would look important; cross-fitted ones do not."""
    batches = {"one": ONE.draw(32), "two": TWO.draw(32)}
    experiment = Experiment(planted, batches, kinds=("head",), folds=4)
    removal = removal_effects(experiment, ablation_effects(experiment), sizes=(1,), draws=2)
    assert abs(removal.at(1).mean()) < 1e-3
