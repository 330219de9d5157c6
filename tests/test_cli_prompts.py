"""From a file of prompts to a page, one command each, in the forms that people have."""

import json

import pytest

from skilloc.cli import main

HOSTILE = "<script>alert('x')</script> [red]&amp;"

TOFU = [
    {
        "question": f"Who wrote book {i} {HOSTILE if i % 7 == 0 else ''}?",
        "answer": f"The author {i} wrote it.",
        "perturbed_answer": [f"A painter {i} drew it.", f"No author {i} did."],
    }
    for i in range(18)
]
ARC = [
    {
        "id": str(i),
        "question": f"Which of these is {i}?",
        "choices": {"text": [f"thing {i + k}" for k in range(3 + i % 2)], "label": ["A", "B", "C", "D"][: 3 + i % 2]},
        "answerKey": "ABC"[i % 3],
    }
    for i in range(18)
]
WMDP = [
    {"question": f"Which one is safe, {i}?", "choices": [f"a{i}", f"b{i}", f"c{i}", f"d{i}"], "answer": i % 4}
    for i in range(18)
]
NAMES = ["Ann", "Bob", "Tom", "Sue", "Max", "Eve"]
IOI = [
    {
        "prompt": f"Then, {a} and {b} went to the shop. {b} gave a ring to",
        "answer": a,
        "wrong": b,
        "corrupted": f"Then, {a} and {b} went to the shop. {a} gave a ring to",
    }
    for a in NAMES
    for b in NAMES
    if a != b
]

FORMS = {
    "tofu": (TOFU, ["--prompt", "question", "--wrong", "perturbed_answer", "--loss", "answer"]),
    "arc": (ARC, ["--prompt", "question", "--answer", "answerKey", "--choices", "choices", "--loss", "choice"]),
    "wmdp": (WMDP, ["--prompt", "question", "--choices", "choices", "--by", "letter", "--loss", "choice"]),
    "ioi": (IOI, ["--prompt", "prompt", "--wrong", "wrong", "--loss", "logit_difference", "--at", "last"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_from_a_file_to_a_page(tmp_path, capsys, form):
    rows, options = FORMS[form]
    path = tmp_path / f"{form}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "out"
    small = ["--units", "head", "--sequences", "4", "--folds", "2", "--only", "L0H0", "L1H2"]
    main(["effects", "embedded", "--out", str(out), "--subtask", f"{form}={path}", *options, *small])
    said = capsys.readouterr().out
    assert f"{form}: accuracy " in said
    assert "commonest answer" in said
    main(["report", str(out)])
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
    assert form in page


def test_one_subtask_per_relation_and_words_for_what_cannot_be(tmp_path, capsys):
    path = tmp_path / "facts.jsonl"
    rows = [{"prompt": f"{i} is in", "answer": "a", "relation": "big"} for i in range(30)]
    rows += [{"prompt": f"{i} was in", "answer": "b", "relation": "small"} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    command = ["effects", "embedded", "--out", str(tmp_path / "out"), "--subtask", f"f={path}", "--units", "head"]
    command += ["--sequences", "4", "--folds", "2", "--only", "L0H0", "--loss", "answer"]
    main([*command, "--prompt", "prompt", "--group", "relation"])
    said = capsys.readouterr().out
    assert "f_big: accuracy" in said
    assert "f_small: accuracy" not in said
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--prompt", "question"])
    assert stopped.value.code == 2
    assert "none of the 34 rows" in capsys.readouterr().err
