"""Every loss against its definition: exact effects are a hooked forward per unit, estimates are finite differences."""

import inspect
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc import losses
from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.experiment import Experiment
from skilloc.models.language import open_model
from skilloc.models.makers import units_of
from skilloc.tasks import IGNORE, Examples
from skilloc.units import Units

ROWS, LENGTH = 4, 7
KINDS = [("neuron", "head"), ("layer",), ("residual",)]


@dataclass(frozen=True)
class Case:
    """A loss, examples for it, and what it is by its definition, from logits in float64."""

    loss: object
    examples: object
    literal: object


def text(vocabulary, **more):
    tokens = torch.randint(vocabulary, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    targets = tokens[:, 1:].clone()
    targets[0, :3] = IGNORE
    return Examples(tokens[:, :-1], targets, **more)


def with_answers(vocabulary):
    where = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    where[:, 4:6] = True
    where[1, 5] = False
    return text(vocabulary, at={"answer": where})


LAST = torch.tensor([6, 5, 6, 4])


def with_letters(vocabulary):
    options = torch.tensor([[1, 2, 3], [4, 5, IGNORE], [6, 7, 8], [9, 10, 11]])
    fields = {"options": options, "right": torch.tensor([2, 0, 1, 0])}
    return text(vocabulary, fields=fields, at={"last": LAST})


def with_rows(vocabulary):
    """Two questions, of three and of two options, with answers of one or two tokens."""
    given = torch.randint(vocabulary, (5, LENGTH + 1), generator=torch.Generator().manual_seed(4))
    targets = torch.full((5, LENGTH), IGNORE)
    for row, first in enumerate([5, 6, 5, 6, 5]):
        targets[row, first:] = given[row, first + 1 :]
    right = torch.tensor([False, True, False, True, False])
    return Examples(given[:, :-1], targets, fields={"right": right}, owner=torch.tensor([0, 0, 0, 1, 1]))


def with_wrong(vocabulary):
    return text(vocabulary, fields={"wrong": torch.tensor([5, 6, 7, 8])}, at={"last": LAST})


def with_several_wrong(vocabulary):
    return text(vocabulary, fields={"wrong": torch.tensor([[5, 9], [6, IGNORE], [7, 1], [8, 3]])})


def literal_nll(logits, targets):
    rows = [functional.cross_entropy(row, own, ignore_index=IGNORE) for row, own in zip(logits, targets, strict=True)]
    return torch.stack(rows)


def literal_answer(logits, examples, _):
    where = examples.at["answer"]
    return torch.stack(
        [functional.cross_entropy(logits[r, where[r]], examples.targets[r, where[r]]) for r in range(ROWS)]
    )


def literal_letters(logits, examples, _):
    found = []
    for r in range(ROWS):
        options = [token for token in examples.fields["options"][r].tolist() if token != IGNORE]
        found.append(functional.cross_entropy(logits[r, LAST[r], options], examples.fields["right"][r]))
    return torch.stack(found)


def literal_rows(logits, examples, _):
    summed = [
        -functional.cross_entropy(row, own, ignore_index=IGNORE, reduction="sum")
        for row, own in zip(logits, examples.targets, strict=True)
    ]
    first, second = torch.stack(summed[:3]), torch.stack(summed[3:])
    return torch.stack([first.logsumexp(0) - first[1], second.logsumexp(0) - second[0]])


def literal_difference(logits, examples, _):
    found = []
    for r in range(ROWS):
        place = int(LAST[r]) if "last" in examples.at else LENGTH - 1
        wrong = [token for token in examples.fields["wrong"][r].reshape(-1).tolist() if token != IGNORE]
        found.append(logits[r, place, wrong].mean() - logits[r, place, examples.targets[r, place]])
    return torch.stack(found)


def literal_kl(logits, examples, before):
    apart = functional.kl_div(
        logits.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    return torch.stack([apart[r, examples.scored[r]].mean() for r in range(ROWS)])


def literal_error(logits, examples, _):
    wrong = logits.argmax(-1) != examples.targets
    return torch.stack([wrong[r, examples.scored[r]].double().mean() for r in range(ROWS)])


def second_moment(logits, examples):
    """A loss of one's own: the mean square of the logits of what follows."""
    right = logits.gather(-1, examples.targets.where(examples.scored, 0)[..., None])[..., 0]
    return (right.square() * examples.scored).sum(dim=1)


CASES = {
    "cross_entropy": Case("cross_entropy", text, lambda logits, own, _: literal_nll(logits, own.targets)),
    "answer": Case("answer", with_answers, literal_answer),
    "choice, letters": Case("choice", with_letters, literal_letters),
    "choice, rows": Case("choice", with_rows, literal_rows),
    "logit_difference": Case("logit_difference", with_wrong, literal_difference),
    "logit_difference, several": Case("logit_difference", with_several_wrong, literal_difference),
    "kl": Case("kl", text, literal_kl),
    "error": Case("error", text, literal_error),
    "own": Case(second_moment, text, lambda logits, own, _: second_moment(logits, own)),
}


@pytest.fixture(params=["llama", "gpt2", "neox", "embedded"])
def model(request):
    if request.param == "embedded":
        return open_model("embedded").model
    return request.getfixturevalue(request.param)


def few(model, kinds):
    """The units of the first and of the last layer, and two of each bank."""
    units = units_of(model, kinds=kinds)
    ends = {min(units.layers), max(units.layers)}
    units = Units(tuple(bank for bank in units.banks if bank.layer in ends))
    select = np.zeros(len(units), dtype=bool)
    for hook in units.hooks:
        select[[units.span(hook).start, units.span(hook).stop - 1]] = True
    return units, select


def edited(model, tokens, hooks, change):
    """The logits in float64 of one plain pass in which a function changes the activations at some hooks."""
    with torch.no_grad():
        pairs = [(place, lambda value, hook: change(value.clone(), hook.name)) for place in hooks]
        return model.run_with_hooks(tokens, fwd_hooks=pairs).double()


def set_unit(value, bank, position, new):
    """The activation with one unit moved to `new(its activation)`."""
    if bank.kind == "layer":
        value[:] = new(value)
    elif bank.kind == "head":
        value[:, :, position] = new(value[:, :, position])
    else:
        value[..., position] = new(value[..., position])
    return value


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
@pytest.mark.parametrize("name", CASES)
def test_exact_effects_are_one_hooked_pass_per_unit(model, name, kinds):
    case = CASES[name]
    examples = case.examples(min(model.cfg.d_vocab, 61))
    units, select = few(model, kinds)
    experiment = Experiment(model, {"a": examples}, units=units, loss=case.loss, folds=1)
    effects = ablation_effects(experiment, select=select)
    with torch.no_grad():
        before = model(examples.inputs).double()
    base = case.literal(before, examples, before)
    wanted = []
    for u in np.flatnonzero(select).tolist():
        hook, position = units.locate(u)
        bank = units.bank(hook)
        logits = edited(
            model, examples.inputs, bank.places, lambda v, _, b=bank, p=position: set_unit(v, b, p, torch.zeros_like)
        )
        wanted.append(float((case.literal(logits, examples, before) - base).mean()))
    assert np.abs(wanted).max() > 1e-4 or name == "error"
    np.testing.assert_allclose(effects.values[0, 0, select], wanted, atol=1e-5, rtol=1e-5)
    assert effects.baseline[0, 0] == pytest.approx(float(base.mean()), abs=1e-5)
    assert effects.unit == experiment.metric.unit == effects.made["loss"]["unit"]


def along(model, experiment, case, examples, u, steps):
    """The loss, literally, with one unit moved by a share of the way to zero, wherever it writes."""
    hook, position = experiment.units.locate(u)
    bank = experiment.units.bank(hook)
    with torch.no_grad():
        before, cache = model.run_with_cache(examples.inputs)
    found = []
    for step in steps:

        def change(value, place, step=step):
            untouched = cache[place]
            moved = set_unit(untouched.clone(), bank, position, lambda v: -step * v) - set_unit(
                untouched.clone(), bank, position, torch.zeros_like
            )
            return value + moved

        logits = edited(model, examples.inputs, bank.writes, change)
        found.append(float(case.literal(logits, examples, before.double()).mean()))
    return found


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("kl", "error")])
def test_attribution_is_the_finite_difference(request, family, name, kinds):
    model, case = request.getfixturevalue(family), CASES[name]
    examples = case.examples(61)
    units, select = few(model, kinds)
    experiment = Experiment(model, {"a": examples}, units=units, loss=case.loss, folds=1)
    found = attribution_effects(experiment, select=select, curvature=0).values[0, 0, select]
    h, wanted = 0.05, []
    for u in np.flatnonzero(select).tolist():
        up, down, far_up, far_down = along(model, experiment, case, examples, u, (h, -h, 2 * h, -2 * h))
        wanted.append((8 * (up - down) - (far_up - far_down)) / (12 * h))
    assert np.abs(wanted).max() > 1e-4
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max() + 1e-5)


