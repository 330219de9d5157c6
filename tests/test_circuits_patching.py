"""Edge attribution patching: transformer-lens' edges as our graph, with our sign."""

import numpy as np
import pytest
import torch

from skilloc.circuits import graph as g
from skilloc.circuits.patching import attribution_circuit
from skilloc.experiment import Experiment
from skilloc.experiment.patching import attribution_edges
from skilloc.models.makers import face_of, output_weight
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples
from skilloc.tasks.losses.nll import mean_nll


@pytest.fixture
def batches(tokens):
    return {"a": Examples(tokens[:2, :5], tokens[:2, 1:6]), "b": Examples(tokens[2:, :5], tokens[2:, 1:6])}


def test_edges_are_changes_times_gradients(gpt2, batches):
    """A head's edges together are what its write changes times the gradient of the stream, on the other tokens."""
    model, batch, others = gpt2, batches["a"], batches["b"].inputs
    edges = attribution_edges(face_of(model), batch, others)
    weight = output_weight(model, "blocks.0.attn.hook_z")[8:16]
    for e in range(2):
        seen: dict = {}

        def reader(name, seen=seen):
            def read(activation, hook):
                seen[name] = activation

            return read

        hooks = ["blocks.0.attn.hook_z", "blocks.0.attn.hook_out"]
        logits = model.run_with_hooks(others[e : e + 1], fwd_hooks=[(hook, reader(hook)) for hook in hooks])
        z = seen["blocks.0.attn.hook_z"][:, :, 1].detach()
        (slope,) = torch.autograd.grad(mean_nll(logits, batch.targets[e : e + 1]).sum(), seen["blocks.0.attn.hook_out"])
        with torch.no_grad():
            _, cache = model.run_with_cache(batch.inputs[e : e + 1])
        wanted = (((z - cache["blocks.0.attn.hook_z"][:, :, 1]) @ weight) * slope).sum().item()
        found = sum(value for (writer, _), value in edges[e].items() if writer == ("attn", 0, 1))
        assert found == pytest.approx(wanted, abs=1e-5)


def test_the_graph_has_all_parts_in_forward_order(gpt2, batches):
    graph = attribution_circuit(Experiment(gpt2, batches, folds=2), subtask="b")
    layers = [[f"L{layer}H{head}" for head in range(4)] + [f"L{layer}MLP"] for layer in range(2)]
    assert g.in_order(graph) == ["tokens", *layers[0], *layers[1], "logits"]
    assert ("L0H1", "L0MLP") in graph.edges
    assert ("L0H1", "L0H2") not in graph.edges
    assert graph.edges["tokens", "L1H0"][g.MEASURED] == "attribution"
    columns = [graph.nodes[name][g.COLUMN] for name in g.in_order(graph)]
    assert columns == [0, 1, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5]
    for name in ("L0H3", "L1MLP"):
        out = sum(graph.edges[ends][g.EFFECT]["b"]["value"] for ends in graph.out_edges(name))
        assert graph.nodes[name][g.EFFECT]["b"]["value"] == pytest.approx(out, rel=1e-4, abs=1e-6)
    assert g.to_json(graph) == g.to_json(attribution_circuit(Experiment(gpt2, batches, folds=2), subtask="b"))
    other = attribution_circuit(Experiment(gpt2, batches, folds=2), subtask="b", seed=3)
    assert np.isfinite(other.nodes["L0H0"][g.EFFECT]["a"]["value"])


def test_models_that_it_cannot_do_are_refused(llama, native_plain_ln, gpt2, batches):
    with pytest.raises(ValueError, match=r"GQA/MQA.*with edge_effects"):
        attribution_circuit(Experiment(llama, batches, folds=2), subtask="a")
    with pytest.raises(ValueError, match="with edge_effects"):
        attribution_circuit(Experiment(native_plain_ln, batches, folds=2), subtask="a")
    with pytest.raises(ValueError, match="this experiment has a, b"):
        attribution_circuit(Experiment(gpt2, batches, folds=2), subtask="c")
    with pytest.raises(ValueError, match="tokens of its own length"):
        attribution_edges(face_of(gpt2), batches["a"], batches["b"].inputs[:1])


def test_another_loss_and_the_paired_input(gpt2, batches):
    """With one layer's parts written out: the edge into the logits, under a logit difference, towards the pair."""
    tokens, others = batches["a"].inputs, batches["b"].inputs
    targets = torch.full((2, 5), -100)
    targets[:, -1] = torch.tensor([3, 8])
    wrong = torch.tensor([5, 1])
    examples = Examples(tokens, targets, fields={"wrong": wrong}, paired=others)
    experiment = Experiment(gpt2, {"a": examples}, loss="logit_difference", reference="paired", folds=2)
    graph = attribution_circuit(experiment, subtask="a")
    assert graph.graph[g.LOSS] == {"name": "logit_difference", "unit": "logits"}
    assert graph.graph[g.REFERENCE] == "paired"
    stream = gpt2.run_with_cache(others)[1]["ln_final.hook_in"].detach().requires_grad_()
    logits = gpt2.unembed(gpt2.ln_final(stream))[:, -1]
    right = targets[:, -1]
    loss = logits.gather(1, wrong[:, None]) - logits.gather(1, right[:, None])
    (slope,) = torch.autograd.grad(loss.sum(), stream)
    hook = "blocks.1.mlp.hook_out"
    with torch.no_grad():
        change = gpt2.run_with_cache(others)[1][hook] - gpt2.run_with_cache(tokens)[1][hook]
    wanted = (change * slope).flatten(1).sum(dim=1).mean().item()
    assert graph.edges["L1MLP", "logits"][g.EFFECT]["a"]["value"] == pytest.approx(wanted, rel=1e-4)
    assert abs(wanted) > 1e-4


def test_examples_that_it_cannot_do_are_refused(gpt2, batches):
    own = batches["a"]
    padded = Examples({"tokens": own.inputs, "mask": torch.ones_like(own.inputs, dtype=torch.bool)}, own.targets)
    with pytest.raises(ValueError, match=r"padded.*with edge_effects"):
        attribution_circuit(Experiment(gpt2, {"a": padded}, folds=1), subtask="a")
    rows = Examples(own.inputs, own.targets, owner=torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"several rows.*with edge_effects"):
        attribution_circuit(Experiment(gpt2, {"a": rows, "b": rows}, folds=1), subtask="a")
    with pytest.raises(ValueError, match="a count"):
        attribution_circuit(Experiment(gpt2, batches, folds=1, loss="error"), subtask="a")
    with pytest.raises(ValueError, match="1 example"):
        attribution_circuit(Experiment(gpt2, {"a": own.part(slice(0, 1))}, folds=1), subtask="a")
    network = MLP(3, 2, 4, 2)
    bits = {"a": Examples(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))}
    with pytest.raises(ValueError, match=r"is a MLP.*with edge_effects"):
        attribution_circuit(Experiment(network, bits, folds=1), subtask="a")
