"""The pages hang together: each is in the table of contents, links lead somewhere, every public name has its noun."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import skilloc

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*DOCS.glob("*.md"), *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md"))]


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    """The settings of the pages, which hold the nouns."""
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_under_one_noun(conf: ModuleType) -> None:
    named = [name for names in conf.NOUNS.values() for name in names]
    assert sorted(named) == skilloc.__all__


def test_every_page_is_in_the_table_of_contents_once() -> None:
    trees = re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(entries) == sorted([*(page.stem for page in DOCS.glob("*.md") if page.stem != "index"), "api/index"])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        there = target.startswith("https://") or (page.parent / target).exists()
        assert there or target == "api/index", target  # made with the pages


def test_the_words_are_explained() -> None:
    page = (DOCS / "words.md").read_text(encoding="utf-8")
    for word in ("subtask", "unit axis", "reference", "effect", "experiment", "mask", "control", "verdict", "circuit"):
        assert f"| {word} |" in page or f"| {word}," in page, word


def test_version_and_home_are_said_alike() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.*)"$', project, flags=re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (home,) = re.findall(r"^repository-code: (.*)$", citation, flags=re.MULTILINE)
    assert f'"{home}"' in project


@pytest.mark.long
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-d", tmp_path / "trees", DOCS, tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = (tmp_path / "html" / "api" / "effects.html").read_text(encoding="utf-8")
    assert 'id="skilloc.ablation_effects"' in made
