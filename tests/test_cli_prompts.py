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