@pytest.mark.parametrize("name", ["kl", "choice, letters", "choice, rows"])
def test_curvature_is_half_the_second_difference_of_the_divergence(llama, name):
    """Of the cross-entropy of labels drawn from the model, the curvature is that of the divergence from it."""
    case = CASES[name]
    examples = case.examples(61)
    units = units_of(llama)
    experiment = Experiment(llama, {"a": examples}, units=units, loss=case.loss, folds=1)
    drawn = attribution_effects(experiment, curvature=400).values[0, 0]
    if name != "kl":
        drawn = drawn - attribution_effects(experiment, curvature=0).values[0, 0]
    chosen = np.argsort(-drawn)[:12]
    apart = case if name == "kl" else Case(None, None, divergence_of(name, llama, examples))
    h = 0.1
    wanted = [sum(along(llama, experiment, apart, examples, int(u), (h, -h))) / (2 * h * h) for u in chosen]
    np.testing.assert_allclose(drawn[chosen].sum(), np.sum(wanted), rtol=0.15)
    assert np.corrcoef(drawn[chosen], wanted)[0, 1] > 0.95


def divergence_of(name, model, examples):
    """The divergence of the options' distribution from that of the untouched model."""

    def options(logits):
        if name == "choice, letters":
            tokens = [[t for t in row if t != IGNORE] for row in examples.fields["options"].tolist()]
            return [logits[r, LAST[r], tokens[r]].log_softmax(0) for r in range(ROWS)]
        summed = [
            -functional.cross_entropy(row, own, ignore_index=IGNORE, reduction="sum")
            for row, own in zip(logits, examples.targets, strict=True)
        ]
        return [torch.stack(summed[:3]).log_softmax(0), torch.stack(summed[3:]).log_softmax(0)]

    def apart(logits, _, before):
        pairs = zip(options(logits), options(before), strict=True)
        return torch.stack([(old.exp() * (old - new)).sum() for new, old in pairs])

    return apart


