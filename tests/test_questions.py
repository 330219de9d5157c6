"""Rows as people have them: what is taken, what is left out and said, and what is refused with a sentence."""

import json
import logging

import pytest

from skilloc.tasks.asked import MADE, Asked
from skilloc.tasks.behaviours import MAKERS
from skilloc.tasks.prompts import large_enough, prompts
from skilloc.tasks.questions import items_of
from skilloc.tasks.reading import read_rows

SPLITS = ("train", "selection", "report")
PLAIN = Asked(prompt="prompt")
ANSWERS = Asked(prompt="prompt", wrong="wrong")
CHOICES = Asked(prompt="prompt", choices="choices", template="{prompt}")


def letters(texts):
    return [list(text.encode()) for text in texts]


def rows(count=12, **changed):
    base = {"prompt": "Fact {i}:", "answer": "a{i}", "wrong": ["b", "c"], "choices": ["x", "y", "z"]}
    return [{k: v.format(i=i) if isinstance(v, str) else v for k, v in base.items()} | changed for i in range(count)]


# subjects


@pytest.mark.parametrize("many", [10, 400])
@pytest.mark.parametrize("kind", [int, float, str])
def test_items_about_one_subject_are_in_one_split_whatever_its_kind(many, kind):
    given = [{"prompt": f"Fact {i} about Q:", "answer": str(i), "id": kind(i % many)} for i in range(6 * many)]
    made = prompts(given, letters, Asked(prompt="prompt", subject="id"))["prompts"]
    counts = dict(made.made)["items"]
    sides = {split: {int(item.answer) % many for item in made.items(counts[split], split, 0)} for split in SPLITS}
    assert all(sides.values())
    for one, other in (("train", "selection"), ("train", "report"), ("selection", "report")):
        assert not sides[one] & sides[other]


def test_a_subject_that_tells_nothing_apart_is_refused_and_rows_without_one_are_said(caplog):
    for odd in (["a"], {"b": 1}):
        with pytest.raises(ValueError, match=r'`subject` "id" of row 3 is an? \w+; name a field of text or of numbers'):
            items_of(
                [{**row, "id": i if i != 3 else odd} for i, row in enumerate(rows())],
                Asked(prompt="prompt", subject="id"),
            )
    with caplog.at_level(logging.WARNING):
        found, _ = items_of([*rows(9, id=7), *rows(3)], Asked(prompt="prompt", subject="id"))
    assert '3 of 12 rows of "the rows" have no `subject`; each is about its own prompt' in caplog.text
    assert [item.subject for item in found] == ["7"] * 9 + [item.prompt for item in found[9:]]


# options

TEXTS = ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("given", "answer", "right"),
    [
        (TEXTS, 2, 2),
        (TEXTS, 2.0, 2),
        (TEXTS, "2", 2),
        (TEXTS, "C", 2),
        (TEXTS, "blue", 2),
        ({"text": TEXTS, "label": ["1", "2", "3"]}, "2", 1),
        ({"text": TEXTS, "label": ["1", "2", "3"]}, 2, 1),
        ({"text": TEXTS, "label": [1, 2, 3]}, 2, 1),
        ([{"text": t, "label": str(n)} for n, t in enumerate(TEXTS, 1)], "2", 1),
        ([{"text": t, "label": n} for n, t in zip("ABC", TEXTS, strict=True)], "B", 1),
        ([{"label": n, "text": t} for n, t in zip("BCA", TEXTS, strict=True)], "B", 0),
        ([{"text": t} for t in TEXTS], "B", 1),
        ([3, 2, 1], 0, 0),
        (["0", "1", "2"], "1", 1),
        ({"text": ["A", "B"], "label": ["B", "A"]}, "A", 1),
    ],
)
def test_which_option_is_right(given, answer, right):
    (item,), _ = items_of([{"prompt": "p", "choices": given, "answer": answer}], CHOICES)
    texts = [one["text"] for one in given] if isinstance(given[0] if isinstance(given, list) else "", dict) else given
    texts = texts["text"] if isinstance(texts, dict) else texts
    assert item.options == tuple(f" {text}" for text in texts)
    assert (item.right, item.answer) == (right, f" {texts[right]}")


