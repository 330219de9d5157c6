"""A circuit with only some of its edges: by the model's own runs, by weights, by hand; and edges that are planted."""

from dataclasses import replace

import numpy as np
import pytest
import test_gates
import test_ladder
import torch

import skilloc as sk
from skilloc.circuits import wires
from skilloc.circuits.edge_gates import edge_scores, learn_edges, wired_gates
from skilloc.circuits.faithfulness import faithfulness
from skilloc.circuits.gates import GateConfig
from skilloc.circuits.wired import edge_faithfulness

PLANTED = {
    "induction": {("first.1", "second.2"), ("second.2", "outputs")},
    "previous": {("second.0", "outputs")},
    "fact": {("act.3", "outputs")},
    "counter": {("first.0", "act.5"), ("act.5", "outputs")},
}
PARITY = {(f"input {bit}", unit) for bit in (0, 1) for unit in ("L0N2", "L0N7")} | {
    ("L0N2", "L1N4"), ("L0N7", "L1N4"), ("L1N4", "logit 1")
}  # fmt: skip


def some(own, planted, others=4):
    """The planted units of a rung, with a few that are not."""
    rest = np.random.default_rng(0).permutation(np.flatnonzero(~planted))[:others]
    return sk.Mask(own.units, planted | np.isin(np.arange(len(planted)), rest))


def losses(places, value):
    own = places.experiment
    open_ = torch.as_tensor(np.broadcast_to(value, len(places)).copy(), dtype=torch.float32)
    with torch.no_grad():
        examples, known = own.part(slice(0, len(own.folded.examples)))
        return own.metric(places.logits(open_, slice(0, len(examples))), examples, known).numpy()


@pytest.mark.parametrize("reference", ["zero", "mean", "resample", "paired"])
@pytest.mark.parametrize("rung", ["induction", "counter"])
def test_with_all_edges_it_is_the_circuit_alone_and_with_none_the_floor(rung, reference):
    own, planted = test_ladder.experiment(rung, reference)
    circuit = some(own, planted)
    places = wires.wiring(own, circuit)
    assert losses(places, 1.0) == pytest.approx(own.losses(circuit), rel=1e-5, abs=1e-6)
    nothing = sk.Mask(own.units, np.zeros(len(planted), dtype=bool))
    assert losses(places, 0.0) == pytest.approx(own.losses(nothing), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "neox"])
def test_with_all_edges_a_transformers_circuit_is_the_circuit_alone(family, request, tokens):
    from conftest import _model

    own = sk.Experiment(_model(family), {"text": sk.Examples(tokens, tokens)}, reference="mean", folds=1)
    circuit = sk.Mask(own.units, np.random.default_rng(1).random(len(own.units)) < 0.04)
    assert 3 < circuit.keep.sum() < 12
    places = wires.wiring(own, circuit)
    assert places.names[0][0] == "tokens"
    assert losses(places, 1.0) == pytest.approx(own.losses(circuit), rel=1e-4)


