"""Alarms: what a reference injects, and estimates with the wrong sign."""

from typing import Any

import numpy as np
import pytest
import torch

from skilloc.ablation import ablation_effects
from skilloc.ablation.injection import injections
from skilloc.effects.alarms import INJECTION, SIGN, Alarm, alarm_records, read_alarms, sign_alarms
from skilloc.experiment import Experiment, Reference, zero_reference
from skilloc.tasks import Examples


def test_an_estimate_of_the_other_sign_is_named():
    noise = 0.01 * np.random.default_rng(0).standard_normal((8, 4))
    estimate, exact = np.array([1.0, -1, 0, 1]) + noise, np.array([1.0, 1, 1, np.nan]) + noise
    (found,) = sign_alarms(estimate, exact, ["a", "b", "c", "d"], subtask="python")
    assert (found.kind, found.about) == (SIGN, "b on python")
    assert "wrong sign" in str(found)


def test_records_keep_the_worst_and_are_read_again():
    alarms = [Alarm(INJECTION, f"L0N{i}", 1.0 + i, 1.0) for i in range(5)]
    records = alarm_records(alarms, most=2)
    assert read_alarms({"alarms": records}) == (alarms[4], alarms[3])
    assert read_alarms({}) == ()
    other = Alarm(SIGN, "L0N0", 1.0, -1.0)
    assert read_alarms({"alarms": alarm_records(iter([alarms[0], other]))}) == (alarms[0], other)


def test_a_value_that_a_unit_never_has_at_a_position_is_an_injection(llama: Any, tokens: torch.Tensor) -> None:
    examples = Examples(tokens, tokens.roll(-1, 1))
    experiment = Experiment(llama, {"text": examples}, folds=2, reference="flat mean")
    assert injections(llama, examples, experiment.units, zero_reference(experiment.units)) == ()
    mean = Experiment(llama, {"text": examples}, folds=2, reference="mean")
    assert not injections(llama, examples, experiment.units, mean.held)
    values = {hook: value.clone() for hook, value in experiment.held.values.items()}
    values["blocks.1.mlp.hook_post"][3] += 100.0
    alarms = injections(llama, examples, experiment.units, Reference("given", values))
    assert alarms[0].about == "L1N3" or "L1N3" in {alarm.about for alarm in alarms}
    worst = max(alarms, key=lambda alarm: alarm.value)
    assert worst.about == "L1N3"
    assert worst.value == pytest.approx(100, rel=0.1)


@pytest.mark.long
def test_neurons_that_are_loud_at_the_first_position_only() -> None:
    """Their flat mean is a hundred where they are silent; the mean by position is what they do there."""
    from skilloc.models.language import open_model
    from skilloc.models.makers import units_of
    from skilloc.study.draws import subtasks_of

    try:
        opened = open_model("smollm2")
    except FileNotFoundError:
        pytest.skip("smollm2 is not fetched")
    subtasks = subtasks_of(opened, {"python": "python"}, length=32)
    units = units_of(opened.model, kinds=("neuron",))
    loud = units.named(["L11N1229", "L11N1487", "L28N678"])
    names = {units.names[u] for u in np.flatnonzero(loud)}

    def at(reference: str) -> Experiment:
        return Experiment(opened.model, subtasks, reference=reference, folds=8, count=8, units=units)

    def raised(experiment: Experiment) -> set[str]:
        found = injections(opened.model, experiment.folded.examples, units, experiment.held)
        return {alarm.about for alarm in found} & names

    assert raised(at("mean")) == set()
    assert raised(at("flat mean")) == names
    zero, mean = (ablation_effects(at(name), select=loud).mean("python")[loud] for name in ("zero", "mean"))
    assert mean == pytest.approx(zero, abs=0.3)
