"""Pruning of any model for any loss: a described module gives the numbers of the same `MLP`, and losses are those of
an oracle that runs the model under plain hooks."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from skilloc import At, describe, store
from skilloc.ablation import ablation_effects
from skilloc.ablation.removal import Removal, pair_interactions, removal_effects
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment, flat_mean_reference, hold, zero_reference
from skilloc.masks import Mask
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.pruning import Curve, effects_again, keep, mask_curve, masks_of, prune, recover, remaining
from skilloc.pruning.scored import scored
from skilloc.tasks import Examples
from skilloc.tasks.losses import custom
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train

SUBTASKS = parity_subtasks(6, atoms=2, k=2, composites=[(0, 1)])
GIVEN = {name: subtask.draw(96) for name, subtask in SUBTASKS.items()}
WIDTH = 12


def margin(logits, examples):
    """Logit of the wrong class minus logit of the right one, of which what is below -1 counts as that."""
    chosen = logits.gather(1, examples.targets[:, None])[:, 0]
    return (logits.sum(dim=1) - 2 * chosen).clamp(min=-1).double()


def both():
    """The same network, once by its own maker and once described."""
    network = MLP(8, 2, WIDTH, 3, seed=1)
    linears = [nn.Linear(len(m.weight.T), len(m.weight)) for m in (*network.layers, network.out)]
    for mine, theirs in zip(linears, (*network.layers, network.out), strict=True):
        mine.weight.data, mine.bias.data = theirs.weight.detach().clone(), theirs.bias.detach().clone()
    module = nn.Sequential(linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2]).eval()
    units = {
        "layers.0.hook_post": At("1", weights={"0.weight": 0, "0.bias": 0, "2.weight": 1}),
        "layers.1.hook_post": At("3", weights={"2.weight": 0, "2.bias": 0, "4.weight": 1}),
    }
    return network, describe(module, units, example=torch.zeros(1, 8))


@pytest.fixture(scope="module")
def pair():
    return both()


def masks_of_both(pair, share, seed=0):
    kept = np.random.default_rng(seed).random(2 * WIDTH) < share
    return [Mask(units_of(model), kept) for model in pair]


@pytest.mark.parametrize("loss", ["cross_entropy", "error", margin])
@pytest.mark.parametrize("reference", ["zero", "flat mean"])
def test_curves_removals_and_pairs_of_a_described_network(pair, loss, reference):
    experiments = [Experiment(model, GIVEN, loss=loss, reference=reference) for model in pair]
    effects = [ablation_effects(one) for one in experiments]
    np.testing.assert_allclose(effects[1].values, effects[0].values, atol=1e-6)
    scores = np.random.default_rng(1).random(2 * WIDTH)
    curves = [mask_curve(one, masks_of(one.units, scores, [24, 15, 6]), draws=2) for one in experiments]
    for name in ("losses", "accuracies", "random_losses", "random_accuracies", "baseline"):
        np.testing.assert_allclose(getattr(curves[1], name), getattr(curves[0], name), atol=1e-6)
    removals = [removal_effects(one, own, sizes=(1, 4), draws=2) for one, own in zip(experiments, effects, strict=True)]
    np.testing.assert_allclose(removals[1].values, removals[0].values, atol=1e-6)
    np.testing.assert_allclose(removals[1].random, removals[0].random, atol=1e-6)
    assert np.abs(removals[0].values).max() > 1e-3
    pairs = [
        pair_interactions(one, own, subtask="parity_0", count=4) for one, own in zip(experiments, effects, strict=True)
    ]
    np.testing.assert_allclose(pairs[1].scores.value, pairs[0].scores.value, atol=1e-6)
    units = {experiments[0].metric.unit}
    assert {one.unit for one in (*curves, *removals, *pairs)} == units


@pytest.mark.parametrize("share", [0.5, 0.2, 0.0])
def test_a_described_network_is_cut_like_an_mlp(pair, share):
    inputs = GIVEN["parity_0"].inputs
    smaller = []
    for model, mask in zip(pair, masks_of_both(pair, share), strict=True):
        before = copy.deepcopy(model.state_dict())
        smaller.append(prune(model, mask))
        with torch.no_grad(), hold(model, mask, zero_reference(mask.units)):
            torch.testing.assert_close(smaller[-1](inputs), model(inputs), atol=1e-6, rtol=0)
        assert units_of(smaller[-1]).widths == tuple(
            part.sum() for part in mask.units.split(remaining(model, mask)).values()
        )
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(smaller[1](inputs), smaller[0](inputs), atol=1e-6, rtol=0)
    again = [prune(one, Mask(units_of(one), np.arange(len(units_of(one))) % 2 > 0)) for one in smaller]
    with torch.no_grad():
        torch.testing.assert_close(again[1](inputs), again[0](inputs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_a_mask_survives_training_of_a_described_network(optimiser):
    pair, found = both(), []
    config = TrainConfig(40, rate=0.01, optimiser=optimiser, weight_decay=0.1, evaluate_every=40)
    for model, mask in zip(pair, masks_of_both(pair, 0.5), strict=True):
        stream = parity_stream(SUBTASKS.values(), 8, seed=0)
        train(model, stream, config, evaluate={"a": GIVEN["parity_0"]}, rules=[keep(model, mask)], progress=False)
        inputs = GIVEN["parity_0"].inputs
        with torch.no_grad():
            found.append(model(inputs))
            torch.testing.assert_close(prune(model, mask)(inputs), found[-1], atol=1e-6, rtol=0)
            with hold(model, mask, zero_reference(mask.units)):
                assert torch.equal(model(inputs), found[-1])
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)


def plain_loop(model, stream, steps, rate, loss_of):
    own = copy.deepcopy(model)
    adam = torch.optim.Adam(own.parameters(), lr=rate, eps=1e-5)
    for step in range(steps):
        examples = stream(step)
        adam.zero_grad()
        loss_of(own(examples.inputs), examples).backward()
        adam.step()
    return own


def from_whole(whole):
    def loss(logits, examples):
        known = whole(examples.inputs).detach().log_softmax(dim=-1)
        return (known.exp() * (known - logits.log_softmax(dim=-1))).sum(dim=-1)

    return loss


@pytest.mark.parametrize("loss", ["cross_entropy", "kl", margin])
def test_recovery_descends_the_loss_that_was_asked_for(pair, loss):
    """Of a divergence from the untouched model, the untouched one is the whole network."""
    value = {"kl": from_whole(pair[0]), margin: margin}.get(
        loss, lambda logits, examples: functional.cross_entropy(logits, examples.targets, reduction="none")
    )
    report = {"parity_0": SUBTASKS["parity_0"].draw(64)}
    config = TrainConfig(15, rate=5e-3, evaluate_at=(4,))
    sample = partial(parity_stream, SUBTASKS.values(), 40, seed=0)
    found = []
    for model, masks in zip(pair, zip(*(masks_of_both(pair, s) for s in (1.0, 0.6, 0.3)), strict=True), strict=True):
        found.append(recover(Experiment(model, report, loss=loss, folds=2), masks, sample(), config))
    np.testing.assert_allclose(found[1].losses, found[0].losses, atol=3e-5)
    np.testing.assert_allclose(found[1].accuracies, found[0].accuracies, atol=0.02)
    assert found[0].unit == found[1].unit
    masks = [masks_of_both(pair, share)[0] for share in (1.0, 0.6, 0.3)]
    for i, mask in enumerate(masks):
        for j, steps in enumerate((0, 4, 15)):
            own = plain_loop(prune(pair[0], mask), sample(), steps, 5e-3, lambda *given: value(*given).mean())
            with torch.no_grad():
                wanted = float(value(own(report["parity_0"].inputs), report["parity_0"]).mean())
            assert found[0].losses[i, j].mean() == pytest.approx(wanted, abs=3e-5)
    assert np.abs(found[0].losses[1:, 2] - found[0].losses[1:, 0]).min() > 1e-5


class Cnn(nn.Module):
    """Two convolutions with a normalisation between them, and a linear map of all pixels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3)
        self.fc = nn.Linear(4 * 4 * 4, 3)

    def forward(self, images):
        hidden = self.conv2(self.bn(self.conv1(images)).relu()).relu()
        return self.fc(hidden.flatten(1))


