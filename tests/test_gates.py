"""Learned circuits: gates are what they say, and find exactly what was planted, seed after seed."""

from dataclasses import replace

import numpy as np
import pytest
import test_ladder
import torch

import skilloc as sk
from skilloc import store
from skilloc.circuits.alarms import faithfulness_alarms
from skilloc.circuits.exchange import exchanged
from skilloc.circuits.faithfulness import faithfulness
from skilloc.circuits.gated import SLACK, gated
from skilloc.circuits.gates import GateConfig, Learned, learn_circuit
from skilloc.circuits.solvers import OPEN_SHIFT, HardConcrete, Proximal, price_of
from skilloc.masks import matched_random

SOLVERS = ("proximal", "hard concrete")
SEEDS = range(10)


def world(count=128, **settings):
    """A network that computes two parities of two bits, each by neurons of its own, among neurons that do nothing."""
    model = sk.MLP(4, 2, [10, 12], 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first, second = model.layers
        # x0 + x1 - 2 (x0 + x1 - 1)+ is the parity of two bits.
        first.weight[2, :2], first.weight[7, :2], first.bias[7] = 1, 1, -1
        second.weight[4, 2], second.weight[4, 7] = 1, -2
        model.out.weight[1, 4], model.out.bias[0] = 8, 4
        # What reads and goes nowhere, and what is silent.
        first.weight[[0, 3, 5]] = torch.randn(3, 4, generator=generator)
        second.weight[[1, 8]] = torch.randn(2, 10, generator=generator)
    bits = torch.from_numpy(np.random.default_rng(1).integers(0, 2, size=(count, 4)))
    examples = {"parity": sk.Examples(bits.float(), bits[:, 0] ^ bits[:, 1])}
    return sk.Experiment(model, examples, folds=4, **settings), {"L0N2", "L0N7", "L1N4"}


def names(learned, place=0):
    return {learned.units.names[u] for u in np.flatnonzero(learned.keep[place])}


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rung", test_ladder.RUNGS)
def test_learned_circuits_are_what_is_planted_in_transformers(rung, solver):
    own, planted = test_ladder.experiment(rung, "zero")
    config = GateConfig(sizes=(int(planted.sum()),), solver=solver, steps=12, checked=16, rounds=2, exact=2)
    for seed in SEEDS:
        learned = learn_circuit(own, config, subtask="skill", seed=seed)
        assert np.array_equal(learned.keep[0], planted), seed


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["zero", "mean", "resample"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_learned_circuits_are_what_is_planted_in_a_network(solver, reference):
    own, planted = world(reference=reference)
    for seed in SEEDS:
        learned = learn_circuit(own, GateConfig(sizes=(8, 3), solver=solver, steps=15), subtask="parity", seed=seed)
        assert names(learned) == planted, seed
        assert names(learned, 1) >= planted
        assert learned.shares == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_path_ends_at_the_wanted_share(solver):
    own, planted = world()
    config = GateConfig(sizes=(16, 8, 3, 2, 1), share=0.9, solver=solver, steps=20)
    learned = learn_circuit(own, config, subtask="parity")
    assert learned.sizes == (2, 3, 8, 16)
    assert (learned.shares >= 0.9).tolist() == [False, True, True, True]
    assert names(learned, 1) == planted


@pytest.mark.parametrize("loss", ["cross_entropy", "kl"])
@pytest.mark.parametrize("reference", ["zero", "mean", "paired"])
def test_slopes_are_finite_differences(loss, reference):
    own, _ = test_ladder.experiment("induction", reference, loss=loss)
    model = gated(own, subtask="skill", batch=8, seed=3)
    rng, part = np.random.default_rng(0), model.turn(1, 12)
    gates = rng.uniform(0.2, 0.8, size=len(own.units))
    _, slopes = model.slopes(gates, part)
    for unit in range(len(gates)):
        step = 2e-3 * (np.arange(len(gates)) == unit)
        apart = model.loss(gates + step, part) - model.loss(gates - step, part)
        assert slopes[unit] == pytest.approx(apart / 4e-3, abs=2e-4, rel=2e-2)


@pytest.mark.parametrize("reference", ["zero", "mean", "resample", "paired"])
def test_binary_gates_are_a_hold(reference):
    own, _ = test_ladder.experiment("induction", reference)
    model = gated(own, subtask="skill", batch=5, seed=2)
    mask = sk.Mask(own.units, np.random.default_rng(0).random(len(own.units)) < 0.5)
    assert model.loss(mask.keep.astype(float), [slice(0, 32)]) == pytest.approx(own.losses(mask).mean(), rel=1e-6)
    assert model.loss(np.ones(len(own.units)), [slice(0, 32)]) == pytest.approx(own.losses().mean(), rel=1e-6)


def margin(logits, examples):
    """How far the right answer leads: without an end."""
    right = logits.gather(1, examples.targets[:, None])[:, 0]
    return logits.sum(dim=1) - 2 * right


def test_a_circuit_that_does_more_than_the_model_is_none_of_the_models():
    own, planted = world(loss=margin)
    with torch.no_grad():  # a neuron that computes the parity too, and takes back half of the lead
        own.model.layers[1].weight[6, 2], own.model.layers[1].weight[6, 7] = 1, -2
        own.model.out.weight[1, 6], own.model.out.bias[0] = -4, 2
    own = sk.Experiment(own.model, own.subtasks, folds=4, loss=margin, reference="mean")
    config = GateConfig(sizes=(4,), steps=40)
    more, same = (learn_circuit(own, replace(config, beyond=beyond), subtask="parity") for beyond in (True, False))
    assert names(same) == planted | {"L1N6"}
    assert "L1N6" not in names(more)
    kept, _ = sk.mask_effects(
        own, [sk.Mask(own.units, np.zeros(len(own.units), dtype=bool)), more.mask(4), same.mask(4)]
    )
    shares = 1 - kept[1:, :, 0].mean(axis=1) / kept[0, :, 0].mean()
    assert shares == pytest.approx([2.0, 1.0], abs=1e-4)
    curve = faithfulness(own, [more.mask(4)], subtask="parity", draws=2)
    (alarm,) = faithfulness_alarms(curve)
    assert str(alarm).startswith("circuit of 4 units: alone it has 2 times the skill of the whole model")
    assert not faithfulness_alarms(faithfulness(own, [same.mask(4)], subtask="parity", draws=2))


def test_how_far_a_loss_without_end_is_from_the_models_own():
    subtasks = sk.parity_subtasks(6, atoms=2, k=2)
    model = sk.MLP(8, 2, width=6, depth=3, seed=1)
    experiment = sk.Experiment(model, subtasks, split="train", count=32, loss=margin, folds=1)
    near, low = (gated(experiment, subtask="parity_0", batch=8, seed=0, beyond=beyond) for beyond in (False, True))
    own = near.experiment.losses()
    gates, every = np.random.default_rng(0).random(near.count), [slice(0, 32)]
    each = np.array([low.loss(gates, [slice(e, e + 1)]) for e in range(32)])
    assert (each < own - SLACK).any()
    assert (each > own).any()
    wanted = (own + np.abs(each - own)).mean()
    assert near.loss(gates, every) == pytest.approx(wanted)
    slopes = np.stack([low.slopes(gates, [slice(e, e + 1)])[1] for e in range(32)])
    loss, found = near.slopes(gates, every)
    assert loss == pytest.approx(wanted)
    np.testing.assert_allclose(found, (np.where(each > own - SLACK, 1, -1)[:, None] * slopes).mean(axis=0), atol=1e-7)
    likelihood = sk.Experiment(model, subtasks, split="train", count=32, folds=1)
    assert gated(likelihood, subtask="parity_0", batch=8, seed=0).wanted is None


def test_gates_act_at_some_positions_only():
    own, _ = test_ladder.experiment("previous", "zero", at="last")
    model = gated(own, subtask="skill", batch=32, seed=0)
    mask = sk.Mask(own.units, np.arange(len(own.units)) > 3)
    assert model.loss(mask.keep.astype(float), [slice(0, 32)]) == pytest.approx(own.losses(mask).mean(), rel=1e-6)


@pytest.mark.parametrize("make", [lambda: Proximal(50, 0.1), lambda: HardConcrete(50, 0.3, seed=0)])
def test_as_many_gates_are_open_as_are_wanted(make):
    rng, solver = np.random.default_rng(0), make()
    pull = rng.standard_normal(50) ** 3
    for wanted in (40.0, 30.0, 20.0, 10.0, 10.0, 10.0, 10.0):
        assert ((solver.draw() >= 0) & (solver.draw() <= 1)).all()
        solver.step(pull + 0.1 * rng.standard_normal(50), wanted)
        assert solver.scores().sum() == pytest.approx(wanted, rel=1e-6)


def test_a_proximal_step_is_the_least_of_what_it_minimises():
    """min over gates in [0, 1] of (gate - free)^2 / (2 step) + price gate, gate by gate, by looking everywhere."""
    solver = Proximal(5, 0.1)
    solver.step(np.array([3.0, -1.0, 0.5, -0.2, 0.0]), 3.0)
    before, slopes = solver.scores().copy(), np.array([-1.0, 2.0, 0.5, 0.3, -0.4])
    mean, step = solver._steps.__class__(5, 0.1), None
    mean._mean, mean._square, mean._taken = (
        solver._steps._mean.copy(), solver._steps._square.copy(), solver._steps._taken
    )  # fmt: skip
    average, step = mean(slopes)
    solver.step(slopes, 2.5)
    everywhere = np.linspace(0, 1, 100_001)
    for u in range(5):
        free = before[u] - step[u] * average[u]
        value = (everywhere - free) ** 2 / (2 * step[u]) + solver.price * everywhere
        assert solver.scores()[u] == pytest.approx(everywhere[value.argmin()], abs=2e-5)


@pytest.mark.parametrize("exact", [0, 3])
def test_exchanges_find_the_best_units_where_what_they_add_is_a_sum(exact):
    model = sk.MLP(1, 2, [10], 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.layers[0].weight[:, 0] = 1
        model.out.weight[1], model.out.bias[0] = torch.arange(10.0) / 10, 1
    bits = torch.arange(16) % 2
    own = sk.Experiment(model, {"bit": sk.Examples(bits[:, None].float(), bits)}, folds=4)
    keep, loss = exchanged(
        gated(own, subtask="bit", batch=16, seed=0), np.arange(10) < 3, [slice(0, 16)], rounds=6, exact=exact
    )
    assert np.flatnonzero(keep).tolist() == [7, 8, 9]
    assert loss == pytest.approx(own.losses(sk.Mask(own.units, keep)).mean())


def test_exchanges_never_raise_the_loss():
    own, _ = world()
    model, check = gated(own, subtask="parity", batch=64, seed=0), [slice(0, 128)]
    rng = np.random.default_rng(0)
    for _ in range(5):
        keep = rng.permutation(np.arange(22) < 5)
        _, loss = exchanged(model, keep, check, rounds=2, exact=0)
        assert loss <= model.loss(keep.astype(float), check)


@pytest.mark.parametrize("solver", SOLVERS)
def test_circuits_of_shuffled_labels_are_no_better_than_random_ones_on_true_labels(solver):
    """In nats: there is no skill to take a share of. The planted units are the truth's, so that a search among labels
    that say nothing must not prefer them."""
    own, planted = world(reference="mean")
    examples = own.examples["parity"]
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(5))
    shuffled = sk.Examples(examples.inputs, examples.targets[order])
    other = sk.Experiment(own.model, {"parity": shuffled}, reference="mean", folds=4)
    found, random = [], []
    for seed in range(4):
        circuit = learn_circuit(other, GateConfig(sizes=(3,), solver=solver, steps=20), subtask="parity", seed=seed)
        found.append(own.losses(circuit.masks[0]).mean())
        random += [own.losses(matched_random(circuit.masks[0], seed=s)).mean() for s in range(5)]
    true = own.losses(sk.Mask(own.units, own.units.named(planted))).mean()
    assert true < 0.1 < min(found)
    assert np.mean(found) > np.mean(random) - 0.01


def test_a_result_saves_itself(tmp_path):
    own, _ = world()
    learned = learn_circuit(own, GateConfig(sizes=(3, 8), steps=5, rounds=0), subtask="parity")
    store.save(learned, tmp_path / "learned")
    back = store.load(Learned, tmp_path / "learned")
    assert np.array_equal(back.keep, learned.keep)
    assert back.mask(8).keep.sum() == 8
    assert (back.sizes, back.subtask, back.units) == (learned.sizes, "parity", learned.units)
    assert learn_circuit(own, GateConfig(sizes=(3, 8), steps=5, rounds=0), subtask="parity").gates == pytest.approx(
        learned.gates
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"solver": "magic"}, "proximal or hard concrete"),
        ({"sizes": ()}, "at least one number of units"),
        ({"sizes": (0, 3)}, "`sizes` is 0"),
        ({"steps": 0}, "`steps` is 0"),
        ({"share": 1.5}, "at most 1"),
    ],
)
def test_what_cannot_be_learned_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        GateConfig(**arguments)


