import json
import logging
import math
from collections import Counter

import numpy as np
import pytest
import torch

from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.models.language import encoder, first_token, open_model
from skilloc.study.able import ability, rights
from skilloc.study.draws import accuracies, subtasks_of
from skilloc.study.measure import measure
from skilloc.study.redrawn import redraw
from skilloc.study.rotations import rotated_effects
from skilloc.study.settings import Settings
from skilloc.tasks import Examples
from skilloc.tasks.asked import Asked
from skilloc.tasks.items import Item, answer_baseline, split_items
from skilloc.tasks.losses import READY
from skilloc.tasks.prompts import choices, item_subtask, prompts
from skilloc.tasks.rows import continuation, examples_of

WORLD = "Rome Paris Berlin Oslo Madrid Lisbon Vienna Athens Dublin Warsaw Prague Cairo Lima Quito Tokyo Delhi".split()  # noqa: SIM905
SPLITS = ("train", "selection", "report")


def letters(texts):
    return [list(text.encode()) for text in texts]


def facts(count=48):
    return [
        {
            "prompt": f"{WORLD[i % 16]}, which has {'many ' * (i % 3)}{i} streets, is in the land of",
            "answer": "the " + WORLD[(i * 7) % 16] + "ns",
            "wrong": [WORLD[(i * 7 + 1) % 16], WORLD[(i * 7 + 2) % 16]],
            "subject": f"{i} streets",
            "group": ("left", "right")[i % 2],
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def embedded():
    return open_model("embedded")


# numbers


def by_hand(opened, items, first):
    """Mean -log p of the answer's tokens in nats, one prompt at a time, by plain transformers."""
    from transformers import AutoModelForCausalLM

    from skilloc.models.language import EMBEDDED

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED).eval()
    encode, found = encoder(opened.tokenizer), []
    for item in items:
        before, answer = continuation(item.prompt, item.answer, encode)
        row = ([] if first is None else [first]) + before + answer
        with torch.no_grad():
            scores = model(torch.tensor([row])).logits[0].double().log_softmax(dim=-1)
        places = range(len(row) - len(answer) - 1, len(row) - 1)
        found.append(-sum(float(scores[p, row[p + 1]]) for p in places) / len(answer))
    return found


@pytest.mark.parametrize("first", [None, 5])
def test_answers_losses_are_those_of_a_plain_loop(embedded, first):
    rows = facts()
    encode = encoder(embedded.tokenizer)
    asked = Asked(prompt="prompt", wrong="wrong", subject="subject")
    subtask = prompts(rows, encode, asked, first=first)["prompts"]
    items = subtask.items(16, "report", 0)
    wanted = by_hand(embedded, items, first)
    for pad in ("left", "right"):
        whole = examples_of(items, encode, first=first, pad=pad)
        assert not bool(whole.mask.all())
        together = Experiment(embedded.model, {"facts": whole}, ("head",), loss="answer", folds=1).losses()
        alone = [
            float(
                Experiment(
                    embedded.model, {"facts": examples_of([item], encode, first=first, pad=pad)}, ("head",),
                    loss="answer", folds=1,
                ).losses()[0]
            )
            for item in items
        ]  # fmt: skip
        assert together == pytest.approx(wanted, abs=1e-5)
        assert alone == pytest.approx(wanted, abs=1e-5)


def test_padding_changes_no_effect(embedded):
    encode = encoder(embedded.tokenizer)
    items = prompts(facts(), encode, Asked(prompt="prompt", wrong="wrong"))["prompts"].items(6, "report", 0)
    from skilloc.ablation import ablation_effects

    found = {}
    for pad in ("left", "right"):
        given = {"facts": examples_of(items, encode, pad=pad)}
        experiment = Experiment(embedded.model, given, ("head",), loss="logit_difference", folds=2, at="last")
        found[pad] = ablation_effects(experiment).values
    assert abs(found["left"] - found["right"]).max() < 1e-5


def test_positions_have_names():
    item = Item("Say: Rome is in", " Italy", subject="Rome")
    found = examples_of([item, Item("Rome, or so, is in", " Spain", subject="Rome")], letters, first=0, pad="left")
    for r, told in enumerate(["Say: Rome is in", "Rome, or so, is in"]):
        row = found.tokens[r]
        assert bytes(row[found.at["subject"][r]].tolist()).decode().strip() == "Rome"
        last = int(found.at["last"][r])
        assert bytes(row[: last + 1].tolist()).decode().strip("\0") == told
        assert bytes(found.targets[r][found.at["answer"][r]].tolist()).decode() in (" Italy", " Spain")
        assert int(found.targets[r, last]) == ord(" ")
    assert torch.equal(found.scored, found.at["answer"])


# choices

ARC = [
    {
        "question": f"What has {i} legs and sees?",
        "choices": {"text": [f"a thing of {i + k}" for k in range(3 + i % 2)], "label": list("ABCD")[: 3 + i % 2]},
        "answerKey": "ABC"[i % 3],
    }
    for i in range(30)
]
MMLU = [
    {"question": f"What is {i} + 1?", "subject": "sums", "choices": [str(i + k) for k in range(4)], "answer": 1}
    for i in range(30)
]


def test_the_forms_of_multiple_choice():
    arc = choices(ARC, letters)["choices"].items(10, "report", 0)
    assert arc[0].prompt.startswith("Question: What has ")
    assert arc[0].prompt.endswith("?\nAnswer:")
    assert arc[0].options[arc[0].right] == arc[0].answer
    mmlu = choices(MMLU, letters, Asked(prompt="question", choices="choices", by="letter", subject="question"))
    one = mmlu["choices"].items(1, "report", 0)[0]
    number = int(one.prompt.split(" ")[2])
    assert one.prompt.split("\n")[1:] == [*(f"{'ABCD'[k]}. {number + k}" for k in range(4)), "Answer:"]
    assert one.options == (" A", " B", " C", " D")
    assert one.answer == " B"


def test_the_choice_is_that_of_the_likelier_option(embedded):
    encode = encoder(embedded.tokenizer)
    subtask = choices(ARC, encode)["choices"]
    items = subtask.items(8, "report", 0)
    experiment = Experiment(embedded.model, {"arc": examples_of(items, encode)}, ("head",), loss="choice", folds=1)
    right, wanted = 0, []
    for item in items:
        scores = []
        for option in item.options:
            alone = Item(item.prompt, option)
            length = len(continuation(item.prompt, option, encode)[1])
            scores.append(-by_hand(embedded, [alone], None)[0] * length)
        wanted.append(math.log(sum(map(math.exp, scores))) - scores[item.right])
        right += max(range(len(scores)), key=scores.__getitem__) == item.right
    assert experiment.losses().tolist() == pytest.approx(wanted, abs=1e-4)
    assert accuracies(experiment)["arc"] == pytest.approx(right / 8)


def test_letters_are_asked_for_in_one_row(embedded):
    encode = encoder(embedded.tokenizer)
    made = choices(MMLU, encode, Asked(prompt="question", choices="choices", by="letter"))["choices"].draw(4)
    assert made.owner is None
    assert made.fields["options"].shape == (4, 4)
    loss = READY["mistake"]
    assert loss.chance(10, made) == pytest.approx(0.75)


# splits


def test_subjects_stay_on_one_side_and_thirds_are_equal():
    items = [Item(f"{s} form {k}", " x", subject=s.upper() if k else s) for s in WORLD for k in range(3)]
    parts = split_items(items)
    assert all(abs(len(part) - 16) <= 2 for part in parts.values())
    keys = [{item.key for item in part} for part in parts.values()]
    assert not (keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2])
    assert split_items(items[::-1]) == parts


