"""Circuits of any model: one network through two faces, layers, channels, residual dimensions, a user's hooks."""

import numpy as np
import pytest
import torch
from torch import nn

from skilloc import At, describe
from skilloc.circuits import graph as g
from skilloc.circuits.edges import edge_effects
from skilloc.circuits.elimination import elimination_ranking
from skilloc.circuits.faithfulness import enough, faithfulness, minimality
from skilloc.circuits.trace import Tracing, trace_circuit
from skilloc.experiment import Experiment
from skilloc.masks import Mask, sample
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples
from skilloc.tasks.losses.nll import mean_nll


@pytest.fixture(scope="module")
def network():
    model = MLP(6, 3, [5, 4], 3, activation="gelu", seed=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
    return model


@pytest.fixture(scope="module")
def plain(network):
    """The same network as torch would write it, with the same weights."""
    parts = [nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3)]
    with torch.no_grad():
        for linear, own in zip(parts[::2], [*network.layers, network.out], strict=True):
            linear.weight.copy_(own.weight)
            linear.bias.copy_(own.bias)
    weights = [{"0.weight": 0, "0.bias": 0, "2.weight": 1}, {"2.weight": 0, "2.bias": 0, "4.weight": 1}]
    units = {f"hidden{i}": At(path, weights=weights[i]) for i, path in enumerate("13")}
    return describe(nn.Sequential(*parts).eval(), units)


@pytest.fixture(scope="module")
def skill(network):
    """Two subtasks that the network has learned: its own answers."""
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        targets = network(inputs).argmax(dim=1)
    order = inputs[:, 0].argsort()
    return {
        "low": Examples(inputs[order[:32]], targets[order[:32]]),
        "high": Examples(inputs[order[32:]], targets[order[32:]]),
    }


@pytest.mark.parametrize("reference", ["zero", "flat mean", "resample"])
@pytest.mark.parametrize("loss", ["cross_entropy", "kl"])
def test_one_network_through_two_faces_has_equal_circuits(network, plain, skill, reference, loss):
    both = [Experiment(model, skill, reference=reference, loss=loss, folds=4) for model in (network, plain)]
    keep = sample(both[0].units, 5, seed=0)
    assert both[1].units.names[:2] == ("hidden0.0", "hidden0.1")
    curves, rankings, adds, sizes = [], [], [], []
    for experiment in both:
        circuits = [Mask(experiment.units, keep)]
        curves.append(faithfulness(experiment, circuits, subtask="high", draws=3))
        adds.append(minimality(experiment, circuits[0]))
        rankings.append(elimination_ranking(experiment, subtask="low"))
        sizes.append(enough(experiment, rankings[-1], 0.7, subtask="low"))
    for part in ("floor", "baseline", "circuit", "rest", "random", "random_rest"):
        np.testing.assert_allclose(getattr(curves[0], part), getattr(curves[1], part), atol=1e-6)
    np.testing.assert_allclose(*adds, atol=1e-6)
    np.testing.assert_array_equal(*rankings)
    assert sizes[0] == sizes[1]
    if loss == "kl":
        return
    ours, theirs = (edge_effects(experiment, keep, paths="total") for experiment in both)
    hidden = [i for i, node in enumerate(ours.nodes) if node.kind == "neuron"]
    outputs = [i for i, node in enumerate(ours.nodes) if node.kind == g.OUTPUT]
    assert [node.kind for node in theirs.nodes] == ["neuron"] * 5 + ["output"]
    assert theirs.inputs.shape[-1] == 0
    np.testing.assert_allclose(ours.values[:, :, hidden][..., hidden], theirs.values[:, :, :5, :5], atol=1e-6)
    into = ours.values[:, :, hidden][..., outputs].sum(axis=-1)
    np.testing.assert_allclose(into, theirs.values[:, :, :5, 5], atol=1e-6)
    assert np.abs(theirs.values[:, :, :5, :5]).max() > 1e-3


def test_a_described_module_is_traced_without_inputs(plain, skill):
    experiment = Experiment(plain, skill, folds=4)
    graph = trace_circuit(experiment, Mask(experiment.units, np.ones(9, dtype=bool)), Tracing(draws=1), subtask="low")
    assert g.in_order(graph)[-1] == "outputs"
    assert {graph.nodes[name][g.KIND] for name in graph} == {"neuron", "output"}
    assert next(iter(graph.edges.values()))[g.MEASURED] == "wires"
    assert not any(g.WEIGHT in edge for edge in graph.edges.values())
    with pytest.raises(ValueError, match="has no names; leave it out"):
        edge_effects(experiment, np.ones(9, dtype=bool), inputs=["a"] * 6)
    with pytest.raises(ValueError, match='what the units of this Sequential write to each other; use paths="total"'):
        edge_effects(experiment, np.ones(9, dtype=bool), paths="direct")