CHANNELS = {
    "first": At(
        "bn",
        axis=-3,
        kind="channel",
        weights={name: 0 for name in ("conv1.weight", "conv1.bias", "bn.weight", "bn.bias")}
        | {"bn.running_mean": 0, "bn.running_var": 0, "conv2.weight": 1},
    ),
    "second": At("conv2", axis=-3, kind="channel", weights={"conv2.weight": 0, "conv2.bias": 0, "fc.weight": (1, 16)}),
}


@pytest.fixture(scope="module")
def cnn():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Cnn()
        for images in torch.randn(5, 32, 1, 8, 8):  # statistics of its own
            module(images)
    with torch.no_grad():
        module.bn.bias.normal_(generator=torch.Generator().manual_seed(1))
    return describe(module.eval(), CHANNELS)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(2)
    return {
        name: Examples(torch.randn(24, 1, 8, 8, generator=generator), torch.randint(3, (24,), generator=generator))
        for name in ("a", "b")
    }


def test_channels_held_zeroed_and_pruned_are_one(cnn, images):
    units = units_of(cnn, kinds=("channel",))
    mask = Mask(units, np.array([True, False, True, True, False, False, True, False, True]))
    inputs = images["a"].inputs
    smaller = prune(cnn, mask, examples=images["a"])
    zeroed = copy.deepcopy(cnn)
    keep(zeroed, mask)
    with torch.no_grad():
        whole = cnn(inputs)
        with hold(cnn, mask, zero_reference(units)):
            held = cnn(inputs)
        torch.testing.assert_close(smaller(inputs), held, atol=1e-6, rtol=0)
        torch.testing.assert_close(zeroed(inputs), held, atol=1e-6, rtol=0)
    assert (held - whole).abs().max() > 0.05
    assert (smaller.inner.conv1.out_channels, smaller.inner.conv2.weight.shape[:2]) == (3, (2, 3))
    assert smaller.inner.fc.in_features == 2 * 16
    assert smaller.inner.bn.num_features == len(smaller.inner.bn.running_mean) == 3