def test_a_divergence_is_zero_at_the_model_and_needs_curvature_or_a_path(llama):
    experiment = Experiment(llama, {"a": text(61)}, loss="kl", folds=1)
    np.testing.assert_allclose(experiment.losses(), 0, atol=1e-9)
    with pytest.raises(ValueError, match="8 for instance, or integrated gradients"):
        attribution_effects(experiment, curvature=0)
    whole = integrated_gradients_effects(replace(experiment, units=units_of(llama, kinds=("neuron",))), steps=24)
    np.testing.assert_allclose(whole.made["completeness"], 1, atol=0.15)


def test_a_count_is_measured_and_not_attributed(llama):
    experiment = Experiment(llama, {"a": text(61)}, loss="error", folds=1)
    for estimate in (attribution_effects, integrated_gradients_effects):
        with pytest.raises(ValueError, match="measure it by ablation"):
            estimate(experiment)
    counted = losses.custom(lambda logits, own: (logits.argmax(-1) != own.targets).double().mean(1), name="counted")
    with pytest.raises(ValueError, match="differentiable operations"):
        attribution_effects(replace(experiment, loss=counted))


def test_losses_without_a_likelihood_have_no_curvature_and_say_so(llama):
    experiment = Experiment(llama, {"a": with_wrong(61)}, loss="logit_difference", folds=1)
    with_draws, without = (attribution_effects(experiment, curvature=draws) for draws in (8, 0))
    assert with_draws.made["curvature"] == 0
    np.testing.assert_array_equal(with_draws.values, without.values)


