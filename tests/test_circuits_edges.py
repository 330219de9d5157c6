"""Edges against the slow literal definition: hold A, read B, times B's gradient; and the paths that they count."""

import numpy as np
import pytest
import torch

from skilloc.circuits.edges import edge_effects
from skilloc.experiment import Experiment, flat_mean_reference, resample_reference, zero_reference
from skilloc.experiment.gradients import read_gradients
from skilloc.masks import sample
from skilloc.models.makers import face_of, output_weight, units_of
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples
from skilloc.tasks.losses import cross_entropy
from skilloc.tasks.losses.nll import mean_nll
from skilloc.tasks.parity import parity_subtasks


@pytest.fixture
def batches(tokens):
    return {"a": Examples(tokens[:2, :-1], tokens[:2, 1:]), "b": Examples(tokens[2:, :-1], tokens[2:, 1:])}


@pytest.fixture
def parity():
    subtasks = parity_subtasks(6, atoms=2, k=2, composites=[(0, 1)])
    return {name: subtask.draw(40) for name, subtask in subtasks.items()}


def network(widths=(9, 10), activation="gelu", classes=2):
    model = MLP(8, classes, list(widths), len(widths) + 1, activation=activation, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def references(kind, model, batches, units):
    if kind == "zero":
        return zero_reference(units)
    if kind == "flat mean":
        return flat_mean_reference(model, batches, units)
    return resample_reference(model, batches, units, seed=0)


def select(value, node):
    return value[..., node.position, :] if node.kind == "head" else value[..., node.position]


def gradient(model, batch, node):
    """The activation of a node and the gradient of each example's loss there, example by example."""
    values, slopes = [], []
    for i in range(len(batch)):
        one = Examples(batch.inputs[i : i + 1], batch.targets[i : i + 1])
        leaf = []

        def opened(value, hook, leaf=leaf):
            leaf.append(value.detach().requires_grad_())
            return leaf[0]

        logits = model.run_with_hooks(one.inputs, fwd_hooks=[(node.hook, opened)])
        (slope,) = torch.autograd.grad(mean_nll(logits, one.targets).sum(), leaf)
        values.append(select(leaf[0].detach(), node)[0])
        slopes.append(select(slope, node)[0])
    return torch.stack(values), torch.stack(slopes)


def literal(model, batch, reference, source, target, rows):
    """sum over positions of (B with A held - B) times the gradient at B, per example."""
    before, slope = gradient(model, batch, target)
    read = []

    def held(value, hook):
        value = value.clone()
        select(value, source)[...] = reference.of(source.hook, units_of(model).bank(source.hook), source.position, rows)
        return value

    def reader(value, hook):
        read.append(select(value, target).detach())

    with torch.no_grad():
        model.run_with_hooks(batch.inputs, fwd_hooks=[(source.hook, held), (target.hook, reader)])
    return ((read[0] - before).double() * slope).reshape(len(batch), -1).sum(dim=1).numpy()


def units_among(edges):
    return [i for i, node in enumerate(edges.nodes) if node.kind in ("neuron", "head")]


@pytest.mark.parametrize("kind", ["flat mean", "resample"])
def test_total_edges_are_the_literal_definition(any_model, batches, kind):
    units = units_of(any_model)
    keep = sample(units, 2, seed=1) | units.named(["L0H1", "L1H2", "L0N3"])
    reference = references(kind, any_model, batches, units)
    edges = edge_effects(Experiment(any_model, batches, reference=reference, folds=2), keep, paths="total")
    for a in units_among(edges):
        for b in units_among(edges):
            source, target = edges.nodes[a], edges.nodes[b]
            if target.column <= source.column:
                assert not edges.values[:, :, a, b].any()
                continue
            for s, batch in enumerate(batches.values()):
                rows = slice(2 * s, 2 * s + 2)
                found = literal(any_model, batch, reference, source, target, rows)
                np.testing.assert_allclose(edges.values[:, s, a, b], found, atol=2e-6)


def test_edges_into_the_logits_of_a_language_model(native_plain_ln, batches):
    """To first order they are the effect: the change of the logits times the gradient of the loss there."""
    units = units_of(native_plain_ln)
    keep = units.named(["L0H1", "L1N3"])
    edges = edge_effects(Experiment(native_plain_ln, batches, folds=1), keep, paths="total")
    names = [node.name for node in edges.nodes]
    assert names == ["tokens", "L0H1", "L1N3", "logits"]
    for s, batch in enumerate(batches.values()):
        logits = native_plain_ln(batch.inputs).detach().requires_grad_()
        (slope,) = torch.autograd.grad(mean_nll(logits, batch.targets).sum(), logits)
        for a, (hook, position) in enumerate([("blocks.0.attn.hook_z", 1), ("blocks.1.mlp.hook_post", 3)], start=1):

            def zero(value, hook, position=position):
                value = value.clone()
                value[:, :, position] = 0
                return value

            with torch.no_grad():
                held = native_plain_ln.run_with_hooks(batch.inputs, fwd_hooks=[(hook, zero)])
            wanted = ((held - logits.detach()) * slope).flatten(1).sum(dim=1).mean()
            assert edges.values[0, s, a, 3] == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize("kind", ["zero", "resample"])
def test_direct_edges_equal_total_ones_where_there_is_no_other_path(any_model, batches, kind):
    """Nothing lies between the heads and the neurons of a layer, nor between its neurons and the next heads."""
    units = units_of(any_model)
    keep = sample(units, 6, seed=2) | units.named(["L0H0", "L0N5", "L1H2", "L1N7"])
    reference = references(kind, any_model, batches, units)
    direct, total = (
        edge_effects(Experiment(any_model, batches, reference=reference, folds=2), keep, paths=paths)
        for paths in ("direct", "total")
    )
    compared = 0
    for a, source in enumerate(direct.nodes):
        for b, target in enumerate(direct.nodes):
            heads, layers = (source.kind, target.kind), target.layer - source.layer
            if (heads, layers) in [(("head", "neuron"), 0), (("neuron", "head"), 1)]:
                np.testing.assert_allclose(direct.values[..., a, b], total.values[..., a, b], atol=3e-6)
                compared += 1
    assert compared > 3
    # Elsewhere they differ: what comes in between passes on what it gets.
    assert np.abs(direct.values - total.values).max() > 1e-3
    assert (direct.measured, total.measured) == ("direct", "total")


def test_a_direct_edge_is_the_write_of_one_unit_in_the_input_of_another(native_gated_rms, batches):
    """Worked out with the weights: residual stream plus write, norm, gate, up, activation."""
    model, units = native_gated_rms, units_of(native_gated_rms)
    keep = units.named(["L0H2", "L0N4", "L1N9"])
    edges = edge_effects(Experiment(model, batches, folds=2), keep, paths="direct")
    place = {node.name: i for i, node in enumerate(edges.nodes)}
    target = edges.nodes[place["L1N9"]]
    mlp, norm = model.blocks[1].mlp, model.blocks[1].ln2
    for s, batch in enumerate(batches.values()):
        clean, slope = gradient(model, batch, target)
        cache = {}
        with torch.no_grad():
            _, cache = model.run_with_cache(batch.inputs)
            stream = cache["blocks.1.ln2.hook_in"]
            z, post = cache["blocks.0.attn.hook_z"], cache["blocks.0.mlp.hook_post"]
            writes = {
                "L0H2": -z[:, :, 2] @ output_weight(model, "blocks.0.attn.hook_z")[16:24],
                "L0N4": -post[:, :, 4, None] * output_weight(model, "blocks.0.mlp.hook_post")[4],
            }
            for name, write in writes.items():
                read = norm(stream + write)
                changed = torch.nn.functional.silu(mlp.gate(read)) * getattr(mlp, "in")(read)
                wanted = ((changed[..., 9] - clean) * slope).sum(dim=1).numpy()
                np.testing.assert_allclose(edges.values[:, s, place[name], place["L1N9"]], wanted, atol=2e-6)


@pytest.mark.parametrize("kind", ["zero", "flat mean", "resample"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_closed_form_edges_of_an_mlp_are_the_literal_definition(parity, kind, activation):
    model = network(activation=activation)
    units = units_of(model)
    reference = references(kind, model, parity, units)
    edges = edge_effects(
        Experiment(model, parity, reference=reference, folds=4), np.ones(len(units), dtype=bool), paths="direct"
    )
    place = {node.name: i for i, node in enumerate(edges.nodes)}
    assert edges.measured == "closed form"
    for a, b in [("L0N0", "L1N0"), ("L0N8", "L1N9"), ("L0N3", "L1N5")]:
        source, target = edges.nodes[place[a]], edges.nodes[place[b]]
        for s, batch in enumerate(parity.values()):
            found = literal(model, batch, reference, source, target, slice(40 * s, 40 * s + 40))
            wanted = found.reshape(4, 10).mean(axis=1)
            np.testing.assert_allclose(edges.values[:, s, place[a], place[b]], wanted, atol=1e-5)
        assert edges.weights[place[a], place[b]] == model.layers[1].weight[int(b[3:]), int(a[3:])]


@pytest.mark.parametrize("kind", ["zero", "flat mean"])
def test_closed_form_equals_running_with_the_source_held(parity, kind):
    """Between neighbouring layers, inputs and outputs included; only a run knows what skips a layer."""
    model = network(widths=(7, 8, 6), classes=3)
    units = units_of(model)
    reference = references(kind, model, parity, units)
    keep = sample(units, 15, seed=0)
    closed, total = (
        edge_effects(Experiment(model, parity, reference=reference, folds=2), keep, paths=paths)
        for paths in ("direct", "total")
    )
    next_to = np.array([[b.layer == a.layer + 1 for b in closed.nodes] for a in closed.nodes])
    np.testing.assert_allclose(closed.values[..., next_to], total.values[..., next_to], atol=1e-5)
    assert not closed.values[..., ~next_to].any()
    assert np.abs(total.values[..., ~next_to]).max() > 0.01
    np.testing.assert_allclose(closed.inputs, total.inputs, atol=1e-6)
    assert np.abs(closed.weights[next_to]).min() > 0


def test_inputs_are_held_at_zero_or_their_mean(parity):
    model = network()
    units = units_of(model)
    keep = np.zeros(len(units), dtype=bool)
    every = torch.cat([batch.inputs for batch in parity.values()])
    for reference, at in (
        (zero_reference(units), torch.zeros(8)),
        (flat_mean_reference(model, parity, units), every.mean(0)),
    ):
        edges = edge_effects(Experiment(model, parity, reference=reference, folds=1), keep, paths="direct")
        assert [node.name for node in edges.nodes] == [*(f"input {i}" for i in range(8)), "logit 0", "logit 1"]
        for s, batch in enumerate(parity.values()):
            for i in range(8):
                held = batch.inputs.clone()
                held[:, i] = at[i]
                with torch.no_grad():
                    change = mean_nll(model(held), batch.targets) - mean_nll(model(batch.inputs), batch.targets)
                assert edges.inputs[0, s, i] == pytest.approx(float(change.mean()), abs=1e-6)


def test_tokens_enter_at_the_first_block(native_plain_ln, batches):
    units = units_of(native_plain_ln)
    edges = edge_effects(Experiment(native_plain_ln, batches, folds=1), units.named(["L0H0"]), paths="total")
    silent = [("blocks.0.hook_in", lambda value, hook: torch.zeros_like(value))]
    for s, batch in enumerate(batches.values()):
        with torch.no_grad():
            base = mean_nll(native_plain_ln(batch.inputs), batch.targets)
            held = mean_nll(native_plain_ln.run_with_hooks(batch.inputs, fwd_hooks=silent), batch.targets)
        assert edges.inputs[0, s, 0] == pytest.approx(float((held - base).mean()), abs=1e-5)


def test_many_blocks_of_examples_give_the_same(native_plain_ln, batches, monkeypatch):
    units = units_of(native_plain_ln)
    keep = sample(units, 6, seed=0)
    reference = resample_reference(native_plain_ln, batches, units, seed=0)
    experiment = Experiment(native_plain_ln, batches, reference=reference, folds=2)
    wholes = [edge_effects(experiment, keep, paths=paths) for paths in ("wires", "total")]
    monkeypatch.setattr("skilloc.models.losses.MAX_LOGITS", 11 * 61)
    monkeypatch.setattr("skilloc.circuits.edge_gates.TOKENS", 11)
    for whole in wholes:
        experiment = Experiment(native_plain_ln, batches, reference=reference, folds=2)
        parts = edge_effects(experiment, keep, paths=whole.measured)
        np.testing.assert_allclose(parts.values, whole.values, atol=1e-6)
        np.testing.assert_allclose(parts.inputs, whole.inputs, atol=1e-6)


def test_gradients_are_of_the_mean_loss_of_each_example(native_plain_ln, tokens):
    targets = tokens[:, 1:].clone()
    targets[0, 3:] = -100  # the first example has 3 scored targets
    batch = Examples(tokens[:, :-1], targets)
    bank = units_of(native_plain_ln).bank("blocks.1.mlp.hook_post")
    found = read_gradients(face_of(native_plain_ln), batch, [bank], {bank.name: [2, 5]}, cross_entropy)
    logits = native_plain_ln(batch.inputs).detach().requires_grad_()
    (slope,) = torch.autograd.grad(mean_nll(logits, targets).sum(), logits)
    torch.testing.assert_close(found.logit_slopes, slope, atol=1e-6, rtol=1e-5)
    assert found.slopes["blocks.1.mlp.hook_post"].shape == (4, 11, 2)
    assert not found.slopes["blocks.1.mlp.hook_post"][0, 4:].any()


def test_what_does_not_belong_together_is_refused(native_plain_ln, batches, parity):
    units = units_of(native_plain_ln)
    keep = units.named(["L0H0"])
    with pytest.raises(ValueError, match="pass one value per unit"):
        edge_effects(Experiment(native_plain_ln, batches, folds=2), keep[:-1])
    with pytest.raises(ValueError, match="use one of wires, total, direct"):
        edge_effects(Experiment(native_plain_ln, batches, folds=2), keep, paths="indirect")
    with pytest.raises(ValueError, match="leave it out"):
        edge_effects(Experiment(native_plain_ln, batches, folds=2), keep, inputs=["a"])
    model = network()
    with pytest.raises(ValueError, match="a name of its own"):
        edge_effects(Experiment(model, parity), np.ones(19, dtype=bool), inputs=["a"] * 8)
    # A block that scales what it adds: the stream is no sum of what its parts say that they write.
    handle = native_plain_ln.blocks[0].mlp.register_forward_hook(lambda module, args, output: 2 * output)
    try:
        with pytest.raises(ValueError, match='use paths="total"'):
            edge_effects(Experiment(native_plain_ln, batches, folds=2), keep, paths="direct")
    finally:
        handle.remove()
