"""Pruned models, students and fresh ones of `analyses/language_frontier`: made, tuned alike, counted, drawn."""

import json
import random
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import language_frontier
from _frame import Cells
from _narrow import Text, Training, opened_text
from _students import DROPPED, METHODS, Narrowed, settings_for, student, without
from _tuning import FIRST_SEED, Rungs
from language_frontier import _tuned, first_below, tokens_of
from skilloc.models.makers import units_of

TRAINING = Training(steps=2, examples=4, looks=(1, 2))


@pytest.fixture(scope="module")
def text(saved, tmp_path_factory) -> Text:
    """A tiny Llama, and a text of random words."""
    folder = tmp_path_factory.mktemp("texts")
    for i in range(60):
        noise = random.Random(i)
        (folder / f"{i}.txt").write_text(" ".join(f"cat {noise.getrandbits(40)}" for _ in range(12)))
    return Text(str(saved), f"{folder}/*.txt", length=8, scored=8, held_out=8)


def test_neurons_and_residual_dimensions_are_dropped_together(text):
    large = opened_text(text)[0].model
    for method in DROPPED:
        small = without(Narrowed(text, TRAINING, method, dropped=(0.5, 0.25)))
        for kind, share in (("neuron", 0.5), ("residual", 0.25)):
            count, left = (len(units_of(model, kinds=(kind,))) for model in (large, small))
            # A layer that would lose all its neurons keeps one, as a zero.
            assert round((1 - share) * count) <= left <= round((1 - share) * count) + large.cfg.n_layers
        assert sum(w.numel() for w in small.parameters()) < sum(w.numel() for w in large.parameters())


def test_a_student_has_its_shape_and_fresh_weights_of_its_seed(text):
    shape = Narrowed(text, TRAINING, "scratch", student=(16, 1, 2))
    one, same, other = (student(replace(shape, seed=seed)) for seed in (0, 0, 1))
    assert (one.cfg.d_model, one.cfg.n_layers, one.cfg.n_heads) == (16, 1, 2)
    weights = [dict(model.named_parameters()) for model in (one, same, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][name]) for name, value in weights[0].items())
    tokens = opened_text(text)[1].draw(2).inputs
    assert one(tokens).shape == opened_text(text)[0].model(tokens).shape


def test_arrival_is_the_first_look_below_the_bar():
    path = {"step": [0.0, 1.0, 4.0], "report": [3.0, 1.9, 2.5]}
    assert first_below(path, "report", 2.0) == 1.0
    assert first_below(path, "report", 1.0) is None


def test_tokens_are_counted_with_those_of_scoring(text):
    scale = replace(language_frontier.SCALES["quick"], text=text, training=TRAINING)
    assert tokens_of(scale, {"scored": 8}, 2.0) == (2 * 4 + 8) * 8
    assert tokens_of(scale, {"scored": 0}, 2.0) == 2 * 4 * 8


def test_all_methods_have_the_same_rates_to_choose_from():
    rates = (1e-3, 1e-2, 1e-1)
    assert all([one["rate"] for one in settings_for(method, rates)] == list(rates) for method in METHODS)


def test_a_size_takes_the_setting_of_the_nearest_that_was_tuned():
    scale = language_frontier.SCALES["cpu"]
    assert [place for _, place in _tuned(replace(scale, tuned_at=2), 5)] == [1, 1, 1, 3, 3]
    assert [place for _, place in _tuned(replace(scale, tuned_at=5), 5)] == [0, 1, 2, 3, 4]
    assert [place for _, place in _tuned(replace(scale, tuned_at=9), 2)] == [0, 1]


@pytest.mark.slow
def test_settings_runs_steps_and_examples_are_equal_and_the_figure_is_drawn(text, tmp_path):
    asked = []

    class Told(Cells):
        def __call__(self, cell, specs):
            asked.extend(specs)
            return super().__call__(cell, specs)

    scale = replace(
        language_frontier.SCALES["quick"],
        text=text,
        training=TRAINING,
        dropped=((0.5, 0.25),),
        students=((16, 1, 2),),
        rungs=Rungs((2, 1), (1, 2)),
    )
    found = json.loads(json.dumps(language_frontier.measure(scale, Told(tmp_path))))
    assert list(found["points"]) == list(METHODS)
    spent = {method: points[0]["spent"] for method, points in found["points"].items()}
    runs = 2 * 1 + 1 * 1
    for method, one in spent.items():
        scored = text.scored if method == "pruned" else 0
        assert (one["settings"], one["runs"], one["steps"]) == (2, runs, 2 * runs)
        assert one["examples"] == runs * (2 * 4 + scored)
    for method in METHODS:
        own = [spec for spec in asked if isinstance(spec, Narrowed) and spec.method == method]
        assert {spec.seed for spec in own} == {0, 1, FIRST_SEED, FIRST_SEED + 1}
        assert {(spec.training.steps, spec.training.examples) for spec in own} == {(2, 4)}
    for points in found["points"].values():
        assert all(0 <= one["reached"] <= 2 for one in points[0]["thresholds"])
        tokens = [np.mean(one["each"]) for one in points[0]["thresholds"]]
        assert tokens == sorted(tokens)
    figure = language_frontier.draw(found)
    assert len(figure.axes) == 6
    plt.close(figure)
