"""Scores of units, recovery and meeting curves of narrow language models; the analyses that ask by them, at once."""

import json
import multiprocessing
import os
import random
import socket
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import attribution_ablation
import lasso_frontier
import which_units
from _correlations import agreement, correlation, ranks, recall
from _frame import Cells, analyse
from _narrow import (
    CRITERIA,
    TOGETHER,
    Text,
    Training,
    experiment_on,
    least_dropped,
    meeting,
    scores_of,
    weight_gradient,
)
from _tuning import FIRST_SEED
from skilloc.models.makers import face_of, group
from skilloc.tasks.losses import cross_entropy


@pytest.fixture(scope="module")
def text(saved, tmp_path_factory) -> Text:
    """A tiny Llama, and a text of random words."""
    folder = tmp_path_factory.mktemp("texts")
    for i in range(60):
        noise = random.Random(i)
        (folder / f"{i}.txt").write_text(" ".join(f"cat {noise.getrandbits(40)}" for _ in range(12)))
    return Text(str(saved), f"{folder}/*.txt", length=8, scored=8, held_out=8)


def test_scores_by_weights_are_the_formula(text):
    """By autograd on a copy, a unit at a time: the sum over its group of -w times the gradient, or its magnitude."""
    experiment = experiment_on(text, seed=0)
    face = face_of(face_of(experiment.model).copy())
    face.module.requires_grad_(True)
    examples = experiment.examples["kept"]
    gradients = {name: [] for name, _ in face.module.named_parameters()}
    for place in range(8):
        face.module.zero_grad()
        part = examples.part(slice(place, place + 1))
        cross_entropy(face.run(part.inputs), part, None).mean().backward()
        for name, weight in face.module.named_parameters():
            gradients[name].append(weight.grad.clone())
    hook = experiment.units.hooks[1]
    span = experiment.units.span(hook)
    for signed in (True, False):
        with torch.no_grad():
            made = face_of(face_of(experiment.model).copy())
            for name, weight in made.module.named_parameters():
                found = torch.stack(gradients[name])
                weight.mul_(-(found if signed else found.abs()).mean(0))
            parts = [view.detach() for view in group(made.module, hook).values()]
            wanted = [abs(float(sum(part[unit].sum() for part in parts))) for unit in range(len(parts[0]))]
        assert np.allclose(weight_gradient(experiment, signed=signed)[span], wanted, rtol=1e-4, atol=1e-8)


def test_every_criterion_ranks_all_units_and_chance_takes_none_twice(text):
    experiment = experiment_on(text, seed=0)
    for criterion in CRITERIA:
        scores = scores_of(experiment, criterion, seed=0)
        assert scores.shape == (len(experiment.units),)
        assert (scores >= 0).all()
        mask = least_dropped(experiment.units, scores, 0.8)
        assert mask.dropped == round(0.8 * len(scores))
        assert scores[mask.keep].min() >= scores[~mask.keep].max()
    assert (scores_of(experiment, "random", seed=0) != scores_of(experiment, "random", seed=1)).any()


def test_curves_meet_where_the_interval_stays_within_the_width():
    width = TOGETHER / 2
    apart = {"low": [-1.0, -width, -1.0, -width, -width], "high": [1.0, width, 0.0, width, width]}
    assert meeting(apart, [0.0, 1.0, 2.0, 4.0, 8.0]) == 4
    assert meeting({"low": [-1.0], "high": [1.0]}, [0.0]) is None


@pytest.mark.slow
def test_every_criterion_is_tuned_alike_and_the_figure_is_drawn(text, tmp_path):
    quick = which_units.SCALES["quick"]
    asked = []

    class Told(Cells):
        def __call__(self, cell, specs):
            asked.extend(specs)
            return super().__call__(cell, specs)

    training = Training(steps=2, examples=4, looks=(1, 2))
    scale = replace(quick, text=text, training=training, sparsities=(0.5,))
    found = json.loads(json.dumps(which_units.measure(scale, Told(tmp_path))))
    (own,) = found["curves"].values()
    assert set(own) == set(which_units.SHOWN)
    assert len({(one["spent"]["settings"], one["spent"]["runs"], one["spent"]["steps"]) for one in own.values()}) == 1
    assert len({(one["kept"], one["units"]) for one in own.values()}) == 1
    assert own["random"]["apart"]["value"] == [0.0, 0.0, 0.0]
    seeds = {spec.seed for spec in asked if isinstance(spec, which_units.Recovered)}
    assert seeds == {0, 1, FIRST_SEED, FIRST_SEED + 1}
    figure = which_units.draw(found)
    assert len(figure.axes) == 1
    plt.close(figure)