def test_channels_are_scored_again_and_retrained(cnn, images):
    experiment = Experiment(cnn, images, kinds=("channel",), loss="error", folds=3)
    scores = effects_again(experiment, ablation_effects)
    curve = mask_curve(experiment, masks_of(experiment.units, scores, [9, 6, 3], every=2), draws=1)
    assert curve.unit == "share"
    np.testing.assert_allclose(curve.losses, 1 - curve.accuracies)
    smooth = Experiment(cnn, images, kinds=("channel",), folds=3)
    found = recover(smooth, curve.masks[1:], lambda _: images["a"], TrainConfig(30, rate=0.01))
    assert (found.losses[:, -1, :, 0].mean(axis=1) < found.losses[:, 0, :, 0].mean(axis=1) - 0.1).all()
    np.testing.assert_allclose(found.losses[:, 0], scored_each(smooth, curve.masks[1:]), atol=1e-5)


def scored_each(experiment, masks):
    return np.stack([scored(experiment, mask)[0] for mask in masks])


def named_batch(tokens):
    last = torch.full((len(tokens),), tokens.shape[1] - 2)
    wrong = (tokens[:, -1] + 1) % 61
    return Examples(tokens[:, :-1], tokens[:, 1:].clone(), fields={"wrong": wrong}, at={"last": last})


