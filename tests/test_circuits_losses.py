"""Circuits under any loss, at any positions, for any reference: against the definition, written out with autograd."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc.circuits import graph as g
from skilloc.circuits.edges import edge_effects
from skilloc.circuits.elimination import elimination_ranking
from skilloc.circuits.faithfulness import enough, faithfulness, minimality
from skilloc.circuits.trace import Tracing, trace_circuit
from skilloc.circuits.wires import wiring
from skilloc.experiment import Experiment, hold
from skilloc.masks import Mask, sample
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.tasks import IGNORE, Examples
from skilloc.tasks.losses import OPTIONS, RIGHT, WRONG, custom

LENGTH, AT = 9, 5
"""Tokens of a prompt, and where it is answered."""


@pytest.fixture(scope="module")
def prompts():
    """Two subtasks of three prompts: a wrong answer, options, and a corrupted twin of each."""
    generator = torch.Generator().manual_seed(3)

    def drawn():
        tokens, twin = torch.randint(61, (2, 3, LENGTH), generator=generator)
        targets = torch.full((3, LENGTH), IGNORE)
        targets[:, AT] = torch.tensor([4, 9, 17])
        fields = {WRONG: torch.tensor([5, 11, 3]), OPTIONS: torch.tensor([[4, 8], [9, 1], [2, 17]])}
        fields[RIGHT] = torch.tensor([0, 0, 1])
        at = {"last": torch.full((3,), AT), "answer": torch.full((3,), AT)}
        return Examples(tokens, targets, fields=fields, at=at, paired=twin)

    return {"a": drawn(), "b": drawn()}


def margin(logits, examples):
    """Squared distance of the right logit from the wrong one, plus one."""
    rows = torch.arange(len(logits))
    return (logits[rows, AT, examples.fields[WRONG]] - logits[rows, AT, examples.targets[:, AT]] + 1).square()


def by_hand(name, logits, examples):
    """The losses of the prompts, written out, differentiable."""
    at, rows = logits[:, AT].double(), torch.arange(len(logits))
    right, wrong = examples.targets[:, AT], examples.fields[WRONG]
    if name in ("cross_entropy", "answer"):
        return functional.cross_entropy(at, right, reduction="none")
    if name == "logit_difference":
        return at[rows, wrong] - at[rows, right]
    if name == "choice":
        options = at.gather(1, examples.fields[OPTIONS])
        return functional.cross_entropy(options, examples.fields[RIGHT], reduction="none")
    return (at[rows, wrong] - at[rows, right] + 1).square()


def hooked(model, examples, source, target, held, where, name):
    """(B with A held - B) g_B, summed over positions, of each example."""
    seen = {}

    def opened(value, hook):
        seen["leaf"] = value.detach().requires_grad_()
        return seen["leaf"]

    logits = model.run_with_hooks(examples.inputs, fwd_hooks=[(target[0], opened)])
    (slope,) = torch.autograd.grad(by_hand(name, logits, examples).sum(), seen["leaf"])

    def hold(value, hook):
        value = value.clone()
        value[:, where, source[1]] = held[:, where] if held.ndim > 1 else held
        return value

    def read(value, hook):
        seen["after"] = value.detach()

    with torch.no_grad():
        model.run_with_hooks(examples.inputs, fwd_hooks=[(source[0], hold), (target[0], read)])
    change = (seen["after"] - seen["leaf"].detach()).double() * slope
    return change[:, :, target[1]].reshape(len(change), -1).sum(dim=1).numpy()


def activation(model, inputs, hook):
    with torch.no_grad():
        return model.run_with_cache(inputs)[1][hook]


SOURCE, TARGET = ("blocks.0.mlp.hook_post", 4), ("blocks.1.attn.hook_z", 2)


def measured(experiment):
    """The edge from L0N4 to L1H2, by example: every example is a fold."""
    found = edge_effects(experiment, experiment.units.named(["L0N4", "L1H2"]), paths="total")
    place = {node.name: i for i, node in enumerate(found.nodes)}
    return found, found.values[:, :, place["L0N4"], place["L1H2"]].T


@pytest.mark.parametrize("loss", ["cross_entropy", "answer", "logit_difference", "choice", margin])
def test_edges_of_every_loss_are_the_definition(native_plain_ln, prompts, loss):
    experiment = Experiment(native_plain_ln, prompts, loss=loss, folds=3)
    found, values = measured(experiment)
    name = loss if isinstance(loss, str) else ""
    for own, examples in zip(values, prompts.values(), strict=True):
        wanted = hooked(native_plain_ln, examples, SOURCE, TARGET, torch.zeros(()), slice(None), name)
        np.testing.assert_allclose(own, wanted, atol=1e-5 * max(1, np.abs(wanted).max()))
        assert np.abs(wanted).max() > 1e-4
    assert found.unit == {"logit_difference": "logits", "": "margin"}.get(name, "nats")


@pytest.mark.parametrize("reference", ["paired", "mean"])
@pytest.mark.parametrize("at", ["all", "last"])
def test_sources_are_held_at_the_positions_and_values_of_the_experiment(native_plain_ln, prompts, reference, at):
    plain = {
        name: Examples(own.inputs, own.targets, fields=own.fields, paired=own.paired) for name, own in prompts.items()
    }
    where = slice(None) if at == "all" else torch.arange(LENGTH) == AT
    mask = torch.zeros(6, LENGTH, dtype=torch.bool)
    mask[:, where] = True
    experiment = Experiment(native_plain_ln, plain, loss="logit_difference", reference=reference, folds=3, at=mask)
    _, values = measured(experiment)
    every = [activation(native_plain_ln, own.inputs, SOURCE[0])[..., SOURCE[1]] for own in plain.values()]
    mean = torch.cat(every).mean(dim=0)
    for own, examples in zip(values, prompts.values(), strict=True):
        paired = activation(native_plain_ln, examples.paired, SOURCE[0])[..., SOURCE[1]]
        held = paired if reference == "paired" else mean.expand_as(paired)
        wanted = hooked(native_plain_ln, examples, SOURCE, TARGET, held, where, "logit_difference")
        np.testing.assert_allclose(own, wanted, atol=1e-5)
        assert np.abs(wanted).max() > 1e-5


@pytest.mark.parametrize("reference", ["zero", "paired", "mean", "flat mean"])
def test_what_enters_a_language_model_is_held_like_its_units(native_plain_ln, prompts, reference):
    plain = {name: Examples(own.inputs, own.targets, paired=own.paired) for name, own in prompts.items()}
    experiment = Experiment(native_plain_ln, plain, reference=reference, folds=3)
    found = edge_effects(experiment, experiment.units.named(["L1N0"]))
    hook = "blocks.0.hook_in"
    enters = {name: activation(native_plain_ln, own.inputs, hook) for name, own in plain.items()}
    every = torch.cat(list(enters.values()))
    for s, (name, own) in enumerate(plain.items()):
        held = {
            "zero": torch.zeros_like(enters[name]),
            "paired": activation(native_plain_ln, own.paired, hook),
            "mean": every.mean(dim=0).expand_as(enters[name]),
            "flat mean": every.mean(dim=(0, 1)).expand_as(enters[name]),
        }[reference]
        with torch.no_grad():
            after = native_plain_ln.run_with_hooks(own.inputs, fwd_hooks=[(hook, lambda _, hook, held=held: held)])
            wanted = by_hand("cross_entropy", after, own_fields(own)) - by_hand(
                "cross_entropy", native_plain_ln(own.inputs), own_fields(own)
            )
        np.testing.assert_allclose(found.inputs[:, s, 0], wanted.numpy(), atol=1e-5)


def own_fields(examples):
    return Examples(examples.inputs, examples.targets, fields={WRONG: torch.zeros(3, dtype=torch.long)})


def test_inputs_of_a_network_are_held_at_those_of_the_pair():
    model = network()
    inputs, paired = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    examples = {"a": Examples(inputs, torch.arange(12) % 3, paired=paired)}
    found = edge_effects(
        Experiment(model, examples, reference="paired", folds=3), np.ones(8, dtype=bool), paths="direct"
    )
    total = edge_effects(
        Experiment(model, examples, reference="paired", folds=3), np.ones(8, dtype=bool), paths="total"
    )
    for i in range(4):
        held = inputs.clone()
        held[:, i] = paired[:, i]
        with torch.no_grad():
            losses = [
                functional.cross_entropy(model(x), torch.arange(12) % 3, reduction="none") for x in (held, inputs)
            ]
        np.testing.assert_allclose(found.inputs[:, 0, i], (losses[0] - losses[1]).view(3, 4).mean(dim=1), atol=1e-6)
    next_to = np.array([[b.layer == a.layer + 1 for b in found.nodes] for a in found.nodes])
    np.testing.assert_allclose(found.values[..., next_to], total.values[..., next_to], atol=1e-5)


def network():
    model = MLP(4, 3, [5, 3], 3, activation="tanh", seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def skilled(model, count=48):
    """Examples whose targets the model gets right."""
    inputs = torch.randn(count, model.cfg.d_in, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return {"a": Examples(inputs, model(inputs).argmax(dim=1))}


def shifted(logits, examples):
    return (logits.logsumexp(dim=1) - logits.gather(1, examples.targets[:, None])[:, 0]).square()


@pytest.mark.parametrize("loss", ["error", "kl", "cross_entropy", shifted])
def test_shares_and_rankings_of_every_loss_are_their_definitions(loss):
    """A count and a divergence have no edges, but a floor, a faithfulness, a minimality and a ranking."""
    model = network()
    experiment = Experiment(model, skilled(model), loss=loss, reference="flat mean", folds=4)
    units, own = experiment.units, experiment.examples["a"]
    with torch.no_grad():
        before = model(own.inputs).log_softmax(dim=1)

    def mean(keep):
        with torch.no_grad(), hold(model, Mask(units, keep), experiment.held):
            logits = model(own.inputs)
        if loss == "error":
            return float((logits.argmax(dim=1) != own.targets).double().mean())
        if loss == "kl":
            return float((before.exp() * (before - logits.log_softmax(dim=1))).sum(dim=1).mean())
        each = functional.cross_entropy(logits.double(), own.targets, reduction="none")
        return float((each if loss == "cross_entropy" else each.square()).mean())

    every = np.ones(len(units), dtype=bool)
    circuit = sample(units, 6, seed=0)
    curve = faithfulness(experiment, [Mask(units, circuit)], subtask="a", draws=2)
    gap = mean(~every) - mean(every)
    assert curve.faithfulness(0).value == pytest.approx((mean(~every) - mean(circuit)) / gap, abs=1e-5)
    assert curve.completeness(0).value == pytest.approx((mean(~circuit) - mean(every)) / gap, abs=1e-5)
    assert curve.unit == experiment.metric.unit
    adds = minimality(experiment, Mask(units, circuit))[:, 0].mean(axis=0)
    for i, unit in enumerate(np.flatnonzero(circuit)):
        without = circuit & (np.arange(len(units)) != unit)
        assert adds[i] == pytest.approx(mean(without) - mean(circuit), abs=1e-6)

    ranking = elimination_ranking(experiment, subtask="a")
    first = int(ranking.argmin())
    alone = [mean(every & (np.arange(len(units)) != unit)) for unit in range(len(units))]
    assert alone[first] == pytest.approx(min(alone), abs=1e-6)
    size = enough(experiment, ranking, 0.6, subtask="a")
    kept = (mean(~every) - mean(ranking > len(units) - size)) / gap
    assert kept >= 0.6 - 1e-6


def test_what_has_no_edges_is_said_and_a_circuit_without_them_is_traced():
    model = network()
    keep = sample(units_of(model), 5, seed=1)
    for loss, why, paths in (("error", "a count", None), ("kl", "gradient at the untouched model is zero", "direct")):
        experiment = Experiment(model, skilled(model), loss=loss, folds=4)
        circuit = Mask(experiment.units, keep)
        with pytest.raises(ValueError, match=f'`loss` is "{loss}", .*{why}.*measure faithfulness under it'):
            edge_effects(experiment, keep, paths=paths)
        with pytest.raises(ValueError, match=rf"{why}.*Tracing\(edges=0\)"):
            trace_circuit(experiment, circuit, Tracing(paths=paths), subtask="a")
        graph = trace_circuit(experiment, circuit, Tracing(edges=0), subtask="a")
        assert not graph.edges
        assert g.units_in(graph) == list(np.array(experiment.units.names)[keep])
        assert graph.graph[g.LOSS] == {"name": loss, "unit": experiment.metric.unit}
        assert g.from_json(g.to_json(graph)).graph == graph.graph
        record = graph.graph[g.FAITHFULNESS][0]
        if loss == "error":
            assert (graph.graph[g.BASELINE], g.unit_of(graph)) == ({"a": 0.0}, "share")
            assert record["loss"] == pytest.approx((1 - record["faithfulness"]) * graph.graph[g.FLOOR]["a"], rel=1e-4)


def test_a_divergence_has_wires_and_they_add_up():
    model = network()
    experiment = Experiment(model, skilled(model), loss="kl", folds=4)
    keep = sample(units_of(model), 5, seed=1)
    found = edge_effects(experiment, keep)
    assert (found.measured, found.unit) == ("wires", "nats")
    places, every = wiring(experiment, Mask(experiment.units, keep)), slice(0, 48)
    base, alone = (
        experiment.metric(places.logits(torch.full((len(places),), wire), every), *experiment.part(every))
        for wire in (0.0, 1.0)
    )
    assert found.values.sum(axis=(2, 3)).mean() == pytest.approx(float((base - alone).mean()), rel=0.02)


def test_a_traced_circuit_says_its_loss():
    model = network()
    experiment = Experiment(model, skilled(model), loss=custom(shifted, unit="bits"), folds=4)
    graph = trace_circuit(experiment, Mask(experiment.units, sample(experiment.units, 6, seed=0)), subtask="a")
    assert graph.graph[g.LOSS] == {"name": "shifted", "unit": "bits"}
    assert g.unit_of(graph) == "bits"
    assert graph.number_of_edges() > 10
    backwards = Experiment(
        model, {"a": Examples(experiment.examples["a"].inputs, 2 - experiment.examples["a"].targets)}
    )
    with pytest.raises(ValueError, match=r"\(-?[0-9.]+ bits\); there is no skill"):
        faithfulness(
            Experiment(model, backwards.examples, loss=custom(shifted, unit="bits")),
            [Mask(experiment.units, sample(experiment.units, 6, seed=0))],
            subtask="a",
        )


def test_an_example_of_several_rows_counts_once(native_plain_ln, tokens):
    """A question with a row per option: its edge is the sum over its rows, under a gradient of its one loss."""
    targets = torch.full((4, 12), IGNORE)
    targets[:, 7] = tokens[:, 8]
    fields = {RIGHT: torch.tensor([True, False, False, True])}
    examples = Examples(tokens, targets, fields=fields, owner=torch.tensor([0, 0, 1, 1]))
    experiment = Experiment(native_plain_ln, {"q": examples}, loss="choice", folds=2)
    _, values = measured(experiment)

    def scores(logits):
        each = logits[:, 7].double().log_softmax(dim=1).gather(1, targets[:, 7:8])[:, 0].view(2, 2)
        return functional.cross_entropy(each, torch.tensor([0, 1]), reduction="sum")

    seen = {}

    def opened(value, hook):
        seen["leaf"] = value.detach().requires_grad_()
        return seen["leaf"]

    def silent(value, hook):
        value = value.clone()
        value[..., 4] = 0
        return value

    logits = native_plain_ln.run_with_hooks(tokens, fwd_hooks=[(TARGET[0], opened)])
    (slope,) = torch.autograd.grad(scores(logits), seen["leaf"])
    with torch.no_grad(), native_plain_ln.hooks(fwd_hooks=[(SOURCE[0], silent)]):
        after = native_plain_ln.run_with_cache(tokens)[1][TARGET[0]]
    wanted = ((after - seen["leaf"].detach()) * slope)[:, :, 2].reshape(2, -1).sum(dim=1)
    np.testing.assert_allclose(values[0], wanted.numpy(), atol=1e-5)
    assert wanted.abs().max() > 1e-4


@pytest.mark.parametrize("reference", ["mean", "paired"])
@pytest.mark.parametrize("at", ["all", "mask"])
def test_a_subtask_of_shorter_prompts_alone_is_held_as_among_the_others(native_plain_ln, tokens, reference, at):
    """Values that were made for rows of the longest length serve the shorter subtask by itself."""
    twins = tokens.flip(0)
    subtasks = {
        name: Examples(tokens[rows, :length], tokens[rows, :length], paired=twins[rows, :length])
        for name, rows, length in (("short", slice(0, 2), 6), ("long", slice(2, 4), 11))
    }
    where = torch.rand(4, 11, generator=torch.Generator().manual_seed(0)) < 0.5 if at == "mask" else "all"
    experiment = Experiment(native_plain_ln, subtasks, reference=reference, folds=2, at=where)
    mask = Mask(experiment.units, sample(experiment.units, 40, seed=0))
    whole, change = experiment.losses(mask), experiment.losses(mask) - experiment.losses()
    for name, rows in (("short", slice(0, 2)), ("long", slice(2, 4))):
        np.testing.assert_allclose(experiment.only(name).losses(mask), whole[rows], atol=1e-6)
    assert np.abs(change).min() > 1e-3
