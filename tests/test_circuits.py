"""Circuits whose truth is known: planted by hand, they are found, with the right signs, and nothing else is."""

import numpy as np
import pytest
import torch

from skilloc.ablation import ablation_effects
from skilloc.circuits import graph as g
from skilloc.circuits.edges import edge_effects
from skilloc.circuits.elimination import elimination_ranking
from skilloc.circuits.faithfulness import enough, faithfulness, minimality, share_kept, sizes_up_to
from skilloc.circuits.trace import Tracing, trace_circuit
from skilloc.experiment import Experiment, hold, losses, mean_reference, resample_reference, zero_reference
from skilloc.masks import Mask, sample, top
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples


@pytest.fixture(scope="module")
def gate():
    """A hand network on 4 bits: class 1 if bits 0 and 1, but not if bit 2. Bit 3 is read, and then goes nowhere.

    L0N1 = relu(x0 + x1 - 1) is the conjunction and L0N3 = relu(x2) the veto; L0N2 = relu(x3) feeds nothing.
    L1N0 = relu(4 L0N1 - 3 L0N3) decides, and votes with +0.5 for logit 1 and -0.5 for logit 0. L1N2 = relu(1) is
    constant and votes with +2 for logit 0, which wins unless L1N0 is above 2. The other units have no weights at all.
    (The veto leaves 1 of 4: where a relu is off, the gradient in front of it is zero, and no edge shows.)
    """
    model = MLP(4, 2, [5, 3], 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first, second = model.layers
        first.weight[1, [0, 1]], first.bias[1] = 1, -1
        first.weight[3, 2], first.weight[2, 3] = 1, 1
        second.weight[0, 1], second.weight[0, 3] = 4, -3
        second.bias[2] = 1
        model.out.weight[1, 0], model.out.weight[0, 0] = 0.5, -0.5
        model.out.weight[0, 2] = 2
    return model


def bits(seed):
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 2, size=(400, 4))
    targets = inputs[:, 0] & inputs[:, 1] & (1 - inputs[:, 2])
    return {"gate": Examples(torch.from_numpy(inputs).float(), torch.from_numpy(targets))}


PLANTED = {"L0N1", "L0N3", "L1N0", "L1N2"}
FEEDS = {
    ("input 0", "L0N1"): 1.0, ("input 1", "L0N1"): 1.0, ("input 2", "L0N3"): 1.0, ("L0N1", "L1N0"): 4.0,
    ("L0N3", "L1N0"): -3.0, ("L1N0", "logit 0"): -0.5, ("L1N0", "logit 1"): 0.5, ("L1N2", "logit 0"): 2.0,
}  # fmt: skip


@pytest.fixture(scope="module", params=["direct", "total"])
def traced(request, gate):
    chosen_on = Experiment(gate, bits(0))
    ranking = ablation_effects(chosen_on).mean("gate")
    size = enough(chosen_on, ranking, 0.999, subtask="gate")
    circuit = Mask(chosen_on.units, top(ranking, size))
    config = Tracing(paths=request.param)
    return trace_circuit(Experiment(gate, bits(1)), circuit, config, subtask="gate", chosen="share 0.999")


def test_exactly_the_planted_nodes_and_edges_are_found(traced):
    assert set(g.units_in(traced)) == PLANTED
    found = {ends: traced.edges[ends] for ends in traced.edges}
    layers = {name: traced.nodes[name][g.LAYER] for name in traced}
    neighbours = {ends for ends in found if layers[ends[1]] == layers[ends[0]] + 1}
    assert neighbours == set(FEEDS)
    assert {ends: found[ends][g.WEIGHT] for ends in neighbours} == FEEDS
    if next(iter(found.values()))[g.MEASURED] == "closed form":
        assert set(found) == neighbours
    else:
        # What skips a layer follows the planted paths as well: nothing comes from bit 3, nothing goes through L0N2.
        assert {a for a, _ in found} == {a for a, _ in FEEDS}
        assert ("L0N3", "logit 1") in found
        assert ("input 2", "L1N0") in found
        assert ("input 2", "L1N2") not in found


def test_planted_signs(gate, traced):
    value = {ends: traced.edges[ends][g.EFFECT]["gate"] for ends in traced.edges}
    # Without the veto L1N0 votes where it must not, and the loss rises.
    assert value["L0N3", "L1N0"]["low"] > 0
    assert value["L1N0", "logit 1"]["low"] > 0
    for name in PLANTED:
        assert traced.nodes[name][g.EFFECT]["gate"]["low"] > 0
    # One edge worked out by hand. Where the class is 1 (margin 4 - 2), L1N0 goes from 4 to 0 without the conjunction;
    # where the veto applies (margin 1 - 2, class 0), from 1 to 0, and that is for the better.
    x = bits(1)["gate"].inputs
    both = x[:, 0] * x[:, 1]
    one, vetoed = float((both * (1 - x[:, 2])).mean()), float((both * x[:, 2]).mean())
    wanted = 4 * one / (1 + np.exp(2)) - vetoed / (1 + np.exp(1))
    assert value["L0N1", "L1N0"]["value"] == pytest.approx(wanted, rel=1e-4)


