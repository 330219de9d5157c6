import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc import ablation, store
from skilloc.ablation import ablation_effects, mask_effects
from skilloc.experiment import (
    Experiment,
    Reference,
    UnknownLayoutError,
    as_reference,
    flat_mean_reference,
    mean_reference,
    read_activations,
    resample_reference,
    zero_reference,
)
from skilloc.masks import Mask, drop_top, matched_random, sample
from skilloc.models.language import open_model
from skilloc.models.makers import units_of, zeroed
from skilloc.tasks import IGNORE, Examples, fold


def rows(tokens, first, last):
    return Examples(tokens[first:last, :-1], tokens[first:last, 1:])


@pytest.fixture
def batches(tokens):
    return {"a": rows(tokens, 0, 2), "b": rows(tokens, 2, 4)}


def nll(logits, targets):
    """Nats per scored token of each row, literally."""
    each = functional.cross_entropy(
        logits.double().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
    ).view(targets.shape)
    return each.sum(dim=1) / (targets != IGNORE).sum(dim=1)


def oracle(model, batches, units, reference, folds, some=None):
    """One `run_with_hooks` per unit and subtask; the definition, and nothing clever. NaN but for `some` units."""
    values = np.full((folds, len(batches), len(units)), np.nan)
    some = np.arange(len(units)) if some is None else some
    start = 0
    for s, batch in enumerate(batches.values()):
        here = slice(start, start + len(batch))
        start += len(batch)
        with torch.no_grad():
            base = nll(model(batch.inputs), batch.targets)
        for u in some:
            hook, position = units.locate(int(u))

            def held(value, hook, position=position, name=hook, here=here):
                value = value.clone()
                value[:, :, position] = reference.of(name, units.bank(name), position, here)
                return value

            with torch.no_grad():
                logits = model.run_with_hooks(batch.inputs, fwd_hooks=[(hook, held)])
            change = (nll(logits, batch.targets) - base).numpy()
            values[:, s, u] = [part.mean() for part in np.array_split(change, folds)]
    return values


@pytest.mark.parametrize("kind", ["zero", "mean", "flat mean", "resample", "given"])
def test_sweep_equals_the_loop_over_units(any_model, batches, kind):
    units = units_of(any_model)
    reference = {
        "zero": lambda: zero_reference(units),
        "mean": lambda: mean_reference(any_model, batches, units),
        "flat mean": lambda: flat_mean_reference(any_model, batches, units),
        "resample": lambda: resample_reference(any_model, batches, units, seed=0),
        "given": lambda: as_reference(np.linspace(-1, 1, len(units)), units),
    }[kind]()
    effects = ablation_effects(Experiment(any_model, batches, units=units, reference=reference, folds=2))
    # Zero has a loop over all units; what another reference changes is the same for a third of them.
    some = np.arange(len(units))[:: 1 if kind == "zero" else 3]
    wanted = oracle(any_model, batches, units, reference, folds=2, some=some)[..., some]
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(effects.values[..., some], wanted, atol=1e-5)


def test_ablation_equals_weight_surgery(any_model, batches):
    units = units_of(any_model)
    folds = 1
    effects = ablation_effects(Experiment(any_model, batches, units=units, folds=folds))
    for u in np.flatnonzero(sample(units, 12, seed=0)):
        hook, position = units.locate(int(u))
        for s, batch in enumerate(batches.values()):
            with torch.no_grad():
                base = nll(any_model(batch.inputs), batch.targets)
                with zeroed(any_model, hook, position):
                    gone = nll(any_model(batch.inputs), batch.targets)
            np.testing.assert_allclose(effects.values[0, s, u], (gone - base).mean(), atol=1e-5)