@pytest.mark.parametrize("kinds", [("neuron", "head"), ("layer",)])
@pytest.mark.parametrize("at", ["all", "last"])
def test_curves_of_a_language_model_in_other_losses(gpt2, tokens, kinds, at, tmp_path):
    """The oracle runs the model under its own hooks, and computes the losses from the logits."""
    batch = named_batch(tokens)
    with torch.no_grad():
        known = gpt2(batch.inputs).double().log_softmax(dim=-1)
    wanted = {
        "logit_difference": lambda z: (
            z[:, -1].gather(1, batch.fields["wrong"][:, None])[:, 0] - z[:, -1].gather(1, batch.targets[:, -1:])[:, 0]
        ),
        "kl": lambda z: (known.exp() * (known - z.log_softmax(dim=-1))).sum(dim=-1).mean(dim=1),
    }
    for loss, value in wanted.items():
        experiment = Experiment(gpt2, {"text": batch}, kinds=kinds, loss=loss, at=at, folds=2)
        units = experiment.units
        mask = Mask(units, np.arange(len(units)) % 3 > 0)
        curve = mask_curve(experiment, [mask], draws=1)
        gone = {hook: np.flatnonzero(~kept).tolist() for hook, kept in units.split(mask.keep).items()}

        def silence(bank, positions):
            def silent(activation, hook):
                edited, place = activation.clone(), slice(None) if at == "all" else slice(-1, None)
                if kinds == ("layer",):
                    edited[:, place] = 0
                else:
                    edited[:, place, positions] = 0
                return edited

            return bank, silent

        with torch.no_grad():
            logits = gpt2.run_with_hooks(batch.inputs, fwd_hooks=[silence(*one) for one in gone.items() if one[1]])
        found = value(logits.double())
        np.testing.assert_allclose(curve.losses[0, :, 0], [float(found[:2].mean()), float(found[2:].mean())], atol=1e-5)
        store.save(curve, tmp_path / loss)
        assert store.load(Curve, tmp_path / loss).unit == curve.unit == experiment.metric.unit
        assert np.isnan(curve.accuracies).all()


@pytest.mark.parametrize("model", ["mlp", "gpt2"])
def test_scores_again_of_a_divergence_are_from_the_whole_model(pair, gpt2, tokens, model):
    network, given = (pair[0], GIVEN) if model == "mlp" else (gpt2, {"text": named_batch(tokens)})
    experiment = Experiment(network, given, loss="kl", folds=1)
    mask = Mask(experiment.units, np.random.default_rng(1).random(len(experiment.units)) < 0.6)
    found = effects_again(experiment, ablation_effects)(mask)
    base = scored(experiment, mask)[0]
    assert base.min() > 1e-4  # what was dropped is missed
    for unit in np.flatnonzero(mask.keep)[::17]:
        without = Mask(experiment.units, mask.keep & (np.arange(len(mask.keep)) != unit))
        assert found[unit] == pytest.approx((scored(experiment, without)[0] - base).mean(), abs=1e-5)


def test_the_slope_of_a_divergence_is_not_zero_at_a_pruned_model(pair):
    """Central differences of fading each kept unit out, with the dropped ones at zero."""
    network = pair[0]
    experiment = Experiment(network, GIVEN, loss="kl", folds=1)
    mask = masks_of_both(pair, 0.6)[0]
    found = effects_again(experiment, partial(attribution_effects, curvature=0))(mask)
    small, value = prune(network, mask).double(), from_whole(copy.deepcopy(network).double())
    given = [(own.inputs.double(), own) for own in experiment.examples.values()]
    places = [
        (hook, i) for hook, width in zip(mask.units.hooks, units_of(small).widths, strict=True) for i in range(width)
    ]
    for unit, (hook, place) in list(zip(np.flatnonzero(mask.keep), places, strict=True))[::3]:

        def faded(step, hook=hook, place=place):
            def fade(activation, hook):
                factors = torch.ones(activation.shape[1], dtype=torch.double)
                factors[place] -= step
                return activation * factors

            with torch.no_grad(), small.hooks(fwd_hooks=[(hook, fade)]):
                return np.mean(
                    [float(value(small(inputs), replace(own, inputs=inputs)).mean()) for inputs, own in given]
                )

        assert found[unit] == pytest.approx((faded(1e-4) - faded(-1e-4)) / 2e-4, abs=1e-5)
    assert np.nanmax(np.abs(found)) > 1e-3


