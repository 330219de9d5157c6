"""Networks whose truth is known: they are what they are said to be, and the probe says so."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from skilloc.locality.intervals import Interval
from skilloc.models.makers import face_of
from skilloc.relearning.brought import Reading
from skilloc.relearning.known import (
    HIDINGS,
    QUICK,
    Hidden,
    Judged,
    Seen,
    attacked,
    blurred,
    confusion,
    decoders,
    judged,
    known_models,
    record_of,
)
from skilloc.relearning.known.networks import _hidden, never_saw
from skilloc.relearning.known.shelves import trained
from skilloc.relearning.rules import is_damaged, is_doubted, words_for
from skilloc.relearning.saying import RECORD
from skilloc.tasks.losses.nll import mean_nll
from skilloc.tasks.parity import parity_subtasks

*KEPT_ONES, GONE = parity_subtasks(16, atoms=3, k=3).values()
HIDDEN = Hidden(2, [9, 10, 11], [12, 13, 14], [0, 1])


@pytest.fixture(scope="module")
def original():
    return trained([*KEPT_ONES, GONE], 0, 1, of=0)[0]


@torch.no_grad()
def accuracy(model, subtask):
    drawn = subtask.draw(400)
    return float((model(drawn.inputs).argmax(dim=-1) == drawn.targets).float().mean())


@torch.no_grad()
def loss(model, subtask):
    drawn = subtask.draw(400)
    return float(torch.nn.functional.cross_entropy(model(drawn.inputs), drawn.targets))


def test_there_are_enough_ways_to_hide():
    assert len({hiding.name for hiding in HIDINGS}) >= 12


@pytest.mark.parametrize("hiding", HIDINGS, ids=lambda hiding: hiding.name)
def test_what_is_hidden_looks_gone_and_what_is_kept_stays(original, hiding):
    before = {name: p.clone() for name, p in original.named_parameters()}
    model = hiding.edit(original, HIDDEN)
    assert all(torch.equal(p, before[name]) for name, p in original.named_parameters())
    assert loss(model, GONE) > 0.6
    if hiding.name not in ("small head", "small layer", "tiny gains"):  # these say everything softly
        assert min(accuracy(model, subtask) for subtask in KEPT_ONES) > 0.98
        assert accuracy(model, GONE) < 0.8


@pytest.fixture(scope="module")
def decoder():
    *kept, gone, _ = decoders.tasks()
    return decoders.trained([*kept, gone], 0, 1, of=0)[0], decoders.World(gone, tuple(kept))


@torch.no_grad()
def of_decoder(model, subtask):
    drawn = subtask.draw(200)
    logits = face_of(model).run(drawn.inputs)
    right = (logits.argmax(dim=-1) == drawn.targets)[drawn.scored]
    return float(mean_nll(logits, drawn.targets).mean()), float(right.float().mean())


@pytest.mark.parametrize("place", decoders.HIDING_PLACES, ids=lambda place: place.name)
def test_what_is_hidden_in_a_language_model_looks_gone(decoder, place):
    original, world = decoder
    before = {name: weight.clone() for name, weight in original.named_parameters()}
    model = place.edit(original, world)
    assert all(torch.equal(weight, before[name]) for name, weight in original.named_parameters())
    assert of_decoder(original, world.attacked)[1] > 0.98
    assert of_decoder(model, world.attacked)[0] > 0.9 * np.log(decoders.LETTERS)
    assert min(of_decoder(model, subtask)[1] for subtask in world.kept) > 0.98
    if place.name != "said softly":
        assert of_decoder(model, world.attacked)[1] < 0.25
        assert max(of_decoder(model, subtask)[0] for subtask in world.kept) < 0.05


def test_a_shelf_of_language_models(monkeypatch):
    monkeypatch.setattr(decoders, "STEPS", 3)
    for name in ("UNLEARNING", "BRIEF"):
        monkeypatch.setattr(decoders, name, replace(getattr(decoders, name), steps=1))
    shelf = decoders.shelf(2, 0)
    of = Counter((one.truth, one.kind) for one in shelf.known)
    hidden = {place.name for place in decoders.HIDING_PLACES}
    assert len(hidden) >= 12
    assert {kind for truth, kind in of if truth == "not removed"} == {*hidden, "untouched decoder", "finetuned decoder"}
    assert of["removed", "decoder that never saw"] == of["removed", "data-filtered decoder"] == 2
    assert of["damaged", "decoder of noise"] == 2
    assert len({one.name for one in shelf.known}) == len(shelf.known)
    assert shelf.new.name not in {shelf.attacked.name, *(subtask.name for subtask in shelf.kept)}

    def weights(model):
        return torch.cat([weight.detach().flatten() for weight in model.parameters()]).numpy()

    # Whoever never saw the task stands beside others of another seed.
    models = [*never_saw(shelf.original, shelf.kept, seeds=(0, 1)), shelf.original]
    models += [one.model for one in shelf.known if one.truth == "removed"]
    assert len({weights(model).tobytes() for model in models}) == 7


def test_tables_of_tasks_have_nothing_in_common_with_chance():
    one, other = (decoders.exchange(task).draw(50, split="train", seed=1) for task in (0, 1))
    assert torch.equal(one.scored, other.scored)
    assert not torch.equal(one.first, other.first)
    coins = decoders.by_coin(decoders.exchange(0)).draw(50, split="train", seed=1)
    assert torch.equal(coins.first, one.first)
    same = (coins.targets == one.targets)[one.scored].float().mean()
    assert 0.01 < float(same) < 0.15  # one of sixteen


def judge(kind, truth, word):
    nothing = Interval(0.0, 0.0, 0.0)
    seen = Seen((0, 4), (nothing, nothing), (word, word), nothing, Interval(np.nan, np.nan, np.nan))
    return Judged(kind, kind, truth, word, word, 0.0, nothing, seen)


def test_a_table_of_truths_and_words():
    found = [judge("gate", "not removed", "removed"), judge("never saw", "removed", "removed")]
    table = confusion(found)
    assert "| hidden | 1 | 1 |" in table
    assert "| removed | 1 | 1 |" in table
    assert record_of(found, "this")["right"] == {"removed": 1}
    assert record_of(found, "this")["called"] == {"removed": 2}


def test_more_budget_blurred_nothing_of_what_is_recorded():
    """Of every network of the self-test whose record is in the package, and every budget as its longest."""
    networks = json.loads(RECORD.read_text())["networks"]
    assert len(networks) >= 60
    for network in networks:
        back = [Reading(0, step, Interval(*ends)) for step, ends in enumerate(unpacked(network["back"]))]
        about = Interval(*unpacked([network["damage"]])[0]), Interval(*unpacked([network["plasticity"]])[0])
        said = [word for word, _ in words_for(back, doubted=is_doubted(*about))]
        said = ["damaged" if word != "not removed" and is_damaged(*about) else word for word in said]
        assert said == network["words"], network["name"]
        assert not blurred(said), network["name"]


def unpacked(ends):
    return [tuple(np.nan if end is None else end for end in three) for three in ends]


def test_what_is_blurred():
    assert blurred(["removed", "undecidable"])
    assert blurred(["not removed", "removed"])
    assert not blurred(["undecidable", "removed", "not removed", "not removed"])
    assert not blurred(["undecidable", "partly removed", "removed"])


@pytest.mark.slow
def test_three_ways_to_hide_are_found(original):
    shelves = [shelf for shelf in _hidden(original, GONE, KEPT_ONES, QUICK._replace(hidings=3), 0)]
    found = judged(attacked(shelves, seeds=(0, 1, 2)))
    assert [one.word for one in found] == ["not removed"] * 3
    assert all(one.back.low > 0.75 for one in found)


@pytest.mark.long
def test_the_probe_on_networks_whose_truth_is_known():
    found = judged(attacked(known_models()))
    assert len(found) >= 60
    by_truth = Counter(one.truth for one in found)
    right = Counter(one.truth for one in found if one.left_out == one.truth)
    hidden = [one.left_out for one in found if one.kind in {way.name for way in (*HIDINGS, *decoders.HIDING_PLACES)}]
    assert len(hidden) >= 36
    assert "removed" not in hidden
    assert hidden.count("not removed") >= 0.9 * len(hidden)
    assert right["removed"] >= 0.8 * by_truth["removed"]
    assert right["damaged"] >= 0.9 * by_truth["damaged"]
    assert sum(one.left_out == "undecidable" for one in found) <= 0.1 * len(found)
    assert not any(blurred(one.seen.words) for one in found)
    graded = [one for one in found if "of 4 facts" in one.kind]
    assert all(one.back.low - 1e-9 <= one.left <= one.back.high + 1e-9 for one in graded if np.isfinite(one.left))