def test_the_original_form_of_arc():
    given = [
        {"question": {"stem": f"s{i}", "choices": [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]},
         "answerKey": "1"} for i in range(3)
    ]  # fmt: skip
    asked = Asked(prompt="question.stem", choices="question.choices", template="{prompt}")
    assert {item.answer for item in items_of(given, asked)[0]} == {" x"}


@pytest.mark.parametrize(
    ("given", "answer"), [(["3", "2", "1", "0"], "1"), (["x", "A"], "A"), (["1", "2"], "1"), (["B", "A"], "A")]
)
def test_an_answer_that_may_mean_two_options_is_refused(given, answer):
    with pytest.raises(ValueError, match=rf'`answer` of row 0 is the text "{answer}", which may mean "'):
        items_of([{"prompt": "p", "choices": given, "answer": answer}], CHOICES)


def test_more_options_than_letters_are_refused_and_asked_by_text(caplog):
    given = [{"prompt": "p", "choices": [f"o{i}" for i in range(30)], "answer": 28}]
    with pytest.raises(ValueError, match='row 0 has 30 options, more than there are letters; use `by` "text"'):
        items_of(given, Asked(prompt="prompt", choices="choices", by="letter"))
    assert items_of(given, Asked(prompt="prompt", choices="choices", by="text"))[0][0].answer == " o28"


def test_the_twin_of_a_question_with_options_is_put_as_it_is():
    (item,), _ = items_of(
        [{"prompt": "p", "choices": ["x", "y"], "answer": 0, "twin": "q"}],
        Asked(prompt="prompt", choices="choices", by="letter", corrupted="twin"),
    )
    assert item.corrupted == item.prompt.replace("p\n", "q\n", 1) != item.prompt


# what is left out

UNUSABLE = [
    (PLAIN, {"prompt": None}, 'without `prompt` "prompt"'),
    (PLAIN, {"prompt": 3}, 'whose `prompt` "prompt" is a number'),
    (PLAIN, {"answer": " "}, 'without `answer` "answer"'),
    (PLAIN, {"answer": ["a", "b"]}, 'whose `answer` "answer" is a list'),
    (PLAIN, {"answer": {"a": 1}}, 'whose `answer` "answer" is an object'),
    (PLAIN, {"answer": True}, 'whose `answer` "answer" is true or false'),
    (ANSWERS, {"wrong": None}, 'without `wrong` "wrong"'),
    (ANSWERS, {"wrong": True}, 'whose `wrong` "wrong" is no text and no list of texts'),
    (ANSWERS, {"wrong": [""]}, "is no text and no list"),
    (ANSWERS, {"wrong": []}, "is no text and no list"),
    (ANSWERS, {"wrong": [None, "b"]}, "is no text and no list"),
    (ANSWERS, {"wrong": {"b": "c"}}, "is no text and no list"),
    (ANSWERS, {"wrong": ["b", "same"], "answer": " same"}, "whose right answer is a wrong one as well"),
    (CHOICES, {"answer": True}, "whose answer is true or false"),
    (CHOICES, {"answer": ["x"]}, "whose answer is a list"),
    (CHOICES, {"choices": "abc"}, 'whose `choices` "choices" is no list of two options or more'),
    (CHOICES, {"choices": ["a"]}, "is no list of two options or more"),
    (CHOICES, {"choices": {"A": "x", "B": "y"}}, "is no list of two options or more"),
    (CHOICES, {"choices": {"text": "abc", "label": ["A", "B", "C"]}}, "is no list of two options or more"),
    (CHOICES, {"choices": ["x", None]}, "has an option that is no text"),
    (CHOICES, {"choices": ["x", ""]}, "has an option that is no text"),
    (CHOICES, {"choices": ["x", {"text": "y"}]}, "has an option that is no text"),
    (CHOICES, {"choices": ["x", "x "]}, "has two options that are the same"),
    (CHOICES, {"choices": {"text": ["x", "y"], "label": ["A"]}}, "has not one label for each option"),
    (CHOICES, {"choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "A"}]}, "not one label for each"),
    (Asked(prompt="prompt", group="topic"), {"topic": None}, 'without `group` "topic"'),
    (Asked(prompt="prompt", corrupted="twin"), {"twin": ""}, 'without `corrupted` "twin"'),
]


@pytest.mark.parametrize(("asked", "changed", "said"), UNUSABLE)
def test_rows_that_cannot_be_asked_are_left_out_with_their_reason(asked, changed, said, caplog):
    good = [{**row, "answer": "x", "topic": "t", "twin": "w"} for row in rows(4)]
    with caplog.at_level(logging.WARNING):
        found, left = items_of([*good[:2], {**good[0], **changed}, *good[2:]], asked)
    assert (len(found), left) == (4, 1)
    assert 'skipped 1 of 5 rows of "the rows": 1 ' in caplog.text
    assert said in caplog.text
    assert "(row 2)" in caplog.text
    with pytest.raises(ValueError, match="none of the 2 rows") as error:
        items_of([{**good[0], **changed}, {**good[0], **changed, "more": 1}], asked)
    assert said in str(error.value) or f"has `{said.split('`')[1]}`" in str(error.value)
    assert "None" not in "".join(item.prompt + item.answer + "".join(item.wrong + item.options) for item in found)


def test_numbers_are_text_where_text_is_meant():
    (item,), _ = items_of([{"prompt": "p", "answer": 5, "wrong": 6}], ANSWERS)
    assert (item.answer, item.wrong) == (" 5", (" 6",))
    (item,), _ = items_of([{"prompt": "p", "answer": 5, "wrong": [6, 1.5, 6]}], ANSWERS)
    assert item.wrong == (" 6", " 1.5")


# fields that are not there


@pytest.mark.parametrize("name", ["prompt", "answer", "wrong", "corrupted", "group", "subject", "choices"])
@pytest.mark.parametrize("from_file", [False, True])
def test_a_field_that_no_row_has_is_refused_with_those_that_there_are(name, from_file, tmp_path):
    given = [{**row, "answerKey": "x"} for row in rows(6)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, given)))
    with pytest.raises(ValueError, match=f'none of the 6 rows of .* has `{name}` "topc"; .*prompt, answer, wrong'):
        prompts(str(path) if from_file else given, letters, Asked(**{"prompt": "prompt", name: "topc"}))


