import json
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import token_budget
from _frame import analyse
from skilloc.models.language import EMBEDDED
from token_budget import TokenBudget, measure_budget

SOURCES = (f"{sysconfig.get_path('stdlib')}/asyncio/*.py",)
SMALL = TokenBudget(sequences=8, sources=SOURCES, length=16, curvature=0, folds=4)


@pytest.fixture(scope="module")
def cells() -> dict[int, tuple[dict, dict]]:
    if not (EMBEDDED / "config.json").exists():
        pytest.skip("train it: python analyses/train_embedded.py")
    return {n: measure_budget(replace(SMALL, sequences=n)) for n in (8, 64)}


def test_a_cell_measures_what_its_spec_says(cells: dict[int, tuple[dict, dict]]) -> None:
    for sequences, (metrics, arrays) in cells.items():
        effects = arrays["effects"]
        assert metrics["tokens"] == sequences * 16
        assert effects.dims == ("fold", "subtask", "unit")
        assert effects.values.shape == (4, 1, metrics["units"])
        found = metrics["subtasks"][SOURCES[0]]
        assert 0 < found["loss"] < np.log(2048) + 1
        assert found["mass"]["low"] <= found["mass"]["value"] <= found["mass"]["high"]


def test_the_same_spec_gives_the_same_numbers_and_another_seed_others(cells: dict[int, tuple[dict, dict]]) -> None:
    again, arrays = measure_budget(SMALL)
    assert json.dumps(again) == json.dumps(cells[8][0])
    assert np.array_equal(arrays["effects"].values, cells[8][1]["effects"].values)
    other, _ = measure_budget(replace(SMALL, seed=1))
    assert other["subtasks"][SOURCES[0]]["examples"] != again["subtasks"][SOURCES[0]]["examples"]


def test_more_text_makes_effects_agree_more_with_themselves(cells: dict[int, tuple[dict, dict]]) -> None:
    little, much = (cells[n][0]["subtasks"][SOURCES[0]]["reliability"] for n in (8, 64))
    assert much > little


@pytest.mark.parametrize(
    ("settings", "cure"),
    [({"sequences": 4}, "each fold needs a sequence"), ({"folds": 2}, "at least 3"), ({"curvature": -1}, "at least 0")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        TokenBudget(**settings)


def test_the_picture_is_drawn_from_the_record_alone(tmp_path: Path) -> None:
    def subtask(value: float | None) -> dict:
        ends = {"value": value, "low": 1.0, "high": 9.0, "chance": 9.0}
        return {"effective_number": ends, "effective_number_plain": 5.0, "reliability": 0.5}

    records = [
        {
            "spec": {"sources": ["b", "a"]},
            "metrics": {"tokens": tokens, "subtasks": {"a": subtask(3.0), "b": subtask(None)}},
        }
        for tokens in (100, 100, 200)
    ]
    (tmp_path / "token_budget.json").write_text(json.dumps({"scale": "quick", "records": records}))
    measure, draw = token_budget.measure, token_budget.draw
    given = ["--draw-only", "--figures", str(tmp_path)]
    analyse(token_budget.__file__, "", scales={"cpu": ()}, measure=measure, draw=draw, arguments=given)
    assert (tmp_path / "token_budget.png").stat().st_size > 10_000
    assert ">tokens per corpus<" in (tmp_path / "token_budget.svg").read_text()
