"""Effects by position: all places together are the whole, and each is what holding there alone does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skilloc import store
from skilloc.ablation import ablation_effects
from skilloc.ablation.positions import position_effects
from skilloc.attribution import attribution_effects
from skilloc.attribution.positions import position_estimates
from skilloc.effects.positions import PositionEffects
from skilloc.experiment import Experiment, losses
from skilloc.tasks import Examples


@pytest.fixture
def experiment(llama: Any, tokens: torch.Tensor) -> Experiment:
    """Four sequences, whose position 5 is called the subject."""
    subject = torch.full((4,), 5)
    examples = Examples(tokens, tokens.roll(-1, 1), at={"subject": subject})
    return Experiment(llama, {"text": examples}, folds=2, reference="flat mean")


def test_each_position_is_what_holding_there_alone_does(experiment: Experiment, llama: Any) -> None:
    units = experiment.units
    select = units.named(["L1N3", "L2H1"])
    found = position_effects(experiment, select=select)
    assert found.positions == tuple(map(str, range(12)))
    examples = experiment.examples["text"]
    base = losses(llama, examples)
    held = experiment.held.values["blocks.1.mlp.hook_post"][3]
    for place in (0, 5, 11):

        def edit(value: torch.Tensor, hook: Any, place: int = place) -> torch.Tensor:
            value[:, place, 3] = held
            return value

        with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", edit)]):
            change = (losses(llama, examples) - base).mean()
        unit = int(np.flatnonzero(units.named(["L1N3"]))[0])
        assert found.mean("text")[place, unit] == pytest.approx(float(change), abs=1e-6)
    assert np.isnan(found.values[..., ~select]).all()


def test_estimates_of_all_places_add_up(experiment: Experiment) -> None:
    by_place = position_estimates(experiment)
    whole = attribution_effects(experiment, curvature=0)
    assert by_place.values.sum(axis=2) == pytest.approx(whole.values, abs=1e-9)


def test_a_named_position_is_its_place(experiment: Experiment) -> None:
    named = position_estimates(experiment, names=["subject"])
    assert named.positions == ("subject",)
    by_place = position_estimates(experiment)
    assert named.values[:, :, 0] == pytest.approx(by_place.values[:, :, 5])
    at = attribution_effects(replace(experiment, at="subject"), curvature=0)
    assert at.values == pytest.approx(named.values[:, :, 0], abs=1e-9)


def test_later_tokens_do_not_change_what_is_scored_earlier(experiment: Experiment) -> None:
    """In a causal model, the last position acts on the last target only."""
    last = experiment.examples["text"]
    targets = last.targets.clone()
    targets[:, -1] = -100
    without = replace(experiment, subtasks={"text": Examples(last.inputs, targets)}, reference=experiment.held)
    assert position_estimates(without).values[:, :, -1] == pytest.approx(0, abs=1e-12)


def test_saved_and_read_again(experiment: Experiment, tmp_path: Path) -> None:
    found = position_estimates(experiment, names=["subject"])
    store.save(found, tmp_path / "out")
    again = store.load(PositionEffects, tmp_path / "out")
    assert np.array_equal(again.values, found.values)
    assert (again.positions, again.units, again.unit) == (found.positions, found.units, found.unit)


def test_what_has_no_positions_is_refused() -> None:
    from skilloc.models.mlp import MLP

    examples = Examples(torch.rand(8, 3), torch.zeros(8, dtype=torch.int64))
    experiment = Experiment(MLP(3, 2, 4, 2), {"a": examples}, folds=2)
    with pytest.raises(ValueError, match="no positions; measure them whole, with ablation_effects"):
        position_effects(experiment)


def test_where_effects_hold_nothing_there_is_nothing_to_measure(experiment: Experiment) -> None:
    select = experiment.units.named(["L1N3", "L2H1"])
    last = replace(experiment, at="subject")
    found = position_effects(last, select=select)
    assert found.positions == ("5",)
    assert found.values[:, :, 0] == pytest.approx(ablation_effects(last, select=select).values, nan_ok=True)
    tokens = experiment.examples["text"].first
    mask = torch.arange(12).expand(4, 12) < torch.tensor([7, 9, 10, 3])[:, None]
    named = {"early": torch.zeros(4, dtype=torch.int64), "late": torch.full((4,), 8)}
    padded = Examples({"tokens": tokens, "mask": mask}, tokens.where(mask, -100), at=named)
    short = replace(experiment, subtasks={"text": padded}, reference="zero")
    assert tuple(short.positions()) == tuple(map(str, range(10)))
    with pytest.raises(ValueError, match='`names` has "late", where these effects hold no unit; name others'):
        position_effects(replace(short, at="early"), names=["early", "late"], select=select)


def test_a_name_that_is_not_there_is_told_from_those_that_are(experiment: Experiment) -> None:
    with pytest.raises(ValueError, match=r'unknown `at` "role"; use all, scored, last, subject, or a mask$'):
        _ = replace(experiment, at="role").where
    nameless = {"text": replace(experiment.examples["text"], at={"last": torch.full((4,), 11)})}
    with pytest.raises(ValueError, match='"subject"; use all, scored, last, or a mask; `subject` is a name where each'):
        _ = replace(experiment, subtasks=nameless, at="subject").where