def test_a_value_that_no_row_has_is_no_field():
    with pytest.raises(ValueError, match='none of the 4 rows of "the rows" has `wrong` "wrong"'):
        items_of(rows(4, wrong=None), ANSWERS)


def test_the_answer_key_of_arc_stands_in_for_the_usual_name_only():
    given = [{"prompt": "p", "answerKey": "x"}, {"prompt": "q", "answerKey": "y"}]
    assert [item.answer for item in items_of(given, PLAIN)[0]] == [" x", " y"]
    (item,), left = items_of([{**given[0], "answer": "z"}, given[1]], PLAIN)
    assert (item.answer, left) == (" z", 1)


# groups


def test_groups_are_told_apart_whatever_their_kind(caplog):
    kinds = [0, False, "0.5", True, "a b", None]
    given = [{**row, "topic": kinds[i % 6]} for i, row in enumerate(rows(24))]
    with caplog.at_level(logging.WARNING):
        made = prompts(given, letters, Asked(prompt="prompt", group="topic"), name="s")
    assert set(made) == {"s_0", "s_False", "s_0.5", "s_True", "s_a_b"}
    assert 'skipped 4 of 24 rows of "the rows": 4 without `group` "topic" (row 5)' in caplog.text


def test_two_groups_of_one_name_are_refused():
    given = [{**row, "topic": ["a b", "a_b"][i % 2]} for i, row in enumerate(rows())]
    with pytest.raises(ValueError, match='groups "a b" and "a_b" would both be called "s_a_b"'):
        prompts(given, letters, Asked(prompt="prompt", group="topic"), name="s")
    with pytest.raises(ValueError, match='`group` "topic" of row 0 is a list'):
        prompts(rows(topic=["a"]), letters, Asked(prompt="prompt", group="topic"))


