import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import skilloc

HEAVY = ("torch", "transformers", "transformer_lens", "matplotlib", "numpy", "pandas", "rich.table", "dask", "pydantic")


def fresh(code: str) -> list[str]:
    """Run code in a new interpreter, and return which heavy modules it has imported."""
    report = f"\nimport json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_imports_nothing_heavy():
    assert fresh("import skilloc; dir(skilloc)") == []


def test_looking_at_units_needs_no_torch():
    assert fresh("from skilloc import Effects, Mask, locality, store\nfrom skilloc.units import Units") == ["numpy"]


@pytest.mark.parametrize("args", [[], ["effects"], ["locality"], ["removal"], ["show"], ["fetch"], ["demo"], ["sweep"]])
def test_help_imports_nothing_heavy(args):
    code = f"""
import contextlib
from skilloc.cli import main
with contextlib.suppress(SystemExit):
    main({[*args, "--help"]!r})
import time
assert time.process_time() < 1, time.process_time()"""
    assert fresh(code) == []


def test_every_public_name_is_there_and_where_type_checkers_find_it():
    stub = Path(skilloc.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    typed = {
        alias.asname: statement.module
        for statement in ast.parse(stub).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == skilloc._HOME
    for name in skilloc.__all__:
        assert getattr(skilloc, name) is not None
    assert dir(skilloc) == skilloc.__all__


def test_public_names_are_few_and_documented():
    assert len(skilloc.__all__) <= 40
    for name in skilloc.__all__:
        assert (getattr(skilloc, name).__doc__ or "").strip(), name


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="ablation_effects"):
        skilloc.ablate  # noqa: B018


def test_submodules_can_still_be_imported():
    assert importlib.import_module("skilloc.masks").Mask is skilloc.Mask


def test_the_version_is_told(capsys):
    from skilloc.cli import main

    main(["--version"])
    assert capsys.readouterr().out == f"skilloc {skilloc.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "skilloc", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"skilloc {skilloc.__version__}\n"
