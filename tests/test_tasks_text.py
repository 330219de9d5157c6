import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from skilloc.tasks import IGNORE, Examples, Subtask
from skilloc.tasks import corpora as corpora_module
from skilloc.tasks.corpora import prose
from skilloc.tasks.text import (
    BUILTIN,
    Document,
    builtin_documents,
    documents,
    documents_digest,
    near_duplicates,
    shuffled_targets,
    split_documents,
    text_subtask,
)

SPLITS = ("train", "selection", "report")


def letters(texts):
    """A tokenizer: one token per character."""
    return [[ord(letter) for letter in text] for text in texts]


def random_text(number, lines=30):
    """Lines that no other number's text holds."""
    generator = random.Random(number)
    return "\n".join(f"line {generator.getrandbits(64)} of the text" for _ in range(lines))


def corpus(n, lines=30):
    return [Document(random_text(number, lines), f"made:{number}") for number in range(n)]


# splits


def test_split_is_disjoint_complete_and_about_eight_to_one_to_one():
    made = corpus(600)
    splits = split_documents(made)
    texts = [document.text for split in SPLITS for document in splits[split]]
    assert sorted(texts) == sorted(document.text for document in made)
    shares = [len(splits[split]) / 600 for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.04)  # 2.5 standard errors or more


def test_split_depends_on_the_texts_alone():
    made = corpus(80)
    there = split_documents(made)
    renamed = [Document(document.text, "elsewhere") for document in random.Random(0).sample(made, len(made))]
    here = split_documents(renamed)
    for split in SPLITS:
        assert [document.text for document in there[split]] == [document.text for document in here[split]]
    more = split_documents(made + corpus(100)[80:])
    for split in SPLITS:
        assert {document.text for document in there[split]} <= {document.text for document in more[split]}


def test_split_is_the_same_in_another_process_with_another_hash_seed():
    script = (
        "from skilloc.tasks.text import *\n"
        "import random\n"
        "made = [Document('\\n'.join(f'line {n} {m} of the text' for m in range(9)), 'x') for n in range(60)]\n"
        "print([documents_digest(part) for part in split_documents(made).values()])"
    )
    root = Path(__file__).parents[1]
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}, cwd=root,
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    made = [Document("\n".join(f"line {n} {m} of the text" for m in range(9)), "x") for n in range(60)]
    assert runs[0].strip() == str([documents_digest(part) for part in split_documents(made).values()])


def test_exact_duplicates_are_dropped():
    made = corpus(20)
    assert split_documents(made + made) == split_documents(made)


def changed(text, number, part):
    """The text with `part` of its lines replaced, and its spacing and case changed."""
    generator = random.Random(number)
    lines = text.split("\n")
    for place in generator.sample(range(len(lines)), round(part * len(lines))):
        lines[place] = f"another {generator.getrandbits(64)} line here"
    return "\n".join("   " + line.upper() for line in lines)


def test_near_duplicates_land_on_one_side():
    # 0.7 of the lines are shared, so intersection over union is 0.7 / 1.3 = 0.54
    originals = corpus(150)
    copies = [Document(changed(document.text, n, 0.3), "copy") for n, document in enumerate(originals)]
    splits = split_documents(originals + copies)
    where = {document.text: split for split in SPLITS for document in splits[split]}
    together = sum(where[one.text] == where[other.text] for one, other in zip(originals, copies, strict=True))
    assert together == 150
    assert Counter(where.values()).keys() == set(SPLITS)  # and not by putting all in one place


def test_documents_that_share_little_stay_apart():
    # 0.4 / 1.6 = 0.25
    originals = corpus(150)
    other = [Document(changed(document.text, n, 0.6), "other") for n, document in enumerate(originals)]
    texts = [document.text for document in originals + other]
    assert near_duplicates(texts) == list(range(300))


def test_near_duplicates_agree_with_the_comparison_of_all_pairs():
    generator = random.Random(0)
    pool = [f"shared line number {n} of the pool" for n in range(60)]
    texts = ["\n".join(generator.sample(pool, 25)) for _ in range(40)]
    sets = [set(text.split("\n")) for text in texts]
    parent = list(range(40))
    for second in range(40):
        for first in range(second):
            if len(sets[first] & sets[second]) >= 0.4 * len(sets[first] | sets[second]):
                old, new = parent[second], parent[first]
                parent = [new if node == old else node for node in parent]
    ours = near_duplicates(texts)
    same = [[ours[a] == ours[b] for b in range(40)] for a in range(40)]
    assert same == [[parent[a] == parent[b] for b in range(40)] for a in range(40)]


def test_a_giant_group_of_near_duplicates_goes_to_train_and_leaves_the_rest_split():
    family = [Document(changed(random_text(0), n, 0.1), "family") for n in range(120)]
    splits = split_documents(family + corpus(201)[1:])
    assert all(document.origin != "family" for split in ("selection", "report") for document in splits[split])
    assert min(len(splits[split]) for split in SPLITS) >= 10


