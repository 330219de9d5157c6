"""Documents: the texts that language subtasks are made of.

They come from files and datasets (`reading`), or from three corpora that every machine has once skilloc is
installed. What the built-in corpora hold depends on the versions installed (Python itself, torch, and for English the
packages of `ENGLISH`): results carry a hash of the documents, so another version is seen and not mistaken for this one.
The three are disjoint: the standard library's docstrings stay in `python` and are left out of `english`.
"""

import ast
import importlib.util
import logging
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from skilloc.mistakes import NotInstalled, WrongValue
from skilloc.tasks.reading import HUB, read_rows, split_source

BUILTIN = ("python", "cpp", "english")
"""The corpora that need no files: standard library source, torch's headers, prose from docstrings."""

ENGLISH = (
    *("torch", "numpy", "sympy", "mpmath", "networkx", "pandas", "matplotlib", "transformers", "huggingface_hub"),
    *("transformer_lens", "dask", "distributed", "tornado", "pydantic", "rich", "tyro", "fsspec", "jinja2", "torchgen"),
    *("accelerate", "datasets", "wandb", "fontTools", "PIL", "yaml", "packaging"),
)
"""Packages whose docstrings make the English corpus: what skilloc requires, directly or through torch."""

LARGEST = 200_000
"""Source files of more characters than this are tables written by programs, and are left out of built-in corpora."""

# Tests, other people's packages, tables of characters, prose in disguise, and what differs from one build to the next.
NOT_PYTHON = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
NOT_PYTHON |= {"lib2to3", "ensurepip"}
BUILD_FILE = re.compile(r"(_sysconfigdata|config-)")
# 7,000 generated files, and other projects' headers that only some builds of torch carry.
NOT_CPP = ("ATen/ops/", "google/", "kineto", "nvtx", "oneapi/")