def test_the_embedded_model():
    """Some neurons and heads of every layer: the sweep, one hook per unit, and weight surgery."""
    model = open_model("embedded").model
    tokens = torch.randint(model.cfg.d_vocab, (2, 25), generator=torch.Generator().manual_seed(0))
    batch = rows(tokens, 0, 2)
    units = units_of(model)
    chosen = np.zeros(len(units), dtype=bool)
    for hook in units.hooks:
        chosen[[units.span(hook).start, units.span(hook).stop - 1]] = True
    effects = ablation_effects(Experiment(model, {"a": batch}, units=units, folds=1), select=chosen)
    with torch.no_grad():
        base = nll(model(batch.inputs), batch.targets)
        for u in np.flatnonzero(chosen).tolist():
            hook, position = units.locate(u)

            def silence(value, hook, position=position):
                value = value.clone()
                value[:, :, position] = 0
                return value

            hooked = nll(model.run_with_hooks(batch.inputs, fwd_hooks=[(hook, silence)]), batch.targets)
            with zeroed(model, hook, position):
                cut = nll(model(batch.inputs), batch.targets)
            assert effects.values[0, 0, u] == pytest.approx((hooked - base).mean().item(), abs=1e-5)
            assert effects.values[0, 0, u] == pytest.approx((cut - base).mean().item(), abs=1e-5)


def test_every_model_takes_the_fast_routes(any_model, batches):
    """The routes are chosen by checks; if one fails silently, sweeps become slow, not wrong."""
    units = units_of(any_model)
    trunk = ablation.lay_trunk(Experiment(any_model, batches, folds=1))
    last = units.hooks[-1]
    wanted = {hook: "within" if hook.endswith("hook_z") else "after" for hook in units.hooks} | {last: "closed"}
    assert trunk.routes == wanted


def test_only_the_routes_of_what_is_measured_are_checked(llama, batches, monkeypatch):
    """Each check costs passes of the model; two heads of a large one are not to wait for those of all its layers."""
    from skilloc.ablation import routes

    seen, check = [], routes._route
    monkeypatch.setattr(routes, "_route", lambda trunk, suffix, bank, piece: seen.append(bank.name) or check(
        trunk, suffix, bank, piece
    ))  # fmt: skip
    experiment = Experiment(llama, batches, folds=1)
    whole = ablation_effects(experiment)
    assert seen == list(experiment.units.hooks)
    seen.clear()
    select = experiment.units.named(["L0H1", "L2N3"])
    some = ablation_effects(experiment, select=select)
    assert seen == [hook for hook, part in experiment.units.split(select).items() if part.any()]
    assert len(seen) == 2
    assert some.values[..., select] == pytest.approx(whole.values[..., select], abs=1e-6)


def test_the_slow_route_gives_the_same(llama, batches, monkeypatch, caplog):
    units = units_of(llama)
    fast = ablation_effects(Experiment(llama, batches, units=units, folds=1), select=sample(units, 20, seed=1))

    def refuse(_):
        raise UnknownLayoutError("it is turned off")

    monkeypatch.setattr("skilloc.ablation.routes.Suffix", refuse)
    slow = ablation_effects(
        Experiment(llama, batches, units=units, folds=1), select=sample(units, 20, seed=1), workers=2
    )
    assert "this is slow" in caplog.text
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-5)
    assert fast.made == slow.made


def test_units_at_their_reference_have_no_effect(llama, batches):
    units = units_of(llama)
    own = Reference("given", read_activations(llama, fold(batches, 1).examples, units), per_row=True)
    effects = ablation_effects(Experiment(llama, batches, units=units, reference=own, folds=1))
    assert np.abs(effects.values).max() < 1e-6


def test_threads_select_and_order_do_not_change_a_value(llama, batches):
    units = units_of(llama)
    alone = ablation_effects(Experiment(llama, batches, units=units, folds=2))
    chosen = sample(units, 50, seed=3)
    some = ablation_effects(Experiment(llama, batches, units=units, folds=2), select=chosen, workers=2)
    np.testing.assert_allclose(some.values[..., chosen], alone.values[..., chosen], atol=1e-6)
    assert np.isnan(some.values[..., ~chosen]).all()
    assert (some.measured == chosen).all()