def test_what_cannot_be_cut_is_refused_in_words(pair, cnn, gpt2, tokens, images):
    text, config = {"text": named_batch(tokens)}, TrainConfig(2)
    layers = units_of(gpt2, kinds=("layer",))
    some = Mask(layers, np.arange(len(layers)) > 0)
    with pytest.raises(ValueError, match=r"kind layer cannot be cut out.*hold the mask instead"):
        prune(gpt2, some)
    held = Experiment(gpt2, text, kinds=("layer",), folds=2)
    with pytest.raises(ValueError, match="hold the mask instead"):
        effects_again(held, ablation_effects)
    assert np.isfinite(mask_curve(held, [some], draws=0).losses).all()
    last = Experiment(gpt2, text, at="last", folds=2)
    mask = Mask(last.units, np.arange(len(last.units)) > 0)
    for act in (
        lambda one: effects_again(one, ablation_effects),
        lambda one: recover(one, [mask], lambda _: text["text"], config),
    ):
        with pytest.raises(ValueError, match='use at="all"'):
            act(last)
    count = Experiment(gpt2, text, loss="error", folds=2)
    with pytest.raises(ValueError, match="no gradient"):
        recover(count, [mask], lambda _: text["text"], config)
    with pytest.raises(ValueError, match=r"make masks of experiment\.units"):
        recover(count, [some], lambda _: text["text"], config)
    with pytest.raises(ValueError, match=r"make masks of experiment\.units"):
        mask_curve(count, [some])


def test_what_is_not_described_is_refused_in_words(pair, cnn, images):
    channels = Mask(units_of(cnn, kinds=("channel",)), np.arange(9) > 0)
    with pytest.raises(ValueError, match="pass `examples`, or describe it with an `example`"):
        prune(cnn, channels)
    module = pair[1].inner
    at = {"hidden": At("1")}
    nameless = describe(module, at, example=torch.zeros(1, 8))
    mask = Mask(units_of(nameless), np.arange(WIDTH) > 0)
    for act in (prune, keep):
        with pytest.raises(ValueError, match=r"At\(\.\.\., weights="):
            act(nameless, mask)
    flat = flat_mean_reference(cnn, images, channels.units)
    with pytest.raises(ValueError, match="no bias that could take up"):
        prune(cnn, channels, reference=flat, examples=images["a"])
    # Where one of the weights is forgotten, the smaller module does not run; where a wrong one is named, it differs.
    half = describe(module, {"hidden": At("1", weights={"0.weight": 0, "0.bias": 0})}, example=torch.zeros(1, 8))
    with pytest.raises(ValueError, match=r"does not run.*keep it at zero"):
        prune(half, Mask(units_of(half), np.arange(WIDTH) > 0))
    early = describe(
        nn.Sequential(nn.Linear(8, 4), nn.Sigmoid(), nn.Linear(4, 2)).eval(),
        {"before": At("0", weights={"0.weight": 0, "0.bias": 0, "2.weight": 1})},
        example=torch.zeros(1, 8),
    )
    with pytest.raises(ValueError, match="computes something else"):
        prune(early, Mask(units_of(early), np.arange(4) > 0))


def test_removal_keeps_its_unit(pair, tmp_path):
    experiment = Experiment(pair[0], GIVEN, loss=custom(margin, unit="logits"))
    removal = removal_effects(experiment, ablation_effects(experiment), sizes=(2,), draws=1)
    store.save(removal, tmp_path / "removal")
    assert store.load(Removal, tmp_path / "removal").unit == removal.unit == "logits"
    assert removal.made["loss"] == experiment.metric.record()
