"""A part of the table of families (`analyses/families.py`): all works, by a fast route, with the right numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

import families

ROOT = Path(__file__).parents[1]


def right(row: dict[str, Any]) -> None:
    for what, cell in row.items():
        assert cell["works"], (what, cell)
        if what.startswith("effects"):
            assert cell["apart"] <= 1e-5 * max(1.0, cell["largest"]), what
            assert "whole" not in cell["ways"], what
        elif what == "attribution":
            assert cell["apart"] <= 1e-3 * max(1.0, cell["largest"])
        elif "apart" in cell:
            assert cell["apart"] <= 1e-5, what


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:there is one rate")
@pytest.mark.parametrize("name", ["GPT-2", "Gemma 2", "OPT", "Qwen 3, mixture"])
def test_a_family(name: str) -> None:
    right(families.try_family(name))


def test_the_record_in_figures_says_the_same_of_all() -> None:
    found = json.loads((ROOT / "figures" / "families.json").read_text())["families"]
    assert len(found) >= 50
    refused = {(name, what) for name, row in found.items() for what, cell in row.items() if not cell["works"]}
    assert refused == {("OLMoE", "prune"), ("OLMoE", "relearn")}
    assert all(cell.get("traceback") is None for row in found.values() for cell in row.values())
    for name, row in found.items():
        right({what: cell for what, cell in row.items() if (name, what) not in refused})


def test_the_page_names_every_refusal() -> None:
    record = json.loads((ROOT / "figures" / "families.json").read_text())
    assert families.page(record) == (ROOT / "docs" / "families.md").read_text()
    assert families.page(record).count("\n| ") == len(record["families"]) + 1