@pytest.mark.slow
def test_lasso_stands_beside_finetuning_for_as_long(text, tmp_path):
    quick = lasso_frontier.SCALES["quick"]
    base = replace(quick.finetuned, text=text, rate=0.1, steps=6)
    scale = replace(quick, finetuned=base, strengths=(3.0,), seeds=2)
    found = json.loads(json.dumps(lasso_frontier.measure(scale, Cells(tmp_path))))
    models = found["models"]
    assert list(models) == ["untouched", "plain finetuning", "3"]
    assert models["untouched"]["live"] == models["plain finetuning"]["live"] == [128, 128]
    assert max(models["3"]["live"]) < 128
    steps = [one["finetuning"][0].get("step") for one in models.values()]
    assert steps[0] is None
    assert steps[1] == steps[2]
    # What is zero already costs nothing to drop.
    dead = 1 - max(models["3"]["live"]) / 128
    if dead > 0.5:
        assert models["3"]["loss"]["value"][1] == pytest.approx(models["3"]["loss"]["value"][0], abs=1e-4)
    figure = lasso_frontier.draw(found)
    assert len(figure.axes) == 2
    plt.close(figure)


def test_the_flat_part_of_a_curve():
    assert lasso_frontier._flat((0.0, 0.2, 0.5, 0.8), np.array([1.0, 1.04, 1.06, 1.0])) == 0.2


@pytest.mark.slow
def test_attributions_are_compared_with_exact_effects(text, tmp_path):
    cells = tuple(
        attribution_ablation.Compared(text, kind, count) for kind, count in (("neuron", 30), ("residual", None))
    )
    found = json.loads(json.dumps(attribution_ablation.measure(cells, Cells(tmp_path))))["kinds"]
    assert found["neuron"]["measured"] == 30
    assert found["residual"]["measured"] == found["residual"]["units"] == 32
    for kind, own in found.items():
        for one in own["methods"].values():
            assert one["ranks"]["low"] <= one["ranks"]["value"] <= one["ranks"]["high"]
            assert (one["linear"] is None) == (kind == "neuron")
    good, bad = (found["neuron"]["methods"][name]["ranks"]["value"] for name in attribution_ablation.METHODS[1::3])
    assert good > bad
    figure = attribution_ablation.draw({"kinds": found})
    assert len(figure.axes) == 6
    plt.close(figure)


def test_ranks_share_ties_and_constants_have_no_correlation():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    assert np.isnan(correlation(np.ones(20), np.arange(20.0)).value)
    assert agreement(np.arange(1.0, 50), np.arange(1.0, 50), whole=True)["linear"] == pytest.approx(1.0)


@pytest.mark.parametrize("size", [60, 300])
def test_intervals_of_ranks_and_logarithms_cover(size):
    """Effects with heavy tails, estimates with noise on their logarithm and, for a tenth, nothing to do with them."""
    rng, hits, trials = np.random.default_rng(size), {"ranks": 0, "logs": 0, "recall": 0}, 600

    def draw(count):
        exact = 2.0 * rng.standard_normal(count)
        other = np.where(rng.random(count) < 0.1, rng.standard_normal(count), exact)
        return np.exp(other + rng.standard_normal(count)), np.exp(exact)

    many = draw(200_000)
    truth = {"ranks": np.corrcoef(*map(ranks, many))[0, 1], "logs": np.corrcoef(*map(np.log, many))[0, 1]}
    truth["recall"] = recall(*many).value
    for _ in range(trials):
        a, b = draw(size)
        found = {"ranks": correlation(ranks(a), ranks(b)), "logs": correlation(np.log(a), np.log(b))}
        for name, one in {**found, "recall": recall(a, b)}.items():
            hits[name] += one.low <= truth[name] <= one.high
    for name, count in hits.items():
        assert 0.925 <= count / trials <= (1.0 if name == "recall" else 0.975), f"{name}: {count / trials:.2f}"


@pytest.mark.long
def test_processes_of_torchrun_measure_what_one_does(text, tmp_path, monkeypatch):
    """The way of `--scale paper`, with what torchrun tells each process: the record is that of one process."""
    monkeypatch.setattr(which_units, "SHOWN", ("attribution", "random"))
    training = Training(steps=3, examples=8, looks=(1, 3), products="float32")
    scale = replace(which_units.SCALES["quick"], text=text, training=training, sparsities=(0.5,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def go(runs, told):
        os.environ.update(told)
        arguments = ["--scale", "paper", "--workers", "0", "--runs", str(runs)]
        steps = {"measure": which_units.measure, "draw": which_units.draw}
        analyse(which_units.__file__, "", scales={"paper": scale}, arguments=arguments, **steps)

    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    two = [{**shared, "RANK": str(place), "LOCAL_RANK": str(place)} for place in range(2)]
    context = multiprocessing.get_context("fork")  # which has everything imported already
    for name, told in {"one": [{}], "two": two}.items():
        made = [context.Process(target=go, args=(tmp_path / name, one), daemon=True) for one in told]
        for process in made:
            process.start()
        for process in made:
            process.join(600)
        assert [process.exitcode for process in made] == [0] * len(told)
    records = [json.loads((tmp_path / name / "paper" / "which_units.json").read_text()) for name in ("one", "two")]
    alone, both = (record["curves"]["0.5"] for record in records)
    for criterion, one in alone.items():
        assert one["rate"] == both[criterion]["rate"]
        np.testing.assert_allclose(one["each"], both[criterion]["each"], atol=2e-5)
    assert (tmp_path / "two" / "paper" / "which_units.png").is_file()