class Pictures(nn.Module):
    """Two convolutions and a linear map."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3)
        self.out = nn.Linear(3 * 2 * 2, 5)

    def forward(self, x):
        return self.out(self.second(self.first(x).relu()).relu().flatten(1))


def test_channels_of_pictures_are_the_literal_definition():
    torch.manual_seed(0)
    module = Pictures().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
    inputs = torch.rand(16, 1, 6, 6)
    with torch.no_grad():
        targets = module(inputs).argmax(dim=1)
    places = {name: At(name, axis=-3, kind="channel") for name in ("first", "second")}
    model = describe(module, places, example=inputs[:1])
    experiment = Experiment(model, {"a": Examples(inputs, targets)}, reference="flat mean", folds=4)
    found = edge_effects(experiment, np.ones(7, dtype=bool), paths="total")
    assert [node.kind for node in found.nodes] == ["channel"] * 7 + ["output"]
    with torch.no_grad():
        first = module.first(inputs)
    leaf = module.second(first.relu()).detach().requires_grad_()
    losses = mean_nll(module.out(leaf.relu().flatten(1)), targets)
    (slope,) = torch.autograd.grad(losses.sum(), leaf)
    for a in range(4):
        held = first.clone()
        held[:, a] = first[:, a].mean(dim=0)
        with torch.no_grad():
            product = ((module.second(held.relu()) - leaf) * slope).sum(dim=(2, 3))
        np.testing.assert_allclose(found.values[:, 0, a, 4:7], product.view(4, 4, 3).mean(dim=1), atol=1e-5)
    curve = faithfulness(
        experiment, [Mask(experiment.units, sample(experiment.units, 4, seed=1))], subtask="a", draws=1
    )
    assert np.isfinite(curve.faithfulness(0).value)


@pytest.fixture
def texts(tokens):
    return {"a": Examples(tokens[:2, :-1], tokens[:2, 1:]), "b": Examples(tokens[2:, :-1], tokens[2:, 1:])}


@pytest.mark.parametrize("reference", ["zero", "resample"])
def test_edges_between_whole_layers_are_the_literal_definition(native_plain_ln, texts, reference):
    model = native_plain_ln
    experiment = Experiment(model, texts, kinds=("layer",), reference=reference, folds=2)
    names = [bank.name for bank in experiment.units.banks]
    assert experiment.units.names == ("L0A", "L0M", "L1A", "L1M")
    found = edge_effects(experiment, np.ones(4, dtype=bool), paths="total")
    assert [node.name for node in found.nodes] == ["tokens", "L0A", "L0M", "L1A", "L1M", "logits"]
    for s, own in enumerate(texts.values()):
        rows = slice(2 * s, 2 * s + 2)
        for a in range(4):
            held = experiment.held.on(names[a], rows)
            for b in range(a + 1, 4):
                leaf = []

                def opened(value, hook, leaf=leaf):
                    leaf.append(value.detach().requires_grad_())
                    return leaf[0]

                logits = model.run_with_hooks(own.inputs, fwd_hooks=[(names[b], opened)])
                (slope,) = torch.autograd.grad(mean_nll(logits, own.targets).sum(), leaf)
                seen = []
                hooks = [(names[a], lambda value, hook, held=held: held.expand_as(value).clone())]
                with torch.no_grad():
                    model.run_with_hooks(
                        own.inputs, fwd_hooks=[*hooks, (names[b], lambda value, hook, seen=seen: seen.append(value))]
                    )
                wanted = ((seen[0] - leaf[0].detach()) * slope).flatten(1).sum(dim=1)
                np.testing.assert_allclose(found.values[:, s, 1 + a, 1 + b], wanted.numpy(), atol=1e-5)
                assert wanted.abs().max() > 1e-4


def test_direct_edges_between_layers_equal_total_ones_where_there_is_no_other_path(any_model, texts):
    experiment = Experiment(any_model, texts, kinds=("layer",), folds=2)
    keep = np.ones(len(experiment.units), dtype=bool)
    direct, total = (edge_effects(experiment, keep, paths=paths) for paths in ("direct", "total"))
    place = {node.name: i for i, node in enumerate(direct.nodes)}
    for a, b in (("L0A", "L0M"), ("L0M", "L1A"), ("tokens", "L0A"), ("L1A", "L1M")):
        i, j = place[a], place[b]
        np.testing.assert_allclose(direct.values[..., i, j], total.values[..., i, j], atol=3e-6)
    assert np.abs(direct.values - total.values).max() > 1e-3


def test_hooks_of_a_user_are_honoured_and_have_no_closed_form(network, skill):
    """A hook that doubles the second layer: edges are those of a network whose weights after it are doubled."""
    keep = np.ones(9, dtype=bool)
    twice = MLP(6, 3, [5, 4], 3, activation="gelu")
    twice.load_state_dict(network.state_dict())
    with torch.no_grad():
        twice.out.weight.mul_(2)
    wanted = edge_effects(Experiment(twice, skill, folds=4), keep, paths="total")
    handle = network.layers[1].hook_post.register_forward_hook(lambda module, args, output: 2 * output)
    try:
        experiment = Experiment(network, skill, folds=4)
        found = edge_effects(experiment, keep, paths="total")
        with pytest.raises(ValueError, match=r'hooks of your own \(layers.1.hook_post: .*use paths="total"'):
            edge_effects(experiment, keep, paths="direct")
    finally:
        handle.remove()
    assert (found.measured, wanted.measured) == ("total", "total")
    np.testing.assert_allclose(found.inputs, wanted.inputs, atol=1e-6)
    np.testing.assert_allclose(found.values[:, :, :6], wanted.values[:, :, :6], atol=1e-6)


def test_units_cannot_be_called_what_circuits_call_their_ends(plain, skill):
    module = describe(plain.inner, {"a": At("1", kind="input")}, example=torch.zeros(1, 6))
    with pytest.raises(ValueError, match='of kind "input"'):
        edge_effects(Experiment(module, skill), np.ones(5, dtype=bool))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_edge_and_no_share(llama, tokens, side):
    """Prompts of two lengths, padded on either side, against each length measured by itself."""
    with torch.no_grad():
        answers = llama(tokens).argmax(dim=-1)
    short, long = slice(0, 2), slice(2, 4)
    alone = {
        "short": Examples(tokens[short, :7], answers[short, :7]),
        "long": Examples(tokens[long, :11], answers[long, :11]),
    }

    def padded(own):
        more = (12 - own.positions, 0) if side == "left" else (0, 12 - own.positions)
        inputs = nn.functional.pad(own.inputs, more, value=3)
        mask = nn.functional.pad(torch.ones_like(own.inputs, dtype=torch.bool), more, value=False)
        return Examples({"tokens": inputs, "mask": mask}, nn.functional.pad(own.targets, more, value=-100))

    found, curves = [], []
    for examples in (alone, {name: padded(own) for name, own in alone.items()}):
        parts = [Experiment(llama, {name: own}, folds=2) for name, own in examples.items()]
        units = parts[0].units
        keep = units.named(["L0H1", "L0N3", "L1H2", "L2N5"])
        found.append([edge_effects(part, keep) for part in parts])
        curves.append(
            [
                faithfulness(part, [Mask(units, ~keep)], subtask=name, draws=1)
                for name, part in zip(examples, parts, strict=True)
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours.values, theirs.values, atol=2e-5)
        assert np.abs(ours.values).max() > 1e-2
    for ours, theirs in zip(*curves, strict=True):
        np.testing.assert_allclose(ours.circuit, theirs.circuit, atol=2e-5)
        np.testing.assert_allclose(ours.floor, theirs.floor, atol=2e-5)


@pytest.fixture
def residual(gpt2, tokens):
    """Six residual dimensions of a model on what it has learned: its own answers."""
    with torch.no_grad():
        answers = gpt2(tokens).argmax(dim=-1)
    examples = {"a": Examples(tokens[:2], answers[:2]), "b": Examples(tokens[2:], answers[2:])}
    experiment = Experiment(gpt2, examples, kinds=("residual",), reference="flat mean", folds=2)
    return experiment, np.arange(len(experiment.units)) % 6 == 1


def test_residual_dimensions_are_held_at_all_their_places_as_sources(gpt2, residual):
    experiment, keep = residual
    (bank,) = experiment.units.banks
    assert len(bank.places) > 4
    found = edge_effects(experiment, keep)
    assert [node.kind for node in found.nodes] == ["residual"] * int(keep.sum()) + ["output"]
    assert not found.values[..., :-1].any()
    for s, own in enumerate(experiment.examples.values()):
        logits = gpt2(own.inputs).detach().requires_grad_()
        (slope,) = torch.autograd.grad(mean_nll(logits, own.targets).sum(), logits)
        for a, unit in enumerate(np.flatnonzero(keep)):

            def silent(value, hook, unit=unit):
                value = value.clone()
                value[..., unit] = experiment.held.values[hook.name][unit]
                return value

            with torch.no_grad():
                after = gpt2.run_with_hooks(own.inputs, fwd_hooks=[(place, silent) for place in bank.places])
            wanted = ((after - logits.detach()).double() * slope).flatten(1).sum(dim=1)
            np.testing.assert_allclose(found.values[:, s, a, -1], wanted.numpy(), atol=1e-5)
            assert wanted.abs().max() > 1e-4


def test_a_circuit_of_residual_dimensions_is_traced_and_edges_into_them_are_refused(residual):
    experiment, keep = residual
    graph = trace_circuit(experiment, Mask(experiment.units, keep), Tracing(draws=1), subtask="a")
    assert set(g.units_in(graph)) == set(np.array(experiment.units.names)[keep])
    assert {ends[1] for ends in graph.edges} == {"logits"}
    assert all(g.ADDS in graph.nodes[name] for name in g.units_in(graph))
    with pytest.raises(ValueError, match=r"computed anew from the others, .* an edge into it; leave `inputs` out"):
        edge_effects(experiment, keep, inputs=["tokens"])
    with pytest.raises(ValueError, match=r'what R1, a unit of kind residual, itself writes .*use paths="total"'):
        edge_effects(experiment, keep, paths="direct")