def test_padding_and_unscored_targets(llama, tokens):
    short = Examples(tokens[:2, :7], tokens[:2, 1:8].clone())
    short.targets[0, 3:] = IGNORE
    units = units_of(llama)
    alone = ablation_effects(Experiment(llama, {"short": short}, units=units, folds=1))
    together = ablation_effects(Experiment(llama, {"short": short, "long": rows(tokens, 2, 4)}, units=units, folds=1))
    np.testing.assert_allclose(together.values[:, :1], alone.values, atol=1e-5)


def test_small_blocks_of_rows_give_the_same(llama, batches, monkeypatch):
    units = units_of(llama)
    whole = ablation_effects(Experiment(llama, batches, units=units, folds=2))
    monkeypatch.setattr("skilloc.models.losses.MAX_LOGITS", 1)
    np.testing.assert_allclose(
        ablation_effects(Experiment(llama, batches, units=units, folds=2)).values, whole.values, atol=1e-6
    )


class Counter:
    """Counts the items that are really measured, and can stop after some."""

    def __init__(self, monkeypatch, stop_after=math.inf):
        self.items = []
        real = ablation.Prober.effects

        def counted(prober, hook, positions):
            if len(self.items) >= stop_after:
                raise KeyboardInterrupt
            self.items.append((hook, tuple(positions)))
            return real(prober, hook, positions)

        monkeypatch.setattr(ablation.Prober, "effects", counted)


def test_resume_goes_on_and_redoes_nothing(llama, batches, tmp_path, monkeypatch):
    units = units_of(llama)
    whole = ablation_effects(Experiment(llama, batches, units=units, folds=2))
    with monkeypatch.context() as patch:
        first = Counter(patch, stop_after=5)
        with pytest.raises(KeyboardInterrupt):
            ablation_effects(Experiment(llama, batches, units=units, folds=2), resume=tmp_path)
    with monkeypatch.context() as patch:
        second = Counter(patch)
        resumed = ablation_effects(Experiment(llama, batches, units=units, folds=2), resume=tmp_path)
    assert len(first.items) == 5
    assert not set(first.items) & set(second.items)
    np.testing.assert_array_equal(resumed.values, whole.values)
    with monkeypatch.context() as patch:
        third = Counter(patch)
        ablation_effects(Experiment(llama, batches, units=units, folds=2), resume=tmp_path)
    assert third.items == []


def test_resume_redoes_what_was_altered_and_ignores_other_settings(llama, batches, tmp_path, monkeypatch):
    units = units_of(llama)
    whole = ablation_effects(Experiment(llama, batches, units=units, folds=2), resume=tmp_path)
    folder = sorted(tmp_path.iterdir())[0]
    tensors = folder / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-3] + b"abc")
    shutil.rmtree(sorted(tmp_path.iterdir())[1])
    with monkeypatch.context() as patch:
        again = Counter(patch)
        effects = ablation_effects(Experiment(llama, batches, units=units, folds=2), resume=tmp_path)
    assert len(again.items) == 2
    np.testing.assert_array_equal(effects.values, whole.values)
    with monkeypatch.context() as patch:
        other = Counter(patch)
        ablation_effects(Experiment(llama, batches, units=units, folds=1), resume=tmp_path)
    assert len(other.items) == len(list(store.table(tmp_path).index)) // 2


def test_a_time_budget_leaves_a_random_rest(llama, batches):
    units = units_of(llama)
    effects = ablation_effects(Experiment(llama, batches, units=units, folds=1), seconds=0.0)
    assert not effects.measured.any()
    assert np.isfinite(effects.baseline).all()