def test_over_three_rotations_every_item_is_reported_once():
    items = [Item(f"{s} is", " x", subject=s) for s in WORLD]
    stated = [item for turn in range(3) for item in split_items(items, turn)["report"]]
    assert Counter(stated) == Counter(items)


def test_many_items_are_split_eight_to_one_to_one():
    parts = split_items([Item(f"{i} is", " x") for i in range(1000)])
    assert [len(part) for part in parts.values()] == pytest.approx([800, 100, 100], abs=1)


def test_the_baseline_knows_how_often_each_answer_is_right():
    train = [Item(str(i), " a") for i in range(6)] + [Item(str(i), " b") for i in range(2)]
    found = answer_baseline(train, [Item("x", " a"), Item("y", " b")])
    assert found.accuracy == 0.5
    assert found.nats == pytest.approx(-(math.log(7 / 10) + math.log(3 / 10)) / 2)


def test_one_file_gives_one_subtask_per_group_and_repetitions_are_told(caplog, tmp_path):
    rows = facts()
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*rows, rows[0], {"prompt": "no answer"}]))
    with caplog.at_level(logging.WARNING):
        made = prompts(str(path), letters, Asked(prompt="prompt", group="group"), name="f")
    assert set(made) == {"f_left", "f_right"}
    assert '1 items of "f_left" repeat another one' in caplog.text
    assert "skipped 1 of 50 rows" in caplog.text
    assert made["f_left"].made["twice"] == made["f_left"].made["skipped"] == 1
    assert sum(made["f_left"].made["items"].values()) == 24


def test_shots_come_from_the_train_split():
    subtask = prompts(facts(), letters, Asked(prompt="prompt", shots=2, wrong="wrong"))["prompts"]
    item = subtask.items(3, "report", 0)[0]
    train = {f"{one.prompt}{one.answer}" for one in prompts(facts(), letters)["prompts"].items(14, "train", 1)}
    shown = item.prompt.split("\n\n")
    assert len(shown) == 3
    assert sum(one in train for one in shown[:2]) >= 1
    assert isinstance(subtask.draw(3), Examples)


