import random
import re
import zlib

import pytest
import torch

from skilloc.experiment import Experiment
from skilloc.models.language import open_model
from skilloc.study.able import ability, check_able
from skilloc.tasks import IGNORE, Examples
from skilloc.tasks.behaviours import _MANY, MAKERS, _Words, behaviours

SPLITS = ("train", "selection", "report")


def words(texts):
    """A tokenizer of whole words, with their space, and single digits."""
    pieces = re.compile(r"\s?[^\W\d]+|\s?\d|\s?[^\w\s]|\s")
    return [[zlib.crc32(piece.encode()) % 2**31 for piece in pieces.findall(text)] for text in texts]


@pytest.fixture(scope="module")
def made():
    return behaviours(words, count=60)


@pytest.mark.parametrize("name", MAKERS)
def test_a_twin_differs_and_has_the_length_of_its_prompt(made, name):
    examples = made[name].draw(10)
    assert examples.paired is not None
    assert bool((examples.paired["tokens"] != examples.tokens).any(dim=1).all())
    assert examples.fields["wrong"].shape[0] == 10
    split = {split: {item.key for item in made[name].items(10, split, 0)} for split in SPLITS}
    assert not split["train"] & split["report"]


def test_the_right_answers():
    rng = random.Random(0)
    for _ in range(50):
        own = {name: maker(_Words(words), rng) for name, maker in MAKERS.items()}
        told = own["induction"].prompt.split(" ")
        assert told[1 + told[1:].index(told[-1]) + 1] == own["induction"].answer.strip()
        giver = own["indirect"].prompt.split(". ")[1].split(" ")[0]
        names = own["indirect"].prompt.split(" went")[0].removeprefix("Then, ").split(" and ")
        assert [name for name in names if name != giver] == [own["indirect"].answer.strip()]
        year = int(own["greater"].prompt.split("year ")[1][2:4])
        assert year < int(own["greater"].answer) <= 99
        assert all(int(wrong) <= year for wrong in own["greater"].wrong)
        plural = own["agreement"].prompt.split(" ")[1] in _MANY
        assert own["agreement"].answer == (" are" if plural else " is")
        last = own["brackets"].prompt.split(" ")[-2]
        assert own["brackets"].answer.strip() == {"(": ")", "[": "]", "{": "}"}[last]
        assert own["copying"].prompt.startswith(f"My name is{own['copying'].answer}.")
        listed = own["arguments"].prompt.split("(")[1].split(")")[0].split(", ")
        assert own["arguments"].answer.strip() == listed[2]


def test_items_are_a_function_of_the_seed(made):
    same, other = behaviours(words, ["induction"], count=60), behaviours(words, ["induction"], count=60, seed=1)
    assert same["induction"].draw(5).digest == made["induction"].draw(5).digest != other["induction"].draw(5).digest


def test_a_tokenizer_without_the_words_is_told():
    with pytest.raises(ValueError, match='only 0 of 20 items of "induction"'):
        behaviours(lambda texts: [list(text.encode()) for text in texts], ["induction"], count=20)
    with pytest.raises(ValueError, match="unknown behaviour"):
        behaviours(words, ["knitting"])


def test_a_behaviour_that_the_model_cannot_do_is_refused_with_its_number():
    opened = open_model("embedded")
    rows = {"noise": torch.randint(100, 200, (24, 6), generator=torch.Generator().manual_seed(0))}
    targets = torch.full_like(rows["noise"], IGNORE)
    targets[:, -1] = torch.randint(100, 200, (24,), generator=torch.Generator().manual_seed(1))
    wrong = torch.randint(100, 200, (24, 1), generator=torch.Generator().manual_seed(2))
    examples = Examples(rows["noise"], targets, fields={"wrong": wrong})
    experiment = Experiment(opened.model, {"noise": examples}, ("head",), loss="logit_difference", folds=2)
    with pytest.raises(ValueError, match=r'cannot do "noise": it is right on \d+ of 24 examples .* chance is 0\.5'):
        check_able(experiment)
    # Its own argmax is what a model can do.
    with torch.no_grad():
        targets[:, -1] = opened.model(rows["noise"])[:, -1].argmax(dim=-1)
    able = Experiment(opened.model, {"own": Examples(rows["noise"], targets)}, ("head",), folds=2)
    found = ability(able, "own")
    assert (found.accuracy, found.able) == (1.0, True)
    assert 0 < found.chance < 0.01
