"""Whether a model can do a behaviour: what counts as right, and how much of it is more than luck."""

import itertools
import json
import re

import numpy as np
import pytest
import torch

from skilloc.experiment import Experiment, hold, zero_reference
from skilloc.masks import Mask
from skilloc.models.language import encoder, open_model
from skilloc.study.able import SURE, Ability, ability, rights
from skilloc.study.draws import subtasks_of
from skilloc.study.evaluate import score
from skilloc.tasks import Examples
from skilloc.tasks.asked import Asked
from skilloc.tasks.items import Item
from skilloc.tasks.joining import joined
from skilloc.tasks.losses import READY
from skilloc.tasks.prompts import item_subtask, prompts
from skilloc.tasks.rows import examples_of

NAMES = "name size color value index count text owner status width message child title user length".split()  # noqa: SIM905


def getters(wrong):
    """Rows whose wrong answers a function of the place and the name gives."""
    return [
        {"question": f"# The {n}:\ndef get_{n}(self):\n    return", "answer": f"self.{n}", "not": wrong(i, n)}
        for i, n in enumerate(NAMES)
    ]


FORMS = {
    "begin alike": lambda i, n: ["self.banana", f"self.{n}.garden.{n}"],
    "of other lengths": lambda i, n: [["x", "self"], [f"banana.{n}.{n} + 1"], ["return", f"self._{n}", "a"]][i % 3],
    "likelier": lambda i, n: ["self", f"self.{n}"[:-1]],
    "one of them alike": lambda i, n: "self.banana" if i == 3 else f"banana.{n}",
}


@pytest.fixture(scope="module")
def embedded():
    return open_model("embedded")


def likelier(opened, items):
    """Whether the right answer's log-likelihood, as lm-eval sums it, is above that of each wrong one."""
    scores = score(opened, [(item.prompt, a) for item in items for a in (item.answer, *item.wrong)])
    found, place = [], 0
    for item in items:
        right, *wrong = (one.nats for one in scores[place : place + 1 + len(item.wrong)])
        place += 1 + len(item.wrong)
        found.append(all(right > other for other in wrong))
    return found


@pytest.mark.parametrize(("form", "pad"), [*((form, "right") for form in FORMS), ("of other lengths", "left")])
def test_right_is_likelier_as_a_whole_than_each_wrong_answer(embedded, form, pad):
    asked = Asked(prompt="question", wrong="not", pad=pad)
    made = prompts(getters(FORMS[form]), encoder(embedded.tokenizer), asked)
    items = made["prompts"].items(5, "report", 0)
    experiment = Experiment(embedded.model, made, ("head",), loss="answer", folds=1, count=5)
    wanted = likelier(embedded, items)
    assert rights(experiment).tolist() == wanted
    known = ability(experiment, "prompts")
    assert known.chance == pytest.approx(np.mean([1 / (1 + len(item.wrong)) for item in items]))
    assert known.accuracy == {"begin alike": 1, "likelier": 0}.get(form, np.mean(wanted))


def test_right_without_some_units(embedded):
    encode = encoder(embedded.tokenizer)
    items = [Item(f"def f({n}):\n    return", f" {n}", wrong=(f" {n}s + 1", " not x")) for n in NAMES]
    examples = {"f": examples_of(items, encode)}
    experiment = Experiment(embedded.model, examples, ("head",), loss="answer", folds=1)
    units = experiment.units
    mask = Mask(units, np.zeros(len(units), dtype=bool))
    with hold(embedded.model, mask, zero_reference(units)):
        wanted = likelier(embedded, items)
    assert rights(experiment, mask).tolist() == wanted != rights(experiment).tolist()


def test_a_right_answer_that_is_wrong_as_well_is_refused(embedded):
    with pytest.raises(ValueError, match='the answer " b" to "a" is right and wrong as well'):
        examples_of([Item("a", " b", wrong=(" c", " b"))], encoder(embedded.tokenizer))
    with pytest.raises(ValueError, match="some items have `wrong` answers and some have none"):
        examples_of([Item("a", " b", wrong=(" c",)), Item("d", " e")], encoder(embedded.tokenizer))


