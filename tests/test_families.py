"""A part of the table of families (`analyses/families.py`): all works, by a fast route, with the right numbers."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ANALYSES = Path(__file__).resolve().parents[1] / "analyses"


@pytest.fixture(scope="module")
def families() -> Any:
    """The analysis as a module; its neighbour `_families` is found beside it, as when it is run."""
    sys.path.insert(0, str(ANALYSES))
    try:
        spec = importlib.util.spec_from_file_location("families", ANALYSES / "families.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ANALYSES))


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
def test_a_family(families: Any, name: str) -> None:
    right(families.try_family(name))


def test_the_record_in_figures_says_the_same_of_all() -> None:
    found = json.loads((ANALYSES.parent / "figures" / "families.json").read_text())["families"]
    assert len(found) >= 50
    refused = {(name, what) for name, row in found.items() for what, cell in row.items() if not cell["works"]}
    assert refused == {("OLMoE", "prune"), ("OLMoE", "relearn")}
    assert all(cell.get("traceback") is None for row in found.values() for cell in row.values())
    for name, row in found.items():
        right({what: cell for what, cell in row.items() if (name, what) not in refused})


def test_the_page_names_every_refusal(families: Any) -> None:
    record = json.loads((ANALYSES.parent / "figures" / "families.json").read_text())
    assert families.page(record) == (ANALYSES.parent / "docs" / "families.md").read_text()
    assert families.page(record).count("\n| ") == len(record["families"]) + 1