def test_absent_paths_are_zero(gate):
    units = units_of(gate)
    edges = edge_effects(Experiment(gate, bits(1)), np.ones(len(units), dtype=bool), paths="total")
    names = [node.name for node in edges.nodes]
    # From all that bit 3 reaches, and into all that has no weights.
    for name in ("input 3", "L0N0", "L0N2", "L0N4", "L1N1"):
        assert not edges.values[:, :, names.index(name)].any()
    for name in ("L0N0", "L0N4", "L1N1", "L1N2"):
        assert not edges.values[..., names.index(name)].any()


@pytest.fixture(scope="module")
def relay():
    """A transformer without norms whose head and neurons hand something on through directions of the residual stream.

    Token v lies on direction v and is predicted from direction 8 + v. L0H1 attends to all earlier tokens alike and
    copies direction 0 to 20; L1N4 reads 20 and writes 8 + 1: after a 0, anywhere, comes a 1. L0N2 reads 20 too and
    pulls 8 + 1 down. L0N5 reads direction 3 and writes 21, which nobody reads.
    """
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    settings = {"n_layers": 2, "d_model": 24, "n_heads": 2, "d_head": 2, "d_mlp": 6, "n_ctx": 8, "seed": 0}
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(**settings, d_vocab=8, act_fn="relu", normalization_type=None)
    ).eval()
    with torch.no_grad():
        for parameter in model.original_model.parameters():
            parameter.zero_()
        model.embed.weight[:, :8] = torch.eye(8)
        model.unembed.weight[:, 8:16] = torch.eye(8)
        attention = model.blocks[0].attn
        attention.v.weight[2, 0] = 1
        attention.o.weight[20, 2] = 3
        for layer, neuron, read, write, by in ((0, 2, 20, 9, -0.5), (0, 5, 3, 21, 1.0), (1, 4, 20, 9, 2.0)):
            mlp = model.blocks[layer].mlp
            getattr(mlp, "in").weight[neuron, read] = 1
            mlp.out.weight[write, neuron] = by
    return model


@pytest.fixture
def after_zero():
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, 8, size=(32, 6))
    inputs[:, 0] = 0
    return {"after": Examples(torch.from_numpy(inputs), torch.full((32, 6), 1))}


@pytest.mark.parametrize("paths", ["total", "direct"])
def test_a_planted_circuit_of_head_and_neurons(relay, after_zero, paths):
    experiment = Experiment(relay, after_zero)
    units, mean = experiment.units, ablation_effects(experiment).mean("after")
    assert set(np.array(units.names)[np.abs(mean) > 1e-6]) == {"L0H1", "L0N2", "L1N4"}
    circuit = Mask(units, np.abs(mean) > 1e-6)
    graph = trace_circuit(experiment, circuit, Tracing(paths=paths), subtask="after")
    effect = {ends: graph.edges[ends][g.EFFECT]["after"]["value"] for ends in graph.edges}
    wanted = {
        ("tokens", "L0H1"), ("L0H1", "L0N2"), ("L0H1", "L1N4"), ("L0N2", "logits"), ("L1N4", "logits"),
    }  # fmt: skip
    # All paths from the tokens and the head lead on through the neurons; directly, they write nothing that those read,
    # except that tokens are themselves predicted from nothing.
    further = {("tokens", "L0N2"), ("tokens", "L1N4"), ("tokens", "logits"), ("L0H1", "logits")}
    assert set(effect) == (wanted | further if paths == "total" else wanted)
    assert effect["L0H1", "L1N4"] > 0 > effect["L0H1", "L0N2"]
    assert effect["L1N4", "logits"] > 0 > effect["L0N2", "logits"]
    assert effect["tokens", "L0H1"] > 0
    assert graph.nodes["L0N2"][g.EFFECT]["after"]["high"] < 0


def test_absent_paths_of_a_transformer_are_zero(relay, after_zero):
    units = units_of(relay)
    edges = edge_effects(Experiment(relay, after_zero), np.ones(len(units), dtype=bool), paths="direct")
    names = [node.name for node in edges.nodes]
    idle = [i for i, name in enumerate(names) if name not in ("tokens", "L0H1", "L0N2", "L1N4", "logits")]
    assert not edges.values[:, :, idle].any()
    assert not edges.values[..., idle].any()
    assert not edges.values[..., names.index("L0N2"), names.index("L1N4")].any()