@pytest.mark.parametrize("reference", ["zero", "mean", "resample"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_a_run_of_a_targets_own_block_is_the_whole_run(family, reference, tokens):
    from conftest import _model

    own = sk.Experiment(_model(family), {"text": sk.Examples(tokens, tokens)}, reference=reference, folds=1)
    circuit = sk.Mask(own.units, np.random.default_rng(1).random(len(own.units)) < 0.08)
    places = wires.wiring(own, circuit)
    assert places.short is not None
    gates = torch.rand(len(places), generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = []
    for one in (places, replace(places, short=None)):
        logits = one.logits(gates, slice(1, 4))
        (slope,) = torch.autograd.grad(logits.square().mean(), gates)
        found.append((logits.detach(), slope))
    (short, slope), (long, wanted) = found
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slope, wanted, rtol=1e-3, atol=float(1e-5 * wanted.abs().max()))


def test_where_parts_do_not_add_up_whole_runs_are_made(llama, tokens):
    text = {"text": sk.Examples(tokens, tokens)}
    some_heads = sk.Experiment(llama, text, ("head",), folds=1)
    keep = np.arange(len(some_heads.units)) % 2 == 0
    assert wires.wiring(some_heads, sk.Mask(some_heads.units, keep)).short is None  # neurons are not held
    own = sk.Experiment(llama, text, folds=1)
    circuit = sk.Mask(own.units, np.random.default_rng(1).random(len(own.units)) < 0.04)
    double = llama.blocks[0].mlp.register_forward_hook(lambda module, args, output: 2 * output)
    try:
        assert wires.wiring(own, circuit).short is None
        assert losses(wires.wiring(own, circuit), 1.0) == pytest.approx(own.losses(circuit), rel=1e-4)
    finally:
        double.remove()
    assert wires.wiring(own, circuit).short is not None


def test_a_cut_edge_is_cut_by_hand(llama, tokens):
    """Without L0H1 -> L2N5 alone: the neuron sees L1N3, which has seen the head; the logits see all three."""
    own = sk.Experiment(llama, {"text": sk.Examples(tokens, tokens)}, reference="zero", folds=1)
    names = ("L0H1", "L1N3", "L2N5")
    circuit = sk.Mask(own.units, np.isin(own.units.names, names))
    places = wires.wiring(own, circuit)
    banks = {bank.name: bank for bank in own.units.banks}

    def run(kept, at):
        """All units at zero but some, which are put where they are told."""

        def edit(name):
            def put(value, hook=None):
                found = torch.zeros_like(value)
                for unit in kept:
                    hook_of, position = own.units.locate(own.units.names.index(unit))
                    if hook_of == name:
                        if banks[name].axis == -2:
                            found[..., position, :] = kept[unit]
                        else:
                            found[..., position] = kept[unit]
                seen[name] = value
                return found

            return put

        seen = {}
        with torch.no_grad():
            logits = llama.run_with_hooks(tokens, fwd_hooks=[(name, edit(name)) for name in banks])
        if at is None:
            return logits
        name, position = own.units.locate(own.units.names.index(at))
        return seen[name][..., position, :] if banks[name].axis == -2 else seen[name][..., position]

    head = run({}, "L0H1")
    middle = run({"L0H1": head}, "L1N3")
    last = run({"L1N3": middle}, "L2N5")
    wanted = run({"L0H1": head, "L1N3": middle, "L2N5": last}, None)
    kept = np.array([pair != ("L0H1", "L2N5") for pair in places.names])
    assert kept.sum() == len(places) - 1
    with torch.no_grad():
        found = places.logits(torch.as_tensor(kept, dtype=torch.float32), slice(0, len(tokens)))
        whole = places.logits(torch.ones(len(places)), slice(0, len(tokens)))
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reference", ["zero", "mean", "resample"])
def test_of_a_network_the_closed_form_is_what_runs_say(reference):
    torch.manual_seed(0)
    model = sk.MLP(5, 3, [6, 7], 3, seed=1)
    inputs = torch.rand(20, 5)
    own = sk.Experiment(model, {"some": sk.Examples(inputs, torch.arange(20) % 3)}, reference=reference, folds=4)
    circuit = sk.Mask(own.units, np.arange(13) % 3 > 0)
    places = wires.wiring(own, circuit)
    open_ = torch.rand(len(places))
    matrix = torch.zeros(len(places.nodes), len(places.nodes))
    matrix[places.pairs[:, 0], places.pairs[:, 1]] = open_
    with torch.no_grad():
        by_runs = wires._by_runs(places, matrix, slice(0, 20))
        assert torch.allclose(places.logits(open_, slice(0, 20)), by_runs, atol=1e-5)
    assert losses(places, 1.0) == pytest.approx(own.losses(circuit), rel=1e-5)
    assert all(
        int(source[1]) + 1 == int(target[1])
        for source, target in places.names
        if source.startswith("L") and target.startswith("L")
    )


@pytest.mark.parametrize("rung", ["induction", "counter"])
def test_slopes_of_edges_are_finite_differences(rung):
    own, planted = test_ladder.experiment(rung, "mean")
    model, _ = wired_gates(own, some(own, planted, 1), subtask="skill", batch=8, seed=3)
    gates, part = np.random.default_rng(0).uniform(0.3, 0.7, size=model.count), model.turn(1, 12)
    _, slopes = model.slopes(gates, part)
    for edge in range(model.count):
        step = 2e-3 * (np.arange(model.count) == edge)
        apart = model.loss(gates + step, part) - model.loss(gates - step, part)
        assert slopes[edge] == pytest.approx(apart / 4e-3, abs=2e-4, rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("solver", test_gates.SOLVERS)
@pytest.mark.parametrize("rung", test_ladder.RUNGS)
def test_learned_edges_are_what_is_planted_in_transformers(rung, solver):
    own, planted = test_ladder.experiment(rung, "zero")
    wanted, circuit = PLANTED[rung], some(own, planted)
    config = GateConfig(sizes=(len(wanted),), solver=solver, steps=10, checked=16, rounds=2, exact=2)
    for seed in test_gates.SEEDS:
        assert learn_edges(own, circuit, config, subtask="skill", seed=seed).edges(0) == wanted, seed


@pytest.mark.slow
@pytest.mark.parametrize("solver", test_gates.SOLVERS)
def test_learned_edges_are_what_is_planted_in_a_network(solver):
    own, planted = test_gates.world(reference="mean")
    circuit = some(own, np.isin(own.units.names, sorted(planted)), 6)
    config = GateConfig(sizes=(20, len(PARITY)), solver=solver, steps=30)
    for seed in test_gates.SEEDS:
        learned = learn_edges(own, circuit, config, subtask="parity", seed=seed)
        assert learned.edges(0) == PARITY, seed
        assert learned.losses[0] == pytest.approx(learned.whole, abs=1e-5)
        assert learned.floor > learned.whole + 0.1


@pytest.mark.slow
def test_scores_of_edges_add_up_and_name_the_planted_ones():
    own, planted = test_ladder.experiment("induction", "zero")
    model, places = wired_gates(own, some(own, planted), subtask="skill")
    scores = edge_scores(model, points=16)
    ends = [model.loss(np.full(model.count, end), [slice(0, 32)]) for end in (0.0, 1.0)]
    assert scores.sum() == pytest.approx(ends[0] - ends[1], rel=0.05)
    best = {places.names[edge] for edge in np.argsort(-scores)[:2]}
    assert best == PLANTED["induction"]


def test_planted_edges_keep_the_skill_and_random_ones_do_not():
    own, planted = test_ladder.experiment("induction", "zero")
    circuit = some(own, planted)
    places = wires.wiring(own, circuit)
    true = np.array([pair in PLANTED["induction"] for pair in places.names])
    curve = edge_faithfulness(places, [true, np.ones_like(true)], draws=5)
    assert curve.sizes == (2, len(places))
    assert curve.faithfulness(0).value == pytest.approx(1, abs=1e-3)
    assert curve.completeness(0).value > 0.9
    assert curve.random_faithfulness(0).value < 0.2
    alone = faithfulness(own, [circuit], subtask="skill", draws=1)
    assert curve.faithfulness(1).value == pytest.approx(alone.faithfulness(0).value, abs=1e-5)
    assert np.allclose(curve.random[:, 1], curve.circuit[1])  # all edges have no others beside them


def test_what_has_no_edges_is_refused(llama, tokens):
    text = {"text": sk.Examples(tokens, tokens)}
    own = sk.Experiment(llama, text, folds=1)
    one = sk.Mask(own.units, np.arange(len(own.units)) < 1)
    with pytest.raises(ValueError, match="`sizes` has 9"):
        learn_edges(own, one, GateConfig(sizes=(9,)), subtask="text")
    with pytest.raises(ValueError, match="`sets` has lengths"):
        edge_faithfulness(wires.wiring(own, one), [np.ones(2, dtype=bool)])
    stream = sk.Experiment(llama, text, ("residual",), folds=1)
    with pytest.raises(ValueError, match="no edge leads into it"):
        wires.wiring(stream, sk.Mask(stream.units, np.arange(len(stream.units)) < 2))
    last = torch.zeros_like(tokens, dtype=torch.bool)
    last[:, -1] = True
    with pytest.raises(ValueError, match='use at="all"'):
        wires.wiring(sk.Experiment(llama, text, folds=1, at=last), one)