HEADING = re.compile(r"^[^\n]*\n[ \t]*([-=~^*\"+#])\1{2,}[ \t]*$", re.MULTILINE)
PARAMETER = re.compile(r"^[ \t]*[\w*, .]{1,40} : |^[ \t]*[\w*]+ ?(\([^)]*\))?:(\s|$)|^[ \t]*:\w+", re.MULTILINE)
ROLE = re.compile(r":[a-z:]+:`~?(?:[^`<]*<)?([^`>]*)>?`")
BLANK = re.compile(r"\n[ \t]*\n")
SURROGATE = re.compile("[\ud800-\udfff]")
WORD = re.compile(r"[A-Za-z']+")
SMALL_WORDS = frozenset(
    "a all also an and any are as at be been but by can each for from has have if in into is it its may more no not of "  # noqa: SIM905
    "on one only or other should so such than that the then there these they this to use used was we when where which "
    "will with you".split()
)


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One text and where it comes from, as `source` or `source:part`."""

    text: str
    origin: str


class Documents(list[Document]):
    """Documents, with what was left out on the way.

    Attributes:
        skipped: number of rows without text in the field.
        sampled: whether there are more rows than were read.
    """

    skipped: int = 0
    sampled: bool = False

    @property
    def record(self) -> dict[str, object]:
        """What results say of it: nothing where nothing was left out. JSON only."""
        skipped = {"skipped": self.skipped} if self.skipped else {}
        return {**skipped, **({"sampled": f"the first {HUB:,} rows"} if self.sampled else {})}


def documents(source: str) -> Documents:
    """Read documents by the one spelling that the command line uses.

    Rows without text in the field are skipped, counted and logged.

    Args:
        source: `python`, `cpp` or `english` (built in); or `PLACE#FIELD`, as `reading.read_rows` takes it: a file, a
            folder or a glob such as `src/**/*.rs` (one document per text, one per row of a table), or
            `hub:owner/name`. Without `#FIELD`, the field is `text`.

    Raises:
        ValueError: if nothing is found, or no row has text in the field.
        FileNotFoundError: if a file does not exist.
    """
    if source in BUILTIN:
        return Documents(builtin_documents(source))
    place, asked = split_source(source)
    field = asked or "text"
    read = read_rows(place, [field])
    found = Documents(Document(row.values[0], row.origin) for row in read.rows if is_text(row.values[0]))
    found.skipped, found.sampled = len(read.rows) - len(found), read.sampled
    if not found:
        if field in read.fields:
            raise WrongValue(f'"{place}" holds no text in its {len(read.rows)} rows; pass more documents')
        have = ", ".join(name for name in read.fields if name) or "none"
        raise WrongValue(
            f'none of the {len(read.rows)} rows of "{place}" has text in `field` "{field}"; their fields are {have}: '
            f"pass {place}#FIELD"
        )
    if found.skipped:
        _log.warning('skipped %d of %d rows of "%s", without text in "%s"', found.skipped, len(read.rows), place, field)
    if found.sampled:
        _log.warning('"%s" has more rows than the %d that were read', place, HUB)
    return found


def is_text(value: object) -> bool:
    """Whether a value is text with something in it that can be written in UTF-8."""
    return isinstance(value, str) and bool(value.strip()) and not SURROGATE.search(value)


def builtin_documents(name: str) -> list[Document]:
    """Read a built-in corpus: about 10 MB of Python, C++ or English, in one to four seconds.

    Raises:
        ValueError: if there is no such corpus.
    """
    if name == "python":
        return list(_python())
    if name == "cpp":
        return list(_cpp())
    if name == "english":
        return list(_english())
    raise WrongValue(f'unknown corpus "{name}"; built in are {", ".join(BUILTIN)}')


def _read(paths: Sequence[Path], root: Path, source: str) -> Iterator[Document]:
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text.strip()) > 0 and len(text) <= LARGEST:
            yield Document(text, f"{source}:{path.relative_to(root).as_posix()}")


def _python() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    chosen = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not NOT_PYTHON.intersection(parts) and not BUILD_FILE.match(parts[0]):
            chosen.append(path)
    return _read(chosen, root, "python")


def _cpp() -> Iterator[Document]:
    root = _package("torch") / "include"
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".h", ".hpp"))
    return _read([path for path in paths if not path.relative_to(root).as_posix().startswith(NOT_CPP)], root, "cpp")


def _package(name: str) -> Path:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise NotInstalled(f'package "{name}" is not installed; run pip install {name}')
    return Path(spec.origin).parent


def _english() -> Iterator[Document]:
    seen: set[str] = set()
    for name, text in _topics().items():
        kept = prose(text, seen)
        if len(kept) >= 200:
            yield Document(kept, f"english:topics/{name}")
    for package in ENGLISH:
        if importlib.util.find_spec(package) is None:
            continue
        root = _package(package)
        for path in sorted(root.rglob("*.py")):
            if {"test", "tests"}.intersection(path.relative_to(root).parts):
                continue
            source = path.read_text(encoding="utf-8", errors="replace")
            pieces = source.split('"""')[1::2]  # ast takes ten times as long; what is no docstring is no prose either
            kept = prose("\n\n".join(pieces), seen)
            if len(kept) >= 200:
                yield Document(kept, f"english:{package}/{path.relative_to(root).as_posix()}")


def _topics() -> dict[str, str]:
    """Python's own reference manual, which `help()` shows."""
    path = Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py"
    if not path.is_file():
        return {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            return dict(ast.literal_eval(node.value))
    return {}


def prose(text: str, seen: set[str]) -> str:
    """Keep the paragraphs of `text` that read as English, each on one line, and note them in `seen`.

    A paragraph stays if it is at least 60 characters and 10 words long, begins like a sentence and ends like one, holds
    no doctest and no table of parameters, and consists of letters (90 %) and of small English words (a quarter). One
    that is in `seen` already is dropped, as docstrings are copied from module to module.
    """
    kept = []
    for paragraph in BLANK.split(HEADING.sub("\n", text)):
        body = paragraph.strip()
        if len(body) < 60 or not body[0].isupper() or body[-1] not in ".:!?)" or ">>>" in body:
            continue
        line = " ".join(body.split())
        if len(line) < 60 or line in seen or PARAMETER.search(paragraph):
            continue
        line = ROLE.sub(r"\1", line).replace("`", "")
        words = WORD.findall(line)
        letters = sum(map(len, words)) + line.count(" ")
        small = sum(map(SMALL_WORDS.__contains__, map(str.lower, words)))
        if len(words) >= 10 and letters >= 0.9 * len(line) and small >= 0.25 * len(words) and line not in seen:
            seen.add(line)
            kept.append(line)
    return "\n\n".join(kept)