def test_a_function_without_a_name_works_but_is_not_resumed(llama, tmp_path):
    examples = {"a": text(61)}
    shift = 1.0
    nameless = Experiment(llama, examples, loss=lambda logits, own: second_moment(logits, own) * shift, folds=1)
    named = Experiment(llama, examples, loss=second_moment, folds=1)
    select = nameless.units.named(["L0N0", "L2H3"])
    np.testing.assert_array_equal(
        ablation_effects(nameless, select=select).values, ablation_effects(named, select=select).values
    )
    assert nameless.metric.identity is None
    assert "second_moment" in named.metric.identity
    with pytest.raises(ValueError, match="top level of a module that can be imported"):
        ablation_effects(nameless, resume=tmp_path)
    assert not list(tmp_path.iterdir())
    ablation_effects(named, select=select, resume=tmp_path)
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("loss", "examples", "cure"),
    [
        ("entropy", text, "use one of cross_entropy, answer"),
        ("answer", text, "make them from prompts with answers"),
        ("logit_difference", text, "fields="),
        ("choice", text, "fields="),
        (lambda logits, own: logits.mean(), text, "one number per example"),
    ],
)
def test_losses_that_do_not_fit_the_examples(llama, loss, examples, cure):
    with pytest.raises(ValueError, match=cure):
        Experiment(llama, {"a": examples(61)}, loss=loss, folds=1).losses()


def test_what_is_no_loss():
    with pytest.raises(TypeError, match="pass a Loss, a name such as cross_entropy, or a function"):
        inspect.unwrap(losses.as_loss)(3)


def test_chance_levels():
    letters, rows = with_letters(61), with_rows(61)
    assert losses.cross_entropy.chance(61, letters) == pytest.approx(np.log(61))
    assert losses.choice.chance(61, letters) == pytest.approx((3 * np.log(3) + np.log(2)) / 4)
    assert losses.choice.chance(61, rows) == pytest.approx((np.log(3) + np.log(2)) / 2)
    assert losses.error.chance(4, letters) == 0.75
    assert losses.custom(second_moment).chance is None
    for loss, examples in ((losses.cross_entropy, letters), (losses.choice, letters), (losses.choice, rows)):
        flat = torch.zeros(len(examples.first), LENGTH, 61)
        if examples.owner is not None:  # options of as many tokens each
            examples = replace(examples, targets=examples.targets.where(torch.arange(LENGTH) == 6, IGNORE))
        assert float(loss(flat, examples).mean()) == pytest.approx(loss.chance(61, examples))


def test_values_by_position_are_the_loss(llama):
    examples = text(61)
    with torch.no_grad():
        logits = llama(examples.inputs)
    each = losses.cross_entropy.per_position(logits, examples, None)
    assert torch.equal(each.isnan(), ~examples.scored)
    torch.testing.assert_close(each.nanmean(dim=1), losses.cross_entropy(logits, examples))