def test_small_groups_are_left_out_in_one_line(caplog):
    given = [{**row, "topic": "large" if i < 30 else f"g{i}"} for i, row in enumerate(rows(120))]
    made = prompts(given, letters, Asked(prompt="prompt", group="topic"), name="s")
    with caplog.at_level(logging.WARNING):
        assert set(large_enough(made, 2)) == {"s_large"}
    assert len(caplog.records) == 1
    assert 'left out groups with fewer than 2 items in a split: "s_g30" (' in caplog.text
    assert "and 87 more" in caplog.text
    del made["s_large"]
    with pytest.raises(
        ValueError, match=r"none of 90 groups has 1 items in every split.*draw fewer examples, or group by"
    ):
        large_enough(made, 1)


# templates, shots, lengths


@pytest.mark.parametrize("template", ["{nope} {prompt}", "{prompt} {answer}", "{prompt} {a.b}"])
def test_only_the_prompt_is_put_into_a_template(template):
    with pytest.raises(ValueError, match=r"but nothing is put for \{\w"):
        Asked(prompt="prompt", template=template)
    assert Asked(prompt="prompt", template="f() { {prompt} {} }").put("x") == "f() { x {} }"


@pytest.mark.parametrize("other", [{"subject": "s"}, {"template": "{prompt}"}, {"choices": "c"}])
def test_fields_of_prompts_need_the_prompt(other):
    with pytest.raises(ValueError, match="`prompt` is not given"):
        Asked(**other)
    with pytest.raises(ValueError, match="do not go together; the other options"):
        Asked(prompt="p", choices="c", wrong="w")


def test_more_shots_than_there_are_items_to_show():
    made = prompts(rows(12), letters, Asked(prompt="prompt", shots=20))["prompts"]
    with pytest.raises(ValueError, match=r"`shots` is 20, but the train split of .* has 4 items; show fewer"):
        made.draw(2)


def test_prompts_that_are_too_long_are_left_out_and_counted(caplog):
    given = [*rows(12), {**rows(1)[0], "prompt": "x" * 64}]
    with caplog.at_level(logging.WARNING):
        made = prompts(given, letters, PLAIN, longest=40, first=0)["prompts"]
    assert 'left out 1 of 13 prompts of "prompts", of more than the 39 tokens that the model can read' in caplog.text
    assert f'such as "{"x" * 40}..."' in caplog.text
    assert sum(made.made["items"].values()) == 12
    assert made.made["skipped"] == 1
    # As many tokens as there may be: the first one, the prompt, and all of the answer but its last token.
    exact = [{"prompt": f"{i}{'x' * 36}", "answer": "ab"} for i in range(6)]
    assert prompts(exact, letters, PLAIN, longest=40, first=0)["prompts"].draw(2).positions == 40
    with pytest.raises(ValueError, match=r"all 6 prompts of .* have more than 38 tokens"):
        prompts(exact, letters, PLAIN, longest=39, first=0)


# files


def test_a_whole_number_of_thousands_of_digits_does_not_matter(tmp_path):
    path = tmp_path / "digits.jsonl"
    path.write_text('{"prompt": "p", "answer": "a", "n": ' + "9" * 5000 + "}\n")
    assert read_rows(str(path), ["prompt", "n"]).rows[0].values == ("p", "9" * 5000)
    path.write_text('{"prompt": "p", "answer": "a", "n": ' + "9" * 5000 + "\n")
    with pytest.raises(ValueError, match="is not JSON"):
        read_rows(str(path), ["prompt"])


@pytest.mark.parametrize("encoding", ["utf-32", "utf-16"])
def test_wide_letters_are_called_by_their_name(tmp_path, encoding):
    path = tmp_path / "wide.jsonl"
    path.write_bytes('{"prompt": "p"}'.encode(encoding))
    with pytest.raises(ValueError, match=f"is in {encoding.upper()}, from row 0 on.* -f {encoding.upper()} "):
        read_rows(str(path), ["prompt"])


def test_a_home_folder_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r'no home folder for "~nouser/x.jsonl"; write the path out'):
        read_rows("~nouser/x.jsonl", ["prompt"])


def test_the_names_of_what_is_made():
    assert tuple(MAKERS) == MADE
