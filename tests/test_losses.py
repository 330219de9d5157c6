"""Every loss, on every kind of unit: exact effects are those of one hooked pass per unit, estimates are derivatives.

The oracle is literal: the loss is written out again here from the logits in float64, and each unit is ablated by a hook
of its own on the bridge.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from skilloc.ablation import ablation_effects, routes_of
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.experiment import Experiment
from skilloc.experiment.axes import by_unit
from skilloc.models.makers import face_of
from skilloc.tasks import IGNORE, Examples
from skilloc.tasks.losses import READY, as_loss, custom
from skilloc.units import Bank

FAMILIES = ("llama", "gpt2", "neox")
KINDS = ("neuron", "head", "residual", "layer")
ROWS, POS, WORDS = 6, 9, 61


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Random tokens."""
    return torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(seed))


def examples() -> Examples:
    """Six rows with everything that a loss may ask for, and a second input each."""
    tokens = drawn((ROWS, POS), 0)
    answer = torch.zeros(ROWS, POS, dtype=torch.bool)
    answer[:, 5:8] = True
    fields = {"wrong": drawn((ROWS, 2), 1), "options": drawn((ROWS, 4), 2), "right": torch.arange(ROWS) % 4}
    fields["wrong"][0, 1] = fields["options"][1, 3] = IGNORE
    at = {"answer": answer, "subject": torch.arange(ROWS) % 4}
    return Examples(tokens, tokens.roll(-1, 1), fields=fields, at=at, paired=drawn((ROWS, POS), 3))


def doubt(logits: Tensor, asked: Examples) -> Tensor:
    """A user's own metric: one minus the probability of the last target."""
    last = logits[:, -1].double().softmax(dim=-1)
    return 1 - last.gather(1, asked.targets[:, -1:])[:, 0]


def nll(logits: Tensor, asked: Examples) -> Tensor:
    """-log p of every target, on `row pos`."""
    flat = functional.cross_entropy(logits.double().flatten(0, 1), asked.targets.flatten(), reduction="none")
    return flat.view(asked.targets.shape)


def literal_choice(logits: Tensor, asked: Examples) -> Tensor:
    found = []
    for row in range(ROWS):
        options = [int(token) for token in asked.fields["options"][row] if token != IGNORE]
        scores = torch.stack([logits[row, -1, token].double() for token in options])
        found.append(scores.logsumexp(0) - scores[int(asked.fields["right"][row])])
    return torch.stack(found)


def literal_mistake(logits: Tensor, asked: Examples) -> Tensor:
    found = []
    for row in range(ROWS):
        options = [int(token) for token in asked.fields["options"][row] if token != IGNORE]
        best = max(range(len(options)), key=lambda i: float(logits[row, -1, options[i]]))
        found.append(float(best != int(asked.fields["right"][row])))
    return torch.tensor(found, dtype=torch.float64)


def literal_difference(logits: Tensor, asked: Examples) -> Tensor:
    found = []
    for row in range(ROWS):
        wrong = [logits[row, -1, int(token)].double() for token in asked.fields["wrong"][row] if token != IGNORE]
        found.append(sum(wrong) / len(wrong) - logits[row, -1, int(asked.targets[row, -1])].double())
    return torch.stack(found)


def literal_kl(logits: Tensor, clean: Tensor) -> Tensor:
    before, after = clean.double().log_softmax(-1), logits.double().log_softmax(-1)
    return functional.kl_div(after, before, log_target=True, reduction="none").sum(-1).mean(1)


def literal(name: str, logits: Tensor, clean: Tensor, asked: Examples) -> Tensor:
    """The loss of each example, written out."""
    if name == "cross_entropy":
        return nll(logits, asked).mean(1)
    if name == "answer":
        return nll(logits, asked)[:, 5:8].mean(1)
    if name == "error":
        return (logits.argmax(-1) != asked.targets).double().mean(1)
    if name == "kl":
        return literal_kl(logits, clean)
    plain: dict[str, Callable[..., Tensor]] = {
        "choice": literal_choice,
        "mistake": literal_mistake,
        "logit_difference": literal_difference,
        "doubt": doubt,
    }
    return plain[name](logits, asked)