def test_a_chain_of_copies_of_copies_is_one_group():
    texts = [random_text(0)]
    for step in range(1, 8):
        texts.append(changed(texts[-1], step, 0.2))
    assert near_duplicates([*texts, random_text(1)]) == [0] * 8 + [8]


def test_short_and_empty_texts_are_compared_whole():
    assert near_duplicates(["a b", "AB", "c", "", " "]) == [0, 0, 2, 3, 3]
    assert near_duplicates([]) == []


# packing


def rows_by_hand(made, split, length, separator):
    stream = []
    for document in split_documents(made)[split]:
        stream += [ord(letter) for letter in document.text]
        if separator is not None:
            stream.append(separator)
    return [stream[at : at + length + 1] for at in range(0, len(stream) - length, length + 1)]


@pytest.mark.parametrize("separator", [None, 0])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_packing_is_exact(length, separator):
    made = corpus(40, lines=3)
    expected = rows_by_hand(made, "train", length, separator)
    batch = text_subtask("t", made, letters, length=length, separator=separator).draw(len(expected), split="train")
    assert torch.equal(batch.inputs, torch.tensor(expected)[:, :-1])
    assert torch.equal(batch.targets, torch.tensor(expected)[:, 1:])


def test_rows_begin_with_the_first_token():
    made = corpus(40, lines=3)
    plain = text_subtask("t", made, letters, length=8, separator=0)
    begun = text_subtask("t", made, letters, length=9, separator=0, first=7)
    assert (plain.made["add_bos"], begun.made["add_bos"]) == (False, True)
    own, same = begun.draw(4, split="train"), plain.draw(4, split="train")
    assert (own.inputs[:, 0] == 7).all()
    stream = [row for row in rows_by_hand(made, "train", 8, 0)]
    assert torch.equal(own.inputs[:, 1:], own.targets[:, :-1])
    assert [[*row] for row in torch.cat([own.inputs[:, 1:], own.targets[:, -1:]], dim=1).tolist()] == [
        [*row, last] for row, last in zip(same.inputs.tolist(), same.targets[:, -1].tolist(), strict=True)
    ]
    assert all(row in stream for row in own.targets.tolist())


def test_draws_are_ordered_samples_without_replacement():
    made = corpus(60)
    expected = rows_by_hand(made, "report", 32, 0)
    batch = text_subtask("t", made, letters, length=32, separator=0).draw(20, seed=3)
    places = [
        expected.index([*row, last])
        for row, last in zip(batch.inputs.tolist(), batch.targets[:, -1].tolist(), strict=True)
    ]
    assert places == sorted(set(places))


