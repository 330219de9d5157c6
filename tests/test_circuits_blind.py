"""What a circuit does whatever the example is: against the definition, and what it takes to be called a circuit."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch.nn import functional

import skilloc as sk
from skilloc.circuits import graph as g
from skilloc.circuits.blind import blind_losses
from skilloc.circuits.faithfulness import faithfulness
from skilloc.circuits.trace import Tracing, trace_circuit
from skilloc.experiment import hold
from skilloc.report.circuits import circuit_words
from skilloc.report.circuits_found import circuit_found


def test_it_is_the_circuit_on_mean_inputs():
    torch.manual_seed(0)
    model = sk.MLP(5, 3, width=7, depth=2)
    examples = sk.Examples(torch.randn(32, 5), torch.randint(3, (32,)))
    experiment = sk.Experiment(model, {"a": examples}, reference="flat mean", folds=4)
    circuit = sk.Mask(experiment.units, np.arange(7) % 2 == 0)
    (found,) = blind_losses(experiment, [circuit])
    mean = examples.inputs.mean(dim=0).expand(32, 5)
    with torch.no_grad(), hold(model, circuit, experiment.held):
        losses = functional.cross_entropy(model(mean), examples.targets, reduction="none")
    wanted = losses.view(4, 8).mean(dim=1).numpy() - experiment.baseline[:, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("reference", ["zero", "mean", "flat mean", "resample"])
def test_of_a_language_model_it_does_not_depend_on_the_tokens(llama, tokens, reference):
    seen = []

    def loss(logits, examples):
        seen.append(logits)
        return (
            functional.cross_entropy(logits.flatten(0, 1), examples.targets.flatten(), reduction="none")
            .view(examples.targets.shape)
            .mean(dim=1)
        )

    experiment = sk.Experiment(llama, {"a": sk.Examples(tokens, tokens)}, reference=reference, loss=loss, folds=2)
    every = sk.Mask(experiment.units, np.ones(len(experiment.units), dtype=bool))
    _ = experiment.held, experiment.baseline
    seen.clear()
    (found,) = blind_losses(experiment, [every])
    logits = torch.cat(seen)
    torch.testing.assert_close(logits, logits[:1].expand_as(logits), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(llama(tokens)[0], llama(tokens)[1], atol=1e-2)
    read = []
    hook = "blocks.0.hook_resid_pre"
    llama.run_with_hooks(tokens, fwd_hooks=[(hook, lambda value, hook: read.append(value.detach()))])
    dims = {"mean": (0,), "flat mean": (0, 1)}.get(reference)
    nothing = torch.zeros_like(read[0]) if dims is None else read[0].mean(dim=dims, keepdim=True).expand_as(read[0])
    with torch.no_grad():
        wanted = llama.run_with_hooks(tokens, fwd_hooks=[(hook, lambda value, hook: nothing)])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    assert np.isfinite(found).all()


def test_paired_inputs_say_what_the_twin_says(llama, tokens):
    twin = tokens.roll(1, dims=0)
    examples = sk.Examples(tokens, tokens, paired=twin)
    experiment = sk.Experiment(llama, {"a": examples}, reference="paired", folds=2)
    every = sk.Mask(experiment.units, np.ones(len(experiment.units), dtype=bool))
    (found,) = blind_losses(experiment, [every])
    with torch.no_grad():
        wanted = functional.cross_entropy(llama(twin).flatten(0, 1), tokens.flatten(), reduction="none")
    wanted = wanted.view(2, -1).mean(dim=1).numpy() - experiment.baseline[:, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_inputs_that_nobody_knows_have_no_blind_circuit():
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
    inputs = torch.randn(8, 4)
    model = sk.describe(module, {"a": sk.At("1")}, example=inputs[:1])
    with torch.no_grad():
        examples = sk.Examples(inputs, module(inputs).argmax(dim=1))
    experiment = sk.Experiment(model, {"a": examples}, folds=2)
    curve = faithfulness(experiment, [sk.Mask(experiment.units, np.ones(3, dtype=bool))], subtask="a", draws=1)
    assert np.isnan(curve.blind).all()
    assert curve.records()[0]["blind"] is None


def world(knows):
    """A network of two units on a bit: one says always the same, one says what the bit is."""
    model = sk.MLP(1, 2, width=2, depth=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        weight, bias = model.layers[0].parameters()
        weight[1, 0], bias[0] = 4.0, 1.0
        model.out.weight[1] = torch.tensor([3.0, 2.0])
        model.out.bias[1] = -4.0
    inputs = torch.tensor([[0.0], [1.0]]).repeat(32, 1)
    targets = torch.ones(64, dtype=torch.int64) if not knows else inputs[:, 0].long()
    return sk.Experiment(model, {"a": sk.Examples(inputs, targets)}, reference="zero", folds=4)


def test_what_does_the_same_whatever_the_example_is_is_no_circuit():
    experiment = world(knows=False)
    circuit = sk.Mask(experiment.units, np.array([True, False]))
    graph = trace_circuit(experiment, circuit, Tracing(draws=2, adds=False, edges=0), subtask="a")
    (record,) = graph.graph[g.FAITHFULNESS]
    assert record["faithfulness"] == pytest.approx(record["blind"])
    assert g.called(graph) == g.NO_CIRCUIT
    assert "than what does not depend on the example" in circuit_words(circuit_found(graph))


def test_what_is_called_a_circuit_beats_both_controls():
    record = {"size": 1, "low": 0.5, "random_high": 0.2, "blind_high": 0.4}
    graph = nx.DiGraph(faithfulness=[record])
    graph.add_node("L0N0", kind="neuron", column=1, position=0)
    assert g.called(graph) == g.CIRCUIT
    record["blind_high"] = 0.6
    assert g.called(graph) == g.NO_CIRCUIT
    record |= {"blind_high": None, "random_high": 0.6}
    assert g.called(graph) == g.NO_CIRCUIT