def test_answers_that_begin_alike_have_no_logit_difference(embedded):
    encode, asked = encoder(embedded.tokenizer), Asked(prompt="question", wrong="not")
    made = prompts(getters(FORMS["one of them alike"]), encode, asked)
    items = [item for split in ("train", "selection", "report") for item in made["prompts"].items(5, split, 0)]
    alike = [item.wrong[0].startswith(" self") for item in items]
    found = examples_of([item for item, one in zip(items, alike, strict=True) if not one], encode)
    logits = embedded.model(found.tokens)
    wrong = found.fields["wrong"][:, 0, 0]
    rows, last = torch.arange(len(found)), found.at["last"]
    right = found.targets[rows, last]
    wanted = logits[rows, last, wrong].double() - logits[rows, last, right].double()
    assert READY["logit_difference"](logits, found).tolist() == pytest.approx(wanted.tolist(), abs=1e-4)
    whole = examples_of(items, encode)
    with pytest.raises(ValueError, match="all wrong answers of an example begin with the token"):
        READY["logit_difference"](embedded.model(whole.tokens), whole)


def test_subtasks_with_other_numbers_of_wrong_answers_are_measured_together(embedded):
    encode = encoder(embedded.tokenizer)
    one = item_subtask("one", [Item(f"def f({n}): return", f" {n}", wrong=(" x",)) for n in NAMES], encode)
    two = item_subtask("two", [Item(f"{n} =", " 1", wrong=(" a b", f" {n}")) for n in NAMES], encode)
    together = Experiment(embedded.model, {"one": one, "two": two}, loss="answer", folds=1, count=4)
    for name, own in (("one", one), ("two", two)):
        alone = Experiment(embedded.model, {name: own}, loss="answer", folds=1, count=4)
        wanted = likelier(embedded, own.items(4, "report", 0))
        assert rights(together.only(name)).tolist() == rights(alone).tolist() == wanted


def test_groups_of_examples_keep_the_names_that_all_have(embedded):
    encode = encoder(embedded.tokenizer)
    told, untold = (examples_of([Item("Rome is in", " Italy", subject=s)], encode) for s in ("Rome", "Oslo"))
    assert "subject" in told.at
    assert set(joined([told, untold]).at) == {"last", "answer"}


# how much is more than luck


def by_counting(known):
    """The probability of at least as many right answers by luck, over every way in which they can fall."""
    base = max(known.chance, known.commonest)
    wanted = round(known.accuracy * known.count)
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=known.count):
        right = sum(outcome)
        if right >= wanted:
            total += base**right * (1 - base) ** (known.count - right)
    return total


@pytest.mark.parametrize(("chance", "commonest"), [(0.5, 0.25), (1 / 2048, 0.125), (0.25, 0.5), (1 / 3, 1.0)])
def test_a_model_is_able_beyond_chance_and_beyond_the_commonest_answer(chance, commonest):
    for right in range(9):
        known = Ability(right / 8, 0.0, chance, 8, commonest)
        assert known.able == (by_counting(known) <= SURE)
        assert known.able == (right >= known.needed)


def test_one_right_answer_is_not_enough_nor_is_the_commonest_answer(embedded):
    encode = encoder(embedded.tokenizer)
    # Code goes on with a new line after a colon, whatever it is about.
    items = [Item(f"if {n}:", "\n" if i % 3 else " banana", subject=n) for i, n in enumerate(NAMES * 2)]
    examples = examples_of(items, encode)
    known = ability(Experiment(embedded.model, {"c": examples}, ("head",), folds=1), "c")
    share = sum(item.answer == "\n" for item in items) / len(items)
    assert known.commonest == share
    assert known.accuracy <= share
    assert not known.able
    one = Ability(1 / 14, 0.003, 1 / 49152, 14, 1 / 14)
    assert (one.able, one.needed) == (False, 4)


def test_the_same_items_are_asked_for_both(embedded, tmp_path):
    rows = [{"prompt": f"x{i} = {i % 2} #", "answer": str(i % 2), "wrong": str(1 - i % 2)} for i in range(30)]
    path = tmp_path / "bits.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    made = subtasks_of(embedded, {"b": str(path)}, asked=Asked(prompt="prompt", wrong="wrong"))
    known = ability(Experiment(embedded.model, made, ("head",), loss="answer", folds=1, count=4), "b")
    answers = [item.answer for item in made["b"].items(4, "report", 0)]
    assert known.commonest == max(map(answers.count, answers)) / 4
    assert re.search(r"Ability\(accuracy=.*commonest=", repr(known))


def test_options_of_several_rows_have_a_commonest_answer():
    owner, right = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([True, False, False, True, True, False])
    examples = Examples(
        torch.zeros(6, 2, dtype=torch.long), torch.tensor([[1, 2], [3, 4], [3, 4], [1, 2], [5, 6], [1, 2]]),
        fields={"right": right}, owner=owner,
    )  # fmt: skip
    from skilloc.study.able import _commonest

    assert _commonest(examples) == pytest.approx(2 / 3)