def test_mask_effects_hold_all_dropped_units(any_model, batches):
    units = units_of(any_model)
    nothing, everything = Mask(units, np.ones(len(units), bool)), Mask(units, np.zeros(len(units), bool))
    single = Mask(units, ~sample(units, 1, seed=2))
    effects, base = mask_effects(Experiment(any_model, batches, units=units, folds=2), [nothing, single, everything])
    np.testing.assert_allclose(effects[0], 0, atol=1e-7)
    alone = ablation_effects(Experiment(any_model, batches, units=units, folds=2), select=~single.keep)
    np.testing.assert_allclose(effects[1], alone.values[..., ~single.keep][..., 0], atol=1e-5)
    np.testing.assert_allclose(base, alone.baseline, atol=1e-5)
    for s, batch in enumerate(batches.values()):
        with torch.no_grad(), zeroed_all(any_model, units):
            gone = nll(any_model(batch.inputs), batch.targets).numpy()
        np.testing.assert_allclose(effects[2][:, s].mean(), gone.mean() - base[:, s].mean(), atol=1e-5)


def zeroed_all(model, units):
    from contextlib import ExitStack

    stack = ExitStack()
    for hook, width in zip(units.hooks, units.widths, strict=True):
        stack.enter_context(zeroed(model, hook, range(width)))
    return stack


def test_mask_effects_with_a_reference_per_example(llama, batches, monkeypatch):
    units = units_of(llama)
    mask = drop_top(units, np.arange(len(units), dtype=float), 30)
    reference = resample_reference(llama, batches, units, seed=0)
    whole, _ = mask_effects(
        Experiment(llama, batches, units=units, reference=reference, folds=2), [mask, matched_random(mask, seed=0)]
    )
    monkeypatch.setattr("skilloc.models.losses.MAX_LOGITS", 1)
    blocks, _ = mask_effects(
        Experiment(llama, batches, units=units, reference=reference, folds=2), [mask, matched_random(mask, seed=0)]
    )
    np.testing.assert_allclose(whole, blocks, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ({"reference": np.zeros(3)}, "one value per unit"),
        ({"select": np.ones(3, dtype=bool)}, "one value per unit"),
        ({"folds": 3}, "fewer folds"),
    ],
)
def test_arguments_that_do_not_belong_together(llama, batches, change, cure):
    settings = {"folds": 1, **{name: value for name, value in change.items() if name != "select"}}
    experiment = Experiment(llama, batches, **settings)
    with pytest.raises(ValueError, match=cure):
        ablation_effects(experiment, select=change.get("select"))


def test_select_nothing(llama, batches):
    units = units_of(llama)
    with pytest.raises(ValueError, match="select at least one"):
        ablation_effects(Experiment(llama, batches, units=units, folds=1), select=np.zeros(len(units), dtype=bool))


def test_models_and_batches_that_do_not_fit(llama, tokens):
    units = units_of(llama)
    long = torch.zeros(2, 80, dtype=torch.long)
    with pytest.raises(ValueError, match="shorter `length`"):
        ablation_effects(Experiment(llama, {"a": Examples(long, long)}, units=units, folds=1))
    strange = torch.full((2, 8), 61)
    with pytest.raises(ValueError, match="tokenizer of this model"):
        ablation_effects(Experiment(llama, {"a": Examples(strange, strange)}, units=units, folds=1))
    with pytest.raises(ValueError, match="at least one subtask"):
        ablation_effects(Experiment(llama, {}, units=units, folds=1))
    llama.train()
    try:
        with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
            ablation_effects(Experiment(llama, {"a": rows(tokens, 0, 2)}, units=units, folds=1))
    finally:
        llama.eval()


def test_nan_weights_are_named(llama, tokens):
    norm = llama.original_model.model.norm
    parameter = getattr(norm, "weight", None)
    parameter = parameter if parameter is not None else norm.original_component.weight
    saved = parameter.detach().clone()
    with torch.no_grad():
        parameter[0] = math.nan
    try:
        with pytest.raises(ValueError, match="NaN or infinite weights"):
            ablation_effects(Experiment(llama, {"a": rows(tokens, 0, 2)}, folds=1))
    finally:
        with torch.no_grad():
            parameter.copy_(saved)