def test_refusals_at_the_door():
    own, _ = world()
    with pytest.raises(ValueError, match="22 units; choose at most that"):
        learn_circuit(own, GateConfig(sizes=(23,)), subtask="parity")
    counted = sk.Experiment(own.model, own.examples, loss="error", folds=4)
    with pytest.raises(ValueError, match="count"):
        learn_circuit(counted, GateConfig(sizes=(3,)), subtask="parity")
    learned = learn_circuit(own, GateConfig(sizes=(3,), steps=2, rounds=0), subtask="parity")
    with pytest.raises(ValueError, match="learned of 3 units"):
        learned.mask(4)


@pytest.mark.parametrize("spread", [-3, 0, 4])
@pytest.mark.parametrize("random", [False, True])
def test_the_price_is_that_of_halving_at_a_third_of_its_tries(spread, random):
    rng = np.random.default_rng(spread + 10)
    tries = []
    for count in (1, 2, 30, 2000):
        free, step = rng.normal(size=count), 10 ** rng.uniform(-4, spread, count)

        def open_at(price, free=free, step=step):
            tries.append(price)
            moved = free - step * price
            gates = 1 / (1 + np.exp(OPEN_SHIFT - moved.clip(-6, 6))) if random else moved.clip(0, 1)
            return float(gates.sum())

        low, high = ((free - 7) / step).min(), ((free + 7) / step).max()
        for share in (0.1, 0.5, 0.97):
            wanted, (a, b) = share * count, (low, high)
            for _ in range(80):
                middle = (a + b) / 2
                a, b = (middle, b) if open_at(middle) > wanted else (a, middle)
            halved = len(tries)
            price = price_of(open_at, wanted, free, step)
            assert len(tries) - halved <= 60
            assert open_at(price) == pytest.approx(open_at(b), abs=1e-8)
            tries.clear()
