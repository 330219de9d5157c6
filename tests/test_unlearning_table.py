"""Ways at equal loss on what is kept, forget sets, and the record of `analyses/unlearning_table`, on a tiny model."""

import json
import math
import random
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import unlearning_table
from _finetuning import Finetuned
from _forgetting import FACTS, Attack, Forget, attacked, forgotten, form_of, why_not
from _frame import Cells, analyse
from _narrow import Text, Training, held_out, least_dropped, opened_text, recovered
from _tuning import FIRST_SEED
from _unlearned import HEAD, LEVEL, lines_of
from skilloc import plots
from skilloc.experiment import losses
from skilloc.models.makers import units_of
from skilloc.relearning import NEVER, ORIGINAL, WORDS
from skilloc.relearning import WAYS as TRIED
from unlearning_table import BASE, LASSO, RUNGS, WAYS, Attacked, Pruned, Scale, at_equal_loss

QUICK = Attack((1e-2,), (1, 2), 2, 8, 2, repair=2, plain=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three texts of random words."""
    made = tmp_path_factory.mktemp("texts")
    for word in ("cat", "def", "her"):
        for i in range(60):
            noise = random.Random(f"{word}{i}")
            (made / f"{word}_{i}.txt").write_text(" ".join(f"{word} {noise.getrandbits(40)}" for _ in range(12)))
    return made


@pytest.fixture(scope="module")
def text(saved, folder) -> Text:
    """A tiny Llama, and the text that it keeps."""
    return Text(str(saved), f"{folder}/cat_*.txt", length=8, scored=8, held_out=8)


def test_each_way_is_taken_where_it_is_first_below_the_end_of_the_worst():
    steps = [0.0, 1.0, 2.0, 4.0]
    paths = {
        "fast": {"step": steps, "selection": [5.0, 4.0, 3.0, 2.0]},
        "worst": {"step": steps, "selection": [6.0, 5.0, 4.0, 3.5]},
        "ahead": {"step": steps, "selection": [3.4, 3.6, 3.3, 3.0]},
    }
    assert at_equal_loss(paths) == (3.5, {"fast": 2.0, "worst": 4.0, "ahead": 0.0})
    paths["worst"]["selection"][1] = 3.2  # on the way, it was better than in the end
    assert at_equal_loss(paths) == (3.5, {"fast": 2.0, "worst": 1.0, "ahead": 0.0})
    # What is read off the report split does not matter.
    paths["fast"]["report"] = [0.0] * 4
    assert at_equal_loss(paths)[1]["fast"] == 2.0


def test_recovery_until_a_loss_is_that_recovery_as_far_as_there(text):
    model = opened_text(text)[0].model
    units = units_of(model, kinds=("neuron",))
    mask = least_dropped(units, np.random.default_rng(0).random(len(units)), 0.5)
    training = Training(6, rate=1e-2, examples=4, looks=(1, 2, 4, 6))
    _, whole = recovered(model, mask, text, training, seed=0)
    bar, steps = at_equal_loss({"own": whole, "other": {"step": [0.0], "selection": [whole["selection"][2] + 1e-6]}})
    until = Training(6, rate=1e-2, examples=4, looks=(1, 2, 4, 6), until=bar)
    again, path = recovered(model, mask, text, until, seed=0)
    assert 0 < path["step"][-1] == steps["own"] < 6
    for name, values in path.items():
        assert values == whole[name][: len(values)]
    report = held_out(opened_text(text)[1], text)["report"]
    assert float(losses(again, report).mean()) == pytest.approx(path["report"][-1], abs=1e-6)


def test_what_is_below_the_loss_already_is_not_trained(text):
    model = opened_text(text)[0].model
    units = units_of(model, kinds=("neuron",))
    everything = least_dropped(units, np.zeros(len(units)), 0.0)
    same, path = recovered(model, everything, text, Training(6, until=100.0), seed=0)
    assert path["step"] == [0.0]
    weights = dict(model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in same.named_parameters())


def test_all_scales_forget_what_there_is():
    relations = {json.loads(line)["relation"].replace(" ", "_") for line in FACTS.read_text().splitlines()}
    for scale in unlearning_table.SCALES.values():
        assert {one.name for one in scale.sets if one.kind == "relation"} <= relations
        assert len({one.name for one in scale.sets}) == len(scale.sets)
        assert RUNGS.settings[0] == len(scale.rates)
        assert scale.training.looks[-1] == scale.training.steps
        for one in scale.sets:
            assert bool(one.never) != bool(why_not(one))
    assert unlearning_table.ENGLISH.never == "embedded-without-english"


def test_only_what_some_model_never_saw_is_worth_every_way():
    seen, unseen = Forget("corpus", "cpp"), Forget("corpus", "english", "embedded-without-english")
    assert [Attack().on(one).plain for one in (seen, unseen)] == [False, False]
    assert [Attack(spare=True).on(one).plain for one in (seen, unseen)] == [True, False]


QUESTIONS = [
    {"question": f"What comes {i} after {i + 1}?", "choices": [str(i + k) for k in range(4)], "answer": i % 4}
    for i in range(30)
]


@pytest.fixture(params=["wmdp", "tofu"])
def questions(request, tmp_path) -> Forget:
    """Questions of one of two forms, in a file."""
    path = tmp_path / f"{request.param}.jsonl"
    rows = QUESTIONS
    if request.param == "tofu":
        rows = [{"question": row["question"], "answer": f"It is {row['answer']}."} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Forget("questions", str(path))


def test_questions_of_both_forms_are_attacked(questions, folder, tmp_path):
    text = Text("embedded", f"{folder}/cat_*.txt", length=8, scored=8, held_out=8)
    options = questions.name == "wmdp"
    asked = form_of(questions.source)
    assert (asked.choices, asked.by) == (("choices", "letter") if options else (None, "text"))
    removed = forgotten(text, questions)
    (item,) = removed.items(1, "train", 0)
    assert item.prompt.endswith("Answer:")
    assert ("\nA. " in item.prompt) == options
    opened, kept = opened_text(text)
    models = {ORIGINAL: opened.model, "x": opened.model, NEVER: opened.model}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, before = attacked(models, removed, kept, QUICK, seed=0, out=tmp_path / "attacks")
    assert found.chance == pytest.approx(math.log(4) if options else math.log(2048))
    assert found.subtasks == (() if options else ("kept",))
    assert found.made["report"] == questions.name
    # Before the attack: the loss of the model as it is, on the report split of all ten questions.
    assert before["x"] == pytest.approx(found.report[1, 0, 0, 0, 0].mean(), abs=1e-5)


@pytest.mark.slow
def test_a_set_of_few_items_is_attacked_in_all_ways_but_that_of_few(text, tmp_path):
    opened, kept = opened_text(text)
    assert forgotten(text, Forget("relation", "official language")).name == "fact_official_language"
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}+1", "answer": f"{i + 1}"}) + "\n" for i in range(30)))
    removed = forgotten(text, Forget("questions", str(path)))
    models = {ORIGINAL: opened.model, "x": opened.model, NEVER: opened.model}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = attacked(models, removed, kept, Attack((1e-2,), (1,), 100, 100, 2), seed=0, out=tmp_path)
    assert set(found.ways) == {way.name for way in TRIED} - {"few examples"}
    grid = found.made["grid"]
    counts = removed.made["items"]
    assert grid["examples"] == counts["train"]
    assert grid["held_out"] == min(counts["selection"], counts["report"])


@dataclass(frozen=True)
class Flagged:
    """A scale with a field that can be given."""

    count: int = 3
    file: str = field(default="", metadata={"flag": "some file"})


def test_a_field_of_the_scale_can_be_given_and_leaves_the_figures_alone(tmp_path):
    def measure(scale, run):
        return {"count": scale.count, "file": scale.file}

    def draw(found):
        return plots.figure()[0]

    script = tmp_path / "analyses" / "name.py"
    for given, home in (([], tmp_path / "figures"), (["--file", "a.jsonl"], tmp_path / "runs" / "cpu")):
        arguments = ["--runs", str(tmp_path / "runs"), *given]
        analyse(str(script), "", scales={"cpu": Flagged()}, measure=measure, draw=draw, arguments=arguments)
        found = json.loads((home / "name.json").read_text())
        assert (found["count"], found["file"]) == (3, given[1] if given else "")


@pytest.mark.slow
def test_every_way_gets_as_many_settings_steps_and_examples_and_the_record_is_drawn(text, folder, saved, tmp_path):
    asked = []

    class Told(Cells):
        def __call__(self, cell, specs):
            specs = list(specs)
            asked.extend(specs)
            return super().__call__(cell, specs)

    seen, unseen = Forget("corpus", f"{folder}/def_*.txt", str(saved)), Forget("corpus", f"{folder}/her_*.txt")
    scale = Scale(
        (seen, unseen),
        Finetuned(text, 0.0, steps=4, rate=1e-2, examples=4),
        Training(4, examples=4, looks=(1, 2, 3, 4)),
        strength=3.0,
        sparsities=(0.5,),
        attack=QUICK,
        seeds=2,
        rates=(1e-3, 1e-2),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the ends of so short a grid
        found = json.loads(json.dumps(unlearning_table.measure(scale, Told(tmp_path)))) | {"scale": "quick"}

    tuning = [one for one in asked if isinstance(one, Pruned) and one.seed >= FIRST_SEED]
    assert Counter((one.way, one.training.rate) for one in tuning) == Counter((w, r) for w in WAYS for r in scale.rates)
    stated = [one for one in asked if isinstance(one, Pruned) and one.seed < FIRST_SEED]
    assert Counter(one.way for one in stated) == dict.fromkeys(WAYS, 2)
    assert {(one.sparsity, one.training.rate) for one in stated} == {
        (float(share), rate) for share, rate in found["rates"].items()
    }
    trained = {(one.training.steps, one.training.examples) for one in (*tuning, *stated)}
    assert trained == {(4, 4)}
    for share, ways in (("0.0", 1), ("0.5", 3)):  # as much for each of the ways
        spent = found["spent"][share]
        assert (spent["settings"], spent["steps"], spent["examples"]) == (2, 2 * ways * 4, 2 * ways * 4 * 4)
    begun = [one for one in asked if isinstance(one, Finetuned)]
    assert {(one.steps, one.examples, one.rate) for one in begun} == {(4, 4, 1e-2)}
    assert {(one.strength, one.sparsity) for one in begun} == {(0.0, 0.0), (3.0, 0.5)}
    assert len({one.attack for one in asked if isinstance(one, Attacked)}) == 1

    assert [(row["way"], row["sparsity"]) for row in found["rows"]] == [
        (way, 0.0 if way == BASE else 0.5) for way in WAYS
    ]
    columns = ("step", "selection", "report")
    paths = {(one["way"], one["seed"]): {name: one[name] for name in columns} for one in found["paths"]}
    for seed in range(2):
        _, steps = at_equal_loss({way: paths[way, seed] for way in WAYS if way != BASE})
        for row in found["rows"]:
            assert row["steps"][seed] == (4.0 if row["way"] == BASE else steps[row["way"]])
            # What is stated is the loss on the report split at that step, from then on with units cut out.
            own = paths[row["way"], seed]
            row.setdefault("seen", []).append(own["report"][own["step"].index(row["steps"][seed])])
    for row in found["rows"]:
        assert row["kept"]["value"] == pytest.approx(np.mean(row["seen"]), abs=1e-5)
        wide = max(abs(row["apart"]["low"]), abs(row["apart"]["high"]))
        assert row["level"] == (None if row["way"] == BASE else wide <= LEVEL)
        assert row["sets"]["def_*"]["word"] in WORDS
        assert set(row["sets"]["def_*"]["removed"]) >= {"value", "low", "high"}
        assert not {"never", "removed"} & set(row["sets"]["her_*"])
        assert row["sets"]["her_*"]["word"] == "not comparable"
        assert "never saw her" in row["sets"]["her_*"]["why"]
    for name in found["sets"]:
        lines = lines_of(found, name)
        assert [line[1] for line in lines] == [ORIGINAL, *WAYS]
        assert {len(line) for line in lines} == {len(HEAD)}
    assert {line[-1] for line in lines_of(found, "her_*")[1:]} == {"not comparable"}
    figure = unlearning_table.draw(found)
    assert len(figure.axes) == 4
    plt.close(figure)


def test_group_lasso_alone_is_ranked_by_the_norms_of_its_weights():
    assert {way: by for way, by in WAYS.items() if by == "weight norm"} == {LASSO: "weight norm"}