def test_every_row_is_as_likely_as_another():
    subtask = text_subtask("t", corpus(60), letters, length=256)
    every = subtask.draw(rows := len(rows_by_hand(corpus(60), "report", 256, None))).inputs
    seen = Counter()
    for seed in range(400):
        for row in subtask.draw(rows // 2, seed=seed).inputs:
            seen[int((every == row).all(1).nonzero()[0])] += 1
    assert len(seen) == rows
    assert all(abs(count - 200) < 5 * 10 for count in seen.values())  # binomial, standard deviation 10


def test_draws_are_a_pure_function_of_their_arguments():
    made = corpus(60)
    one, two = (text_subtask("t", made, letters, length=32) for _ in range(2))
    two.draw(5, seed=9)
    assert one.draw(10, seed=1).digest == two.draw(10, seed=1).digest == one.draw(10, seed=1).digest
    digests = {one.draw(10, split=split, seed=seed).digest for split in SPLITS for seed in (0, 1)}
    assert len(digests) == 6
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    one.draw(10, seed=2)
    assert torch.equal(torch.rand(1), first)  # the global generator is left alone


def test_contiguous_folds_hold_different_documents():
    made = [Document(chr(200 + number) * 100, f"made:{number}") for number in range(300)]
    batch = text_subtask("t", made, letters, length=20).draw(80, split="train")
    folds = [set(fold.flatten().tolist()) for fold in batch.inputs.chunk(4)]
    shared = [len(first & second) for number, first in enumerate(folds) for second in folds[number + 1 :]]
    assert sum(shared) <= 3  # one document may straddle each boundary
    assert min(len(fold) for fold in folds) > 5


def test_splits_share_no_document():
    made = [Document(chr(200 + number) * 100, f"made:{number}") for number in range(300)]
    subtask = text_subtask("t", made, letters, length=20)
    held = {split: set(subtask.draw(40, split=split).inputs.flatten().tolist()) for split in SPLITS}
    assert not held["train"] & held["report"]
    assert not held["selection"] & held["report"]


def test_each_split_is_tokenised_once_and_only_when_drawn_from():
    calls = []

    def counted(texts):
        calls.append(len(texts))
        return letters(texts)

    subtask = text_subtask("t", corpus(100), counted, length=16)
    assert calls == []
    subtask.draw(2)
    subtask.draw(5, seed=1)
    report = len(split_documents(corpus(100))["report"])
    assert calls == [report]
    subtask.draw(2, split="selection")
    assert len(calls) == 2


def test_too_few_rows_says_how_many_there_are():
    subtask = text_subtask("few", corpus(30), letters, length=64)
    have = len(rows_by_hand(corpus(30), "report", 64, None))
    with pytest.raises(
        ValueError, match=rf'10000 examples are too many: .* "few" has {have} rows of 64 .* pass more documents'
    ):
        subtask.draw(10_000)


def test_no_tokens_and_no_documents_are_told_apart():
    with pytest.raises(ValueError, match=r"has 0 rows .* pass more documents"):
        text_subtask("empty", corpus(30), lambda texts: [[] for _ in texts]).draw(1)
    with pytest.raises(ValueError, match="pass at least one document"):
        text_subtask("none", [], letters)
    with pytest.raises(ValueError, match="at least 1 token"):
        text_subtask("short", corpus(3), letters, length=0)


def test_made_names_the_texts_not_their_order():
    made = corpus(12)
    one = text_subtask("t", made, letters, length=16, separator=0).made
    assert one == text_subtask("t", made[::-1], letters, length=16, separator=0).made
    assert one["documents"] == 12
    assert one["sources"] == ["made"]
    assert one["bytes"] == sum(len(document.text) for document in made)
    assert one["content"] != text_subtask("t", made[:-1], letters).made["content"]


# the null control


def test_shuffled_targets_keep_inputs_and_the_multiset_of_targets():
    subtask = text_subtask("t", corpus(60), letters, length=64)
    null = shuffled_targets(subtask)
    true, shuffled = subtask.draw(12, seed=4), null.draw(12, seed=4)
    assert null.name == "t_shuffled"
    assert torch.equal(true.inputs, shuffled.inputs)
    assert not torch.equal(true.targets, shuffled.targets)
    assert torch.equal(true.targets.flatten().sort().values, shuffled.targets.flatten().sort().values)
    agree = (true.targets == shuffled.targets).double().mean()
    chance = sum((count / int(true.scored.sum())) ** 2 for count in Counter(true.targets.flatten().tolist()).values())
    assert float(agree) == pytest.approx(chance, abs=0.05)
    assert shuffled.digest == null.draw(12, seed=4).digest != null.draw(12, seed=5).digest


def test_shuffled_targets_leave_ignored_positions_ignored():
    targets = torch.tensor([[1, IGNORE, 3], [IGNORE, 5, 6]])
    given = Subtask("given", lambda n, split, seed: Examples(torch.arange(6).view(2, 3), targets))
    shuffled = shuffled_targets(given).draw(2).targets
    assert torch.equal(shuffled == IGNORE, targets == IGNORE)
    assert sorted(shuffled[shuffled != IGNORE].tolist()) == [1, 3, 5, 6]


# sources


@pytest.fixture(scope="module")
def builtin():
    """The built-in corpora, read once."""
    return {name: documents(name) for name in BUILTIN}


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_corpora_are_there_and_large(name, builtin):
    found = builtin[name]
    assert sum(len(document.text) for document in found) > 4_000_000
    assert all(document.text.strip() and document.origin.startswith(f"{name}:") for document in found)
    assert len({document.origin for document in found}) == len(found) > 300


def test_english_is_english_and_shares_nothing_with_python(builtin):
    english = builtin["english"][::10]
    words = Counter(word for document in english for word in document.text.split())
    assert words["the"] > 0.05 * words.total()  # about 6 % of English prose
    code = {" ".join(line.split()) for document in builtin["python"] for line in document.text.split("\n")}
    paragraphs = [line for document in english for line in document.text.split("\n\n") if len(line) < 90]
    assert len(paragraphs) > 1000
    assert sum(paragraph in code for paragraph in paragraphs) <= 0.002 * len(paragraphs)  # "For internal use only."


def test_prose_keeps_sentences_and_drops_the_rest():
    text = """Return the sum of all the values that have been seen so far in the stream.

    Parameters
    ----------
    values : list of int
        The values that are to be summed, in the order in which they are given.

    Notes
    -----
    This is a :class:`~numpy.ndarray` in the sense that it can be used with ``ufuncs``, but it is not
    one of them, as the text says.

    >>> The doctest is not prose, although it is long enough and it ends with a dot and has words.

    def function(x, y): return {x: y for x in y}, [x + y for x in range(10) if x != y]
    """
    seen = set()
    kept = prose(text, seen).split("\n\n")
    assert kept == [
        "Return the sum of all the values that have been seen so far in the stream.",
        "This is a numpy.ndarray in the sense that it can be used with ufuncs, but it is not one of them, as the text "
        "says.",
    ]
    assert prose(text, seen) == ""


def test_builtin_corpora_have_their_names():
    with pytest.raises(ValueError, match="built in are python, cpp, english"):
        builtin_documents("french")


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setattr(corpora_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install torch"):
        builtin_documents("cpp")