# refusals


def test_a_corpus_of_running_text_has_no_prompts():
    with pytest.raises(ValueError, match=r'"python" is running text and has no prompts; name a file of rows'):
        prompts("python", letters)


@pytest.mark.parametrize(
    ("rows", "asked", "said"),
    [
        ([{"text": "a"}], Asked(prompt="prompt"), 'none of the 1 rows .* has `prompt` "prompt".*their fields are text'),
        ([{"prompt": "a", "answer": "b", "c": ["x", "y"]}], Asked(prompt="prompt", choices="c"), "of the options A"),
        ([{"prompt": "a", "answer": "b"}], Asked(prompt="prompt"), "draw fewer or from another split"),
        ([{"prompt": "a bc", "answer": "b", "t": "a"}] * 3, Asked(prompt="prompt", corrupted="t"), "of equal length"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(rows, asked, said):
    with pytest.raises(ValueError, match=said):
        prompts([{**row, "n": i} for i, row in enumerate(rows)], letters, asked)["prompts"].draw(1, split="train") and (
            prompts(rows, letters, asked)["prompts"].draw(1, split="report")
        )


def test_settings_that_contradict():
    with pytest.raises(ValueError, match="name the field of the prompt"):
        Asked(group="relation")
    with pytest.raises(ValueError, match="text or letter"):
        Asked(by="number")
    with pytest.raises(ValueError, match=r"write \{prompt\}"):
        Asked(template="Q:")


# studies


def test_a_study_of_prompts_is_drawn_again_from_its_record(tmp_path, embedded):
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in facts()))
    asked = Asked(prompt="prompt", group="group", subject="subject", wrong="wrong")
    subtasks = subtasks_of(embedded, {"f": str(path)}, length=8, asked=asked)
    settings = Settings(units=("head",), loss="answer", sequences=4, folds=2, only=("L0H1",))
    study = measure(embedded, subtasks, settings, tmp_path / "out")
    assert set(study.effects.made["accuracy"]) == {"f_left", "f_right"}
    assert study.effects.made["shown"]["f_left"][0]["answer"].startswith(" the ")
    again = redraw(embedded, study.effects)
    assert {name: own.digest for name, own in again.examples.items()} == dict(study.effects.made["tokens"])


def test_items_in_memory_are_a_subtask():
    items = [Item(f"{s} is", " x", corrupted=f"{s[::-1]} is") for s in WORLD]
    made = item_subtask("mine", items, letters).draw(4)
    assert made.paired is not None
    assert not torch.equal(made.paired["tokens"], made.tokens)


def test_all_of_a_small_set_is_measured_in_three_turns(embedded, tmp_path):
    path = tmp_path / "code.jsonl"
    rows = [{"prompt": f"x{i} = {i}\nprint(", "answer": f"x{i}"} for i in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    settings, asked = Settings(units=("head",), loss="answer", sequences=4, folds=4), Asked(prompt="prompt")
    found = rotated_effects(embedded, {"code": str(path)}, settings, asked, measure=attribution_effects)
    encode, first = encoder(embedded.tokenizer), first_token(embedded.tokenizer)
    every = prompts(rows, encode, asked, first=first)["prompts"]
    items = [item for split in ("train", "selection", "report") for item in every.items(4, split, 0)]
    plain = [
        float(Experiment(embedded.model, {"one": examples_of([item], encode, first=first)}, folds=1).losses()[0])
        for item in items
    ]
    assert sorted(found.baseline[:, 0].tolist()) == pytest.approx(sorted(plain), abs=1e-5)
    path.write_text("\n".join(json.dumps({"prompt": f"x{i} =", "answer": f"{i}"}) for i in range(300)))
    with pytest.raises(ValueError, match="do not turn"):
        rotated_effects(embedded, {"code": str(path)}, settings, asked)


def test_right_is_likelier_than_each_wrong_answer(embedded):
    encode = encoder(embedded.tokenizer)
    rows = [
        {"prompt": f"def f({x}):\n    return", "answer": x, "wrong": ["banana", wrong]}
        for x, wrong in zip("abcdefghijkl", ["garden"] * 6 + ["not"] * 6, strict=True)
    ]
    made = prompts(rows, encode, Asked(prompt="prompt", wrong="wrong"))
    experiment = Experiment(embedded.model, made, ("head",), loss="answer", folds=1, count=4)
    wanted = []
    for item in made["prompts"].items(4, "report", 0):
        scores = embedded.model(torch.tensor(encode([item.prompt])))[0, -1]
        right, *wrong = (scores[encode([answer])[0][0]] for answer in (item.answer, *item.wrong))
        wanted.append(all(right > other for other in wrong))
    assert rights(experiment).tolist() == wanted
    assert accuracies(experiment)["prompts"] == np.mean(wanted)
    assert ability(experiment, "prompts").chance == pytest.approx(1 / 3)
