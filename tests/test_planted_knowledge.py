"""Planted knowledge: only the chosen units learn, and without them the model is the one that never learned."""

import json
import random
import warnings

import pytest
import torch

import planted_knowledge
from _frame import Cells
from _planted import Lessons, all_of, as_many_others, drawn_units, facts, made_up, taught
from planted_knowledge import EXACT, NEURONS, OTHERS, PlantedKnowledge
from skilloc import plots
from skilloc.experiment import losses
from skilloc.models.language import open_model
from skilloc.models.makers import face_of, units_of
from skilloc.pruning import prune


@pytest.fixture(scope="module")
def opened(saved):
    return open_model(str(saved))


@pytest.fixture(scope="module")
def known(opened):
    return all_of(facts(opened, 12, seed=0), 12)


def mean(model, examples):
    return float(losses(model, examples).mean())


def test_facts_are_made_up_and_other_seeds_make_others():
    assert len({item.subject for item in made_up(30, seed=0)}) == 30
    assert made_up(5, seed=0) == made_up(5, seed=0)
    assert made_up(5, seed=0) != made_up(5, seed=1)


@pytest.mark.parametrize(("kind", "count", "together"), [("neuron", 12, 1), ("head", 2, 2)])
def test_only_chosen_units_learn(opened, known, kind, count, together):
    base = opened.model
    units = units_of(base, kinds=(kind,))
    chosen = drawn_units(units, 1, count, together=together, seed=3)
    others = as_many_others(chosen, 1, together=together, seed=3)
    assert chosen.keep.sum() == others.keep.sum() == count
    assert not (chosen.keep & others.keep).any()
    assert set(units.layers[chosen.keep | others.keep]) == {1}
    model = taught(base, known, chosen, Lessons(steps=12, rate=1e-2, rows=12, until=0.01), seed=0)
    assert mean(model, known) < mean(base, known) - 0.01
    tokens = known.first[:3]
    exact, never, other = (face_of(prune(one, ~cut)).run(tokens) for one, cut in
                           ((model, chosen), (base, chosen), (model, others)))  # fmt: skip
    assert torch.equal(exact, never)
    assert not torch.allclose(other, face_of(prune(base, ~others)).run(tokens), atol=1e-3)


def test_shares_of_the_right_units():
    units = units_of(open_model("embedded").model, kinds=("head",))
    chosen = drawn_units(units, 2, 3, together=3, seed=0)
    settings = PlantedKnowledge(kind="head", units=3, together=3)
    right = chosen.keep.astype(float)
    assert planted_knowledge._shares(right, chosen, settings) == [1.0, 1.0]
    assert planted_knowledge._shares(-right, chosen, settings) == [0.0, 0.0]
    elsewhere = right + 2 * (units.layers == 0)
    assert planted_knowledge._shares(elsewhere, chosen, settings) == [0.0, 1.0]


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="`facts` is 95"):
        PlantedKnowledge(facts=95)
    with pytest.raises(ValueError, match="`units` is 4"):
        PlantedKnowledge(units=4, together=3)
    assert NEURONS.units < 512


@pytest.mark.long
def test_seeds_are_planted_found_attacked_and_drawn(saved, tmp_path):
    for i in range(60):
        noise = random.Random(i)
        text = " ".join(f"def {noise.getrandbits(40)}" for _ in range(24))
        (tmp_path / f"{i}.txt").write_text(text)
    short = {"steps": 4, "rows": 12, "looked_at": 4, "localizing": 2, "rates": (1e-3, 1e-2), "budgets": (1, 2)}
    arm = PlantedKnowledge(
        model=str(saved), kept=f"{tmp_path}/*.txt", layer=1, units=6, facts=12, held_out=4,
        ways=("as it is", "repaired"), **short,
    )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the ends of so short a grid
        found = json.loads(json.dumps(planted_knowledge.measure((2, (arm,)), Cells(tmp_path / "runs"))))
    (one,) = found["arms"]
    units, layers = len(neurons := units_of(open_model(str(saved)).model, kinds=("neuron",))), len(neurons.hooks)
    assert set(one["precision"]) == set(planted_knowledge.FINDERS)
    assert one["chance"] == [6 / units, 6 / (units / layers)]
    assert set(one["probe"]["verdicts"]) == {EXACT, OTHERS}
    assert one["facts"][0][EXACT] > one["facts"][0]["original"]
    with plots.style():
        figure = planted_knowledge.draw(found)
    assert len(figure.axes) == 2