LOSSES = (*READY, "doubt")


def experiment(model: Any, loss: str, **settings: Any) -> Experiment:
    """An experiment on the six rows."""
    return Experiment(model, {"a": examples()}, loss=doubt if loss == "doubt" else loss, folds=1, **settings)


def some(own: Experiment) -> list[int]:
    """The first and the last unit of the first and the last bank."""
    spans = [own.units.span(own.units.hooks[i]) for i in (0, -1)]
    return sorted({place for span in spans for place in (span.start, span.stop - 1)})


def ablated(model: Any, bank: Bank, place: int, held: Callable[[str], Any], where: Tensor | None) -> Tensor:
    """Logits under hooks of this test's own, which set one unit to its value at all of its places."""

    def setter(name: str) -> Any:
        def set_(value: Tensor, hook: Any) -> Tensor:
            edited, target = value.clone(), held(name)
            target = torch.as_tensor(target).to(value).expand(value.shape).contiguous()
            chosen = torch.ones(ROWS, POS, dtype=torch.bool) if where is None else where
            by_unit(edited, bank)[chosen, place] = by_unit(target, bank)[chosen, place]
            return edited

        return set_

    hooks = [(name, setter(name)) for name in bank.places]
    with torch.no_grad():
        return model.run_with_hooks(examples().tokens, fwd_hooks=hooks)


def oracle(own: Experiment, name: str, unit: int, where: Tensor | None = None) -> float:
    """The effect of one unit, by one hooked pass."""
    hook, place = own.units.locate(unit)
    with torch.no_grad():
        clean = own.model(examples().tokens)
    logits = ablated(own.model, own.units.bank(hook), place, lambda at: own.held.values[at], where)
    change = literal(name, logits, clean, examples()) - literal(name, clean, clean, examples())
    return float(change.mean())


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_effects_are_those_of_one_hooked_pass_per_unit(family: Any, kind: str, loss: str) -> None:
    own = experiment(family, loss, kinds=(kind,))
    chosen = some(own)
    select = np.isin(np.arange(len(own.units)), chosen)
    found = ablation_effects(own, select=select)
    assert found.unit == own.metric.unit
    for unit in chosen:
        assert found.values[0, 0, unit] == pytest.approx(oracle(own, loss, unit), abs=1e-5)
    assert "whole" not in routes_of(own).values()


@pytest.mark.parametrize("loss", LOSSES)
def test_exact_effects_on_the_embedded_model(loss: str, embedded: Any) -> None:
    own = experiment(embedded, loss)
    chosen = [*some(own), int(own.units.span("blocks.3.attn.hook_z").start)]
    found = ablation_effects(own, select=np.isin(np.arange(len(own.units)), chosen))
    for unit in chosen:
        assert found.values[0, 0, unit] == pytest.approx(oracle(own, loss, unit), abs=1e-5)


@pytest.fixture(scope="module")
def embedded() -> Any:
    from skilloc.models.language import open_model

    return open_model("embedded").model