@pytest.fixture
def batches(tokens):
    return {"a": Examples(tokens[:2, :-1], tokens[:2, 1:]), "b": Examples(tokens[2:, :-1], tokens[2:, 1:])}


@pytest.mark.parametrize("kind", ["mean", "resample"])
def test_faithfulness_is_what_its_formula_says(native_plain_ln, batches, kind):
    """Losses written out: only the circuit, only the rest, nothing, everything; on the second subtask's examples."""
    model, units = native_plain_ln, units_of(native_plain_ln)
    with torch.no_grad():  # what the model predicts, so that it has a skill
        batches = {name: Examples(batch.inputs, model(batch.inputs).argmax(dim=-1)) for name, batch in batches.items()}
    made = {
        "mean": lambda: mean_reference(model, batches, units),
        "resample": lambda: resample_reference(model, batches, units, seed=0),
    }
    reference = made[kind]()
    circuit = Mask(units, sample(units, 30, seed=0))
    experiment = Experiment(model, batches, reference=reference, folds=2)
    curve = faithfulness(experiment, [circuit], subtask="b", draws=3)

    def loss(mask):
        with hold(model, mask, reference, slice(2, 4)):
            return float(losses(model, batches["b"]).mean())

    none, every = Mask(units, np.zeros(len(units), dtype=bool)), Mask(units, np.ones(len(units), dtype=bool))
    gap = loss(none) - loss(every)
    assert curve.faithfulness(0).value == pytest.approx((loss(none) - loss(circuit)) / gap, abs=1e-5)
    assert curve.completeness(0).value == pytest.approx((loss(~circuit) - loss(every)) / gap, abs=1e-5)
    assert curve.sizes == (30,)
    assert curve.random.shape == (3, 1, 2)
    record = curve.records()[0]
    assert record["loss"] == pytest.approx(loss(circuit), rel=1e-5)
    assert record["rest_loss"] == pytest.approx(loss(~circuit), rel=1e-5)
    assert record["low"] < record["faithfulness"] < record["high"]


def test_all_units_keep_everything_and_no_unit_nothing(gate):
    units = units_of(gate)
    every = np.ones(len(units), dtype=bool)
    curve = faithfulness(Experiment(gate, bits(1)), [Mask(units, ~every), Mask(units, every)], subtask="gate")
    for of, ends in ((curve.faithfulness, (0, 1)), (curve.completeness, (0, 1)), (curve.random_faithfulness, (0, 1))):
        assert (of(0).value, of(1).value) == pytest.approx(ends, abs=1e-6)


def test_minimality_is_what_each_unit_adds(gate):
    units = units_of(gate)
    circuit = Mask(units, units.named(["L0N1", "L0N2", "L0N3", "L1N0", "L1N2"]))
    found = minimality(Experiment(gate, bits(1)), circuit)[:, 0].mean(axis=0)
    names = np.array(units.names)[circuit.keep]
    assert found[names == "L0N2"] == pytest.approx(0, abs=1e-9)
    for i, name in enumerate(names):
        smaller = Mask(units, circuit.keep & ~units.named([name]))
        with hold(gate, smaller, zero_reference(units)):
            without = float(losses(gate, bits(1)["gate"]).mean())
        with hold(gate, circuit, zero_reference(units)):
            whole = float(losses(gate, bits(1)["gate"]).mean())
        assert found[i] == pytest.approx(without - whole, abs=1e-6)


def test_enough_is_the_smallest_size_that_keeps_the_share(gate):
    units, experiment = units_of(gate), Experiment(gate, bits(0), folds=1)
    ranking = np.array([0.0, 5, 0, 4, 0, 6, 0, 3])  # L1N0, L0N1, L0N3, L1N2, and then the rest
    kept = []
    for size in range(1, 9):
        curve = faithfulness(experiment, [Mask(units, top(ranking, size))], subtask="gate", draws=1)
        kept.append(curve.faithfulness(0).value)
    for share in (0.1, 0.5, 0.9, 0.99):
        first = next(size for size, value in enumerate(kept, start=1) if value >= share)
        found = enough(experiment, ranking, share, subtask="gate")
        assert found == next(size for size in sizes_up_to(8, per_doubling=8) if kept[size - 1] >= share)
        assert found >= first


