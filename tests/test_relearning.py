"""The probe on small parity networks: it tells removed from hidden, from broken, and from what cannot be told."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from skilloc import Mask, store, units_of
from skilloc.ablation import ablation_effects
from skilloc.experiment import Experiment, losses
from skilloc.models.language import digest
from skilloc.models.mlp import MLP
from skilloc.pruning import prune
from skilloc.relearning import (
    NEVER,
    ORIGINAL,
    PLAIN_WAYS,
    RANDOM,
    UNSEEN,
    Grid,
    Relearning,
    envelope,
    over_seeds,
    randomly_pruned,
    record,
    relearn_controls,
    relearn_probe,
    steps_to_recover,
    summary,
    untrained,
    verdict,
    verdicts,
)
from skilloc.relearning.controls import cut_alike, larger
from skilloc.relearning.settings import attack_kind
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train
from skilloc.units import Units, neurons

WORLD = parity_subtasks(16, atoms=3, k=3)
FIRST, SECOND, GONE = WORLD.values()
SEEDS = (0, 1, 2)
GRID = Grid(rates=(1e-2, 3e-2), budgets=(1, 4, 16, 32), examples=32, held_out=120, folds=4, repair=16, ways=PLAIN_WAYS)


def trained(subtasks, seed, steps=1000, n=16, width=48):
    model = MLP(n + len(next(iter(subtasks)).made["sets"]), 2, width, 3, seed=seed)
    config = TrainConfig(steps=steps, rate=5e-3, evaluate_every=100, until={subtask.name: 0.01 for subtask in subtasks})
    evaluate = {subtask.name: subtask.draw(400, split="selection") for subtask in subtasks}
    train(model, parity_stream(subtasks, 100, seed=seed), config, evaluate=evaluate, progress=False)
    return model


@torch.no_grad()
def rescaled(model):
    model = copy.deepcopy(model)
    for parameter in model.out.parameters():
        parameter.mul_(1e-2)
    return model


@torch.no_grad()
def destroyed(model, seed):
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(parameter.std() * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def originals():
    return [trained([FIRST, SECOND, GONE], seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def models(originals):
    unseen = [trained([FIRST, SECOND], seed + 10) for seed in SEEDS]
    return {
        UNSEEN: [trained([FIRST, SECOND], seed + 20) for seed in SEEDS],
        **relearn_controls(originals, originals, seeds=SEEDS),
        "rescaled": [rescaled(model) for model in originals],
        "noise": [destroyed(model, seed) for seed, model in enumerate(originals)],
        "unaware": unseen,
        "untouched": originals,
    }


def probe(models, **changes):
    settings = {"attack": [GONE], "report": GONE, "grid": GRID, "seeds": SEEDS, "kept": [FIRST, SECOND], **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return relearn_probe(models, settings.pop("attack"), settings.pop("report"), **settings)


@pytest.fixture(scope="module")
def found(models, tmp_path_factory):
    before = {name: [digest(model) for model in listed] for name, listed in models.items()}
    result = probe(models, out=tmp_path_factory.mktemp("runs"))  # equal models share their runs
    assert before == {name: [digest(model) for model in listed] for name, listed in models.items()}
    assert not any(model.training for listed in models.values() for model in listed)
    return result


@pytest.mark.parametrize(
    ("model", "word"),
    [("rescaled", "not removed"), ("noise", "damaged"), ("unaware", "removed"), ("untouched", "not removed")],
)
def test_the_probe_cannot_be_fooled(found, originals, model, word):
    if model == "rescaled":  # it looks forgotten
        assert float(losses(rescaled(originals[0]), GONE.draw(300)).mean()) > 0.3
    assert verdict(found, model).word == word
    assert [v.model for v in verdicts(found)] == ["rescaled", "noise", "unaware", "untouched"]
    assert model in summary(found)


def test_an_unharmed_model_takes_no_steps_and_a_never_trained_one_is_slower(found):
    best = envelope(found)
    for name in (ORIGINAL, "untouched"):
        steps, happened = steps_to_recover(found, best, name, 0)
        assert happened.all()
        assert steps.tolist() == [0, 0, 0]
    steps, happened = steps_to_recover(found, best, NEVER, 0)
    assert (steps > steps_to_recover(found, best, "rescaled", 0)[0]).all() or not happened.any()
    assert verdict(found, "untouched").removed.share.value == pytest.approx(0)


def test_damage_is_measured_after_the_repair(found):
    assert verdict(found, "noise").damage.low > 0.5
    assert abs(verdict(found, "unaware").damage.value) < 0.05
    assert verdict(found, "untouched").damage.value == 0
    steps = dict(zip(found.models, found.repair_steps, strict=True))
    assert (steps["untouched"] == 0).all()
    assert steps["unaware"].max() < steps["rescaled"].min()


def test_the_envelope_never_falls_and_is_chosen_on_the_selection_split(found):
    best = envelope(found)
    assert (np.diff(best.selection, axis=-1) >= 0).all()
    changed = Relearning(**{**found.__dict__, "report": np.full_like(found.report, 0.1)})
    for own, other in zip(best[1:], envelope(changed)[1:], strict=True):
        np.testing.assert_array_equal(own, other)


def test_the_record_names_what_is_missing_and_where_the_grid_ends(found):
    told = record(found)
    assert set(told["missing"]) == {RANDOM, "plain finetuning"}
    assert told["kind"] == "the subtask itself"
    for edge in told["edges"]:
        assert edge["rate"] in (GRID.rates[0], GRID.rates[-1])
    curve = told["models"]["rescaled"]["sizes"][0]
    assert len(curve["loss"]["value"]) == len(curve["kept"][FIRST.name]) == len(GRID.steps)
    assert curve["loss"]["value"][0] > 0.3 > 0.1 > curve["loss"]["value"][-1]


def test_results_survive_a_folder_and_join_over_seeds(found, tmp_path):
    store.save(found, tmp_path / "result")
    again = store.load(Relearning, tmp_path / "result")
    assert record(again) == record(found)
    parts = []
    for s, seed in enumerate(SEEDS):
        from skilloc.relearning.result import DIMS

        taken = {name: np.take(getattr(found, name), [s], DIMS[name].index("seed")) for name in DIMS}
        parts.append(Relearning(**{**found.__dict__, **taken, "made": {**found.made, "seeds": [seed]}}))
    assert verdict(parts[0], "rescaled").word == "undecidable"  # one seed gives no interval
    assert "one seed" in verdict(parts[0], "rescaled").sentence
    assert verdicts(over_seeds(parts)) == verdicts(found)


def test_what_is_learned_at_once_is_undecidable():
    easy = parity_subtasks(6, atoms=3, k=1)
    first, second, gone = easy.values()
    originals = [trained([first, second, gone], seed, n=6, width=16) for seed in SEEDS]
    models = {**relearn_controls(originals, originals, seeds=SEEDS), "copy": [rescaled(m) for m in originals]}
    models[UNSEEN] = [trained([first, second], seed + 10, n=6, width=16) for seed in SEEDS]
    grid = Grid(rates=(1e-2, 3e-2), ways=PLAIN_WAYS, budgets=(64,), examples=32, held_out=100, folds=4, repair=8)
    found = probe(models, attack=[gone], report=gone, kept=[first, second], grid=grid)
    assert verdict(found, "copy").word == "undecidable"
    assert "smaller `budgets`" in verdict(found, "copy").sentence


def test_what_nobody_knows_is_undecidable(models):
    unaware = models["unaware"]
    grid = Grid(rates=(1e-3,), budgets=(1, 4), examples=16, held_out=100, folds=4, repair=4, ways=PLAIN_WAYS)
    found = probe({**relearn_controls(unaware, unaware, seeds=SEEDS), UNSEEN: unaware, "copy": unaware}, grid=grid)
    assert verdict(found, "copy").word == "undecidable"


def test_kept_data_only_and_few_examples_are_attacks_too(models):
    grid = Grid(
        rates=(1e-2,), budgets=(1, 16), sizes=(8, None), examples=32, held_out=100, folds=4, repair=0, ways=PLAIN_WAYS
    )
    chosen = {name: models[name] for name in (ORIGINAL, NEVER, "unaware")}
    few = probe(chosen, grid=grid)
    assert few.sizes == (8, None)
    never = few.report[few.place(NEVER), 0].mean(axis=(-2, -1))
    assert never[0, 0, -1] > never[1, 0, -1]  # 8 examples are learned by heart
    benign = probe(chosen, grid=grid, attack=[FIRST])
    assert benign.made["kind"] == "kept data only"
    assert attack_kind([GONE, FIRST], GONE, [FIRST]) == "the subtask among others"
    assert attack_kind([SECOND], GONE, [FIRST]) == "related data"


def test_runs_are_kept_and_not_done_again(models, tmp_path, monkeypatch):
    chosen = {name: models[name] for name in (ORIGINAL, NEVER, "rescaled")}
    grid = Grid(rates=(1e-3, 1e-2), budgets=(1, 2), examples=16, held_out=60, folds=3, repair=4, ways=PLAIN_WAYS)
    fresh = probe(chosen, grid=grid)
    first = probe(chosen, grid=replace(grid, rates=(1e-3,)), out=tmp_path)
    before = set(tmp_path.glob("runs/*"))
    kept = probe(chosen, grid=grid, out=tmp_path)
    assert before < set(tmp_path.glob("runs/*"))
    for name in ("selection", "report", "kept", "repair", "repair_steps"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(fresh, name))
    np.testing.assert_array_equal(first.report[:, :, :, 0], kept.report[:, :, :, 0])
    monkeypatch.setattr("skilloc.relearning.attack.train", None)
    again = probe(chosen, grid=grid, out=tmp_path)
    np.testing.assert_array_equal(again.report, kept.report)


def test_a_mask_is_held_through_repair_and_attack(originals):
    units = units_of(originals[0])
    mask = Mask(units, np.arange(len(units)) % 3 > 0)
    pruned = [prune(model, mask) for model in originals]
    grid = Grid(rates=(1e-3,), budgets=(1, 16), examples=32, held_out=100, folds=4, repair=8, ways=PLAIN_WAYS)
    models = {**relearn_controls(originals, pruned, seeds=SEEDS), "pruned": pruned, "held": originals}
    found = probe(models, grid=grid, masks={"held": mask})
    one, other = found.place("pruned"), found.place("held")
    np.testing.assert_allclose(found.report[one], found.report[other], atol=1e-3)
    np.testing.assert_allclose(found.kept[one], found.kept[other], atol=1e-3)


def test_controls_have_the_shape_of_the_pruned_model(originals):
    units = units_of(originals[0])
    small = prune(originals[0], Mask(units, np.arange(len(units)) < 60))
    made = relearn_controls(originals, [small] * 3, seeds=SEEDS)
    assert {units_of(model).widths for name in (NEVER, RANDOM) for model in made[name]} == {(48, 12)}
    assert len({digest(model) for name in (NEVER, RANDOM) for model in made[name]}) == 6
    wanted = MLP(19, 2, (48, 12), 3, seed=1)
    assert digest(made[NEVER][1]) == digest(wanted)
    with pytest.raises(ValueError, match="pass the model that it was pruned from"):
        randomly_pruned(small, originals[0], seed=0)


def test_one_that_never_saw_it_is_cut_to_the_candidates_shape_and_keeps_what_is_needed(originals):
    units = units_of(originals[0])
    small = prune(originals[0], Mask(units, np.arange(len(units)) < 60))
    other = originals[1]
    found = cut_alike(other, small, [FIRST, SECOND])
    assert units_of(found).widths == (48, 12)
    # Those of the second layer whose removal, one by one, costs the kept subtasks most.
    batches = {subtask.name: subtask.draw(16, split="train", seed=10_000) for subtask in (FIRST, SECOND)}
    exact = ablation_effects(Experiment(other, batches, folds=1)).values.mean(axis=(0, 1))[48:]
    kept = {tuple(row) for row in found.layers[1].weight.tolist()}
    chosen = np.array([tuple(row) in kept for row in other.layers[1].weight.tolist()])
    assert chosen.sum() == 12
    assert exact[chosen].mean() > 2 * exact[~chosen].mean()
    assert larger(other, small)
    assert not larger(small, other)
    assert not larger(small, small)
    assert not larger(other, MLP(19, 2, (96, 12), 3, seed=1))
    with pytest.raises(ValueError, match="pass the model that it was pruned from"):
        cut_alike(small, other, [FIRST])


def test_a_language_model_is_never_trained(any_model):
    fresh, again, other = (untrained(any_model, seed=seed) for seed in (0, 0, 1))
    assert digest(fresh) == digest(again) != digest(other)
    assert units_of(fresh) == units_of(any_model)
    shapes = {name: parameter.shape for name, parameter in any_model.named_parameters()}
    for name, parameter in fresh.named_parameters():
        assert parameter.shape == shapes[name]
        assert parameter.std() < 0.15  # these models are louder


ONE = Units((neurons("a.hook_post", 1, 0),))


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ({"attack": []}, r"for instance `\[report\]`"),
        ({"kept": [GONE]}, "leave out"),
        ({"seeds": (0, 0, 1)}, "different numbers"),
        ({"seeds": (0, 1)}, "pass one, or one per seed"),
        ({"masks": {"other": Mask(ONE, np.ones(1, dtype=bool))}}, "name one of them"),
    ],
)
def test_questions_that_cannot_be(models, change, cure):
    with pytest.raises(ValueError, match=cure):
        relearn_probe(models, **{"attack": [GONE], "report": GONE, "seeds": SEEDS, **change})


def test_models_that_cannot_be_compared(models):
    with pytest.raises(ValueError, match="build them with `relearn_controls"):
        relearn_probe({"a": models["noise"]}, [GONE], GONE)
    with pytest.raises(ValueError, match="add the model that the question is about"):
        relearn_probe({name: models[name] for name in (ORIGINAL, NEVER)}, [GONE], GONE)


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"rates": (1e-2, 1e-3)}, "rising"),
        ({"budgets": (0, 1)}, "at least 1"),
        ({"sizes": (0,)}, "at least 1"),
        ({"folds": 1}, "at least 2"),
        ({"held_out": 4}, "at least 8"),
        ({"repair_rate": 0.0}, "positive"),
    ],
)
def test_grids_that_cannot_be(settings, cure):
    with pytest.raises(ValueError, match=cure):
        Grid(**settings)


def test_one_rate_is_warned_about(models):
    grid = Grid(rates=(1e-2,), budgets=(4,), examples=16, held_out=60, folds=3, repair=0, ways=PLAIN_WAYS)
    chosen = {name: models[name] for name in (ORIGINAL, NEVER, "rescaled")}
    with pytest.warns(UserWarning, match="widen `rates`"):
        relearn_probe(chosen, [GONE], GONE, grid, SEEDS)


def test_a_rate_that_diverges_is_not_chosen(models):
    grid = Grid(rates=(1e-2, 1e12), budgets=(1, 32), examples=16, held_out=60, folds=3, repair=0, ways=PLAIN_WAYS)
    found = probe({name: models[name] for name in (ORIGINAL, NEVER, "rescaled")}, grid=grid)
    assert np.isnan(found.report[:, :, :, 1, -1]).any()
    assert (envelope(found).rate == 0).all()
    assert np.isfinite(envelope(found).skill).all()