@pytest.mark.parametrize("reference", ["mean", "flat mean", "resample", "paired", "given"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_reference(llama: Any, reference: str, kind: str) -> None:
    own = experiment(llama, "logit_difference", kinds=(kind,))
    values: Any = np.linspace(-1, 1, len(own.units)) if reference == "given" else reference
    own = replace(own, reference=values, loss="logit_difference")
    chosen = some(own)
    found = ablation_effects(own, select=np.isin(np.arange(len(own.units)), chosen))
    for unit in chosen:
        assert found.values[0, 0, unit] == pytest.approx(oracle(own, "logit_difference", unit), abs=1e-5)


@pytest.mark.parametrize("at", ["scored", "last", "subject", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_place_where_units_are_held(gpt2: Any, at: str, kind: str) -> None:
    mask = drawn((ROWS, POS), 7) % 2 == 0
    places = torch.arange(POS)
    where = {
        "scored": torch.ones(ROWS, POS, dtype=torch.bool),
        "last": (places == POS - 1).expand(ROWS, POS),
        "subject": places == examples().at["subject"][:, None],
        "mask": mask,
    }[at]
    own = experiment(gpt2, "cross_entropy", kinds=(kind,), at=mask if at == "mask" else at, reference="paired")
    chosen = some(own)
    found = ablation_effects(own, select=np.isin(np.arange(len(own.units)), chosen))
    for unit in chosen:
        assert found.values[0, 0, unit] == pytest.approx(oracle(own, "cross_entropy", unit, where), abs=1e-5)


def faded(own: Experiment, unit: int, by: float, where: Tensor | None) -> float:
    """The mean loss with what a unit writes moved a part of the way to its reference."""
    hook, place = own.units.locate(unit)
    bank = own.units.bank(hook)

    def mover(name: str) -> Any:
        def move(value: Tensor) -> Tensor:
            edited = value.clone()
            target = by_unit(own.held.on(name, slice(None)).to(value).expand(value.shape).contiguous(), bank)
            delta = by * (target - by_unit(value, bank))[..., place, :]
            by_unit(edited, bank)[..., place, :] += delta if where is None else delta * where[..., None]
            return edited

        return move

    with face_of(own.model).attached({name: mover(name) for name in bank.writes}):
        return float(own.losses().mean())


@pytest.mark.parametrize("loss", ["cross_entropy", "answer", "choice", "logit_difference", "doubt"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", ["all", "answer"])
def test_estimates_are_derivatives_of_fading(llama: Any, kind: str, loss: str, at: str) -> None:
    own = experiment(llama, loss, kinds=(kind,), at=at, reference="paired")
    found = attribution_effects(own, curvature=0).values[0, 0]
    for unit in some(own):
        slope = (faded(own, unit, 0.01, own.where) - faded(own, unit, -0.01, own.where)) / 0.02
        assert found[unit] == pytest.approx(slope, abs=5e-3 * np.abs(found).max())


def test_the_estimate_of_a_divergence_is_its_curvature(llama: Any) -> None:
    own = experiment(llama, "kl", kinds=("layer",))
    found = attribution_effects(own, curvature=600).values[0, 0]
    for unit in range(0, len(own.units), 2):
        second = (faded(own, unit, 0.05, None) + faded(own, unit, -0.05, None)) / 0.05**2 / 2
        assert found[unit] == pytest.approx(second, rel=0.2)
    with pytest.raises(ValueError, match="use 1 or more"):
        attribution_effects(own, curvature=0)
    along = integrated_gradients_effects(own, steps=32)
    assert np.array(along.made["completeness"]) == pytest.approx(1, abs=0.05)


def test_a_count_is_refused_for_attribution_in_words(llama: Any) -> None:
    own = experiment(llama, "error")
    with pytest.raises(ValueError, match="a count and has no gradient to attribute by; measure it by ablation"):
        attribution_effects(own)


def test_a_likelihood_has_curvature_and_another_loss_says_that_it_has_none(llama: Any) -> None:
    kept = {name: attribution_effects(experiment(llama, name), curvature=2).made["curvature"] for name in LOSSES[:4]}
    assert kept == {"cross_entropy": 2, "answer": 2, "choice": 2, "logit_difference": 0}


def test_a_question_with_a_row_per_option(llama: Any) -> None:
    """The choice between rows is that between their total log-probabilities."""
    tokens = drawn((6, POS), 5)
    targets = tokens.roll(-1, 1).clone()
    targets[:, :6] = IGNORE
    right = torch.tensor([True, False, False, False, True, False])
    owner = torch.tensor([0, 0, 0, 1, 1, 1])
    asked = Examples(tokens, targets, fields={"right": right}, owner=owner)
    own = Experiment(llama, {"a": asked}, loss="choice", folds=2, kinds=("head",))
    found = ablation_effects(own)
    assert own.metric.chance is not None
    assert own.metric.chance(WORDS, asked) == pytest.approx(math.log(3))

    def losses(logits: Tensor) -> Tensor:
        each = [
            sum(-logits[row, t].double().log_softmax(-1)[targets[row, t]] for t in range(6, POS)) for row in range(6)
        ]
        scores = -torch.stack(each).view(2, 3)
        return scores.logsumexp(1) - scores[[0, 1], [0, 1]]

    with torch.no_grad():
        base = losses(llama(tokens))
        for unit in (0, 5, 11):
            hook, place = own.units.locate(unit)

            def silence(value: Tensor, hook: Any, place: int = place) -> Tensor:
                value[:, :, place] = 0
                return value

            change = losses(llama.run_with_hooks(tokens, fwd_hooks=[(hook, silence)])) - base
            assert found.values[:, 0, unit] == pytest.approx(change.numpy(), abs=1e-5)


def test_what_a_loss_needs_is_said(llama: Any) -> None:
    tokens = drawn((2, 4), 0)
    plain = {"a": Examples(tokens, tokens)}
    with pytest.raises(ValueError, match='needs a field "wrong"'):
        ablation_effects(Experiment(llama, plain, loss="logit_difference", folds=1))
    with pytest.raises(ValueError, match='needs a position named "answer"'):
        ablation_effects(Experiment(llama, plain, loss="answer", folds=1))
    with pytest.raises(ValueError, match="use one of cross_entropy"):
        as_loss("perplexity")
    with pytest.raises(ValueError, match="one number per example"):
        ablation_effects(Experiment(llama, plain, loss=lambda logits, _: logits.mean(), folds=1))


def test_a_loss_without_a_name_is_neither_resumed_nor_refused_otherwise(llama: Any, tmp_path: Any) -> None:
    nameless = Experiment(llama, {"a": examples()}, loss=lambda logits, asked: doubt(logits, asked), folds=1)
    select = np.arange(len(nameless.units)) == 3
    named = replace(nameless, loss=custom(doubt))
    assert custom(doubt).identity is not None
    assert (custom(doubt).unit, custom(doubt, unit="probability").unit) == ("doubt", "probability")
    assert ablation_effects(nameless, select=select).made["loss"]["identity"] is None
    with pytest.raises(ValueError, match="define it at the top level"):
        ablation_effects(nameless, select=select, resume=tmp_path / "a")
    again = ablation_effects(named, select=select, resume=tmp_path / "b")
    assert np.array_equal(
        again.values, ablation_effects(named, select=select, resume=tmp_path / "b").values, equal_nan=True
    )


def test_hooks_of_a_user_are_honoured_on_every_route_and_named(gpt2: Any) -> None:
    def louder(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[1:] *= 3
        return value

    own = experiment(gpt2, "cross_entropy")
    select = np.isin(np.arange(len(own.units)), some(own))
    plain = ablation_effects(own, select=select)
    gpt2.add_hook("blocks.0.hook_resid_post", louder)
    try:
        hooked = experiment(gpt2, "cross_entropy")
        found, estimate = ablation_effects(hooked, select=select), attribution_effects(hooked, curvature=0)
        for unit in some(own):
            assert found.values[0, 0, unit] == pytest.approx(oracle(hooked, "cross_entropy", unit), abs=1e-5)
    finally:
        gpt2.reset_hooks()
    assert any("louder" in name for name in found.made["hooks"])
    assert any("louder" in name for name in estimate.made["hooks"])
    assert "hooks" not in plain.made
    assert not np.allclose(plain.values[..., select], found.values[..., select], atol=1e-4)
