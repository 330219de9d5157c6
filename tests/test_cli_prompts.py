"""Files of prompts on the command line; the forms that people have are those of docs/behaviours.md."""

import json

import pytest

from skilloc.cli import main


def test_one_subtask_per_relation_and_words_for_what_cannot_be(tmp_path, capsys):
    path = tmp_path / "facts.jsonl"
    rows = [{"prompt": f"{i} is in", "answer": "a", "relation": "big"} for i in range(30)]
    rows += [{"prompt": f"{i} was in", "answer": "b", "relation": "small"} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    command = ["effects", "embedded", "--out", str(tmp_path / "out"), "--subtask", f"f={path}", "--units", "head"]
    command += ["--sequences", "4", "--folds", "2", "--only", "L0H0", "--loss", "answer"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--prompt", "prompt", "--group", "relation"])
    assert stopped.value.code == 2
    assert 'cannot do "f_big": it is right on 0 of 10 examples' in capsys.readouterr().err
    main([*command, "--prompt", "prompt", "--group", "relation", "--anyway"])
    said = capsys.readouterr().out
    assert "f_big: accuracy" in said
    assert "f_small: accuracy" not in said
    main(["circuit", str(tmp_path / "out"), "--out", str(tmp_path / "circuit"), "--by", "effects", "--count", "1"])
    said = " ".join(capsys.readouterr().out.split())
    assert "(top 1: 1 head)" in said
    assert (
        "The model cannot do f_big: it is right on 0 of 4 examples, where knowing nothing is right on a share" in said
    )
    path.write_text("\n".join(map(json.dumps, rows[:2])))
    with pytest.raises(SystemExit):
        main([*command, "--prompt", "prompt"])
    assert '"f" has 2 items, which leave 0 for the report split; pass at least 3' in capsys.readouterr().err
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--prompt", "question"])
    assert stopped.value.code == 2
    assert "none of the 34 rows" in capsys.readouterr().err


def test_groups_that_the_model_cannot_do_are_left_out(tmp_path, caplog, capsys):
    path = tmp_path / "code.jsonl"
    names = [f"{a}{b}" for a in "cdefghij" for b in "xyz"]
    rows = [{"prompt": f"def f({x}):\n    return", "answer": x, "wrong": "zebra", "form": "code"} for x in names]
    rows += [{"prompt": f"def f({x}):\n    return", "answer": "zebra", "wrong": x, "form": "fruit"} for x in names]
    path.write_text("\n".join(map(json.dumps, rows)))
    command = ["effects", "embedded", "--out", str(tmp_path / "out"), "--subtask", f"f={path}", "--prompt", "prompt"]
    command += ["--group", "form", "--wrong", "wrong", "--loss", "answer", "--units", "head", "--only", "L0H0"]
    main([*command, "--sequences", "4", "--folds", "2"])
    assert "f_code: accuracy 1; by chance 0.5" in capsys.readouterr().out
    assert 'left out: the model cannot do "f_fruit": it is right on 0 of 8 examples' in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--subtask", "induction"], "a behaviour that is made in the tokens of a model"),
        (["--subtask", "a=greater"], "measure it in Python, with skilloc.tasks.behaviours.behaviours"),
        (["--subtask", "a=~nouser/x.jsonl"], 'no home folder for "~nouser/x.jsonl"; write the path out'),
        (["--subtask", "a=python", "--template", "{prompt} {answer}", "--prompt", "p"], "nothing is put for {answer}"),
    ],
)
def test_what_is_no_file_of_prompts_is_told(tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as stopped:
        main(["effects", "embedded", "--out", str(tmp_path / "out"), *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_one_long_prompt_of_many_is_left_out(tmp_path, capsys, caplog):
    path = tmp_path / "code.jsonl"
    rows = [{"prompt": f"def f({x}):\n    return", "answer": x} for x in "abcdefghijkl"]
    path.write_text("\n".join(map(json.dumps, [*rows, {"prompt": "x = 1\n" * 400, "answer": "y"}])))
    main([
        "effects", "embedded", "--out", str(tmp_path / "out"), "--subtask", f"f={path}", "--prompt", "prompt", "--loss",
        "answer", "--units", "head", "--only", "L0H0", "--sequences", "4", "--folds", "2", "--anyway",
    ])  # fmt: skip
    assert "f: accuracy" in capsys.readouterr().out
    assert 'left out 1 of 13 prompts of "f", of more than the 512 tokens' in caplog.text