def test_sizes_rise_by_a_constant_factor():
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(20) == [1, 2, 4, 8, 16, 20]
    assert sizes_up_to(8, per_doubling=4) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_intervals_of_shares_cover():
    """Ratios of means over 8 folds, both noisy: the 95 % interval holds the true share about as often as it says."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        floor = 2 + 0.3 * rng.standard_normal(8)
        found = share_kept(0.5 + 0.2 * rng.standard_normal(8) + 0.1 * (floor - 2), floor)
        hits += found.low < 0.75 < found.high
    assert 0.92 < hits / 400 < 0.98


def test_the_same_circuit_the_same_bytes(gate):
    units, config = units_of(gate), Tracing(sizes=(2, 6))
    circuit, ranking = Mask(units, units.named(PLANTED)), np.arange(8.0)
    found = {
        g.to_json(trace_circuit(Experiment(gate, bits(1)), circuit, config, subtask="gate", ranking=ranking))
        for _ in range(2)
    }
    assert len(found) == 1
    graph = g.from_json(found.pop())
    assert [record["size"] for record in graph.graph[g.FAITHFULNESS]] == [2, 4, 6]


def test_few_edges_are_the_largest(gate):
    units = units_of(gate)
    circuit = Mask(units, units.named(PLANTED))
    whole, few = (
        trace_circuit(Experiment(gate, bits(1)), circuit, Tracing(edges=edges, adds=False), subtask="gate")
        for edges in (5000, 3)
    )
    size = {ends: abs(whole.edges[ends][g.EFFECT]["gate"]["value"]) for ends in whole.edges}
    assert set(few.edges) < set(whole.edges)
    assert sorted(size[ends] for ends in few.edges) == sorted(size.values())[-3:]


def test_what_has_no_circuit_is_refused(gate):
    units = units_of(gate)
    nothing, some = Mask(units, np.zeros(8, dtype=bool)), Mask(units, units.named(["L1N0"]))
    turned = {"gate": Examples(bits(0)["gate"].inputs, 1 - bits(0)["gate"].targets)}
    experiment = Experiment(gate, bits(0))
    with pytest.raises(ValueError, match="choose at least one"):
        trace_circuit(experiment, nothing, subtask="gate")
    with pytest.raises(ValueError, match="choose at least one"):
        minimality(experiment, nothing)
    with pytest.raises(ValueError, match="pass the `ranking`"):
        trace_circuit(experiment, some, Tracing(sizes=(2,)), subtask="gate")
    with pytest.raises(ValueError, match='unknown subtask "other"; this experiment has gate'):
        trace_circuit(experiment, some, subtask="other")
    with pytest.raises(ValueError, match=r"\([0-9.-]+ nats\); there is no skill to find a circuit of"):
        faithfulness(Experiment(gate, turned), [some], subtask="gate")
    with pytest.raises(ValueError, match="at most 1"):
        enough(experiment, np.arange(8.0), 90.0, subtask="gate")
    with pytest.raises(ValueError, match="ask for less"):
        enough(experiment, np.array([1.0, *[np.nan] * 7]), 0.9, subtask="gate")


def test_elimination_keeps_what_only_works_together():
    """Of two twins each alone has no effect, and a unit that only one of its partners needs goes with it."""
    model = MLP(2, 2, [4, 2], 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # L0N0 and L0N1 both are x0; either is enough for L1N0 = relu(min(..)), as class 1 wins by far with one.
        model.layers[0].weight[[0, 1], 0] = 1
        model.layers[0].weight[2, 1] = 1
        model.layers[1].weight[0, [0, 1]] = 20
        model.layers[1].weight[1, 2] = 1
        model.out.weight[1, 0], model.out.bias[0] = 1, 8
    inputs = torch.randint(2, (200, 2), generator=torch.Generator().manual_seed(0)).float()
    batches = {"first": Examples(inputs, inputs[:, 0].long())}
    units = units_of(model)
    experiment = Experiment(model, batches)
    effects = ablation_effects(experiment).mean("first")
    assert np.abs(effects[:2]).max() < 1e-3
    ranking = elimination_ranking(experiment, subtask="first")
    assert sorted(ranking) == list(range(1, 7))
    kept = np.array(units.names)[top(ranking, 2)]
    assert set(kept) in ({"L0N0", "L1N0"}, {"L0N1", "L1N0"})
    curve = faithfulness(experiment, [Mask(units, top(ranking, 2))], subtask="first")
    assert curve.faithfulness(0).value == pytest.approx(1, abs=1e-3)


def test_circuits_whose_sizes_fall_are_refused(gate):
    experiment = Experiment(gate, bits(1))
    masks = [Mask(experiment.units, top(np.arange(8.0), size)) for size in (4, 2)]
    with pytest.raises(ValueError, match="`circuits` have 4, 2 units; give them in the order of their sizes"):
        faithfulness(experiment, masks, subtask="gate", draws=1)
