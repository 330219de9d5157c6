"""Rows of the files that people have: one reader, for the fields that are asked for and no other.

    .jsonl .ndjson .json    a JSON object per line, or one array of objects
    .csv .tsv               a header, then a row per line (or per quoted field)
    .parquet                only the columns of the fields are read
    .txt .md .py .rs ...    text: one row per file, whose only field is `text` (`formats.TEXTS` lists the suffixes)
    hub:owner/name          the train split of a dataset of the hub, of which the first `HUB` rows are read

Each may end in .gz, but for parquet, and in capitals. A folder stands for all files in it and below
that are of one of these kinds. Nothing is cut
off in silence: rows without a field are the caller's to count, and `Rows.sampled` says where rows were left unread.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Any

from skilloc.mistakes import WrongValue
from skilloc.tasks.formats import TABLES, ending_of, known, records, suffix_of

HUB = 20_000
"""Rows that are read of a dataset of the hub, which may have billions."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One row: the values of the fields that were asked for, None where it has none, and `file:number` from 0."""

    values: tuple[Any, ...]
    origin: str


@dataclass(frozen=True)
class Rows:
    """What a source holds.

    Attributes:
        rows: in the order of the files' paths, and of the rows in each.
        fields: all fields of the first row, for messages.
        sampled: whether there are more rows than were read.
    """

    rows: tuple[Row, ...]
    fields: tuple[str, ...]
    sampled: bool = False


def at_home(place: str | Path) -> Path:
    """Return a path, with the home folder for `~`.

    Raises:
        FileNotFoundError: if there is no such user.
    """
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f'no home folder for "{place}"; write the path out') from error


def split_source(source: str) -> tuple[str, str | None]:
    """Return the place and the field of `PLACE#FIELD`; a file that is called like the whole of it is the place."""
    if "#" not in source or at_home(source).exists():
        return source, None
    place, _, field = source.rpartition("#")
    return place, field or None


def read_rows(place: str, fields: Sequence[str]) -> Rows:
    """Read every row of a file, a folder, a glob or a dataset of the hub.

    Args:
        place: a path, with `~` for the home folder; one that exists is never read as a pattern. Or a glob, in which
            `**` goes into folders; or `hub:owner/name`.
        fields: names of columns or keys; `a.b` is the field `b` of the object `a`, where no field is called `a.b`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a glob or folder holds nothing to read, a suffix is unknown, tables and texts are mixed, two
            columns have one name, or a file is damaged, naming the row.
    """
    if not place:
        raise WrongValue("a source has no name; pass a file, a folder, a quoted glob or hub:owner/name")
    if place.startswith("hub:"):
        return _hub(place.removeprefix("hub:"), fields)
    files = _files(place)
    rows: list[Row] = []
    names: tuple[str, ...] = ()
    for path in files:
        for number, record in enumerate(records(path, fields)):
            names = names or tuple(map(str, record))
            rows.append(Row(tuple(value_of(record, field) for field in fields), f"{path}:{number}"))
    if not rows:
        raise WrongValue(f'"{place}" has no rows; pass a file that has some')
    return Rows(tuple(rows), names)


def _files(place: str) -> list[Path]:
    """Return the files of a place, in order of path, of one sort."""
    literal = at_home(place)
    if literal.is_file():
        found = [literal]
    elif literal.is_dir():
        below = (path for path in literal.rglob("*") if path.is_file())
        found = sorted(path for path in below if not any(p.startswith(".") for p in path.relative_to(literal).parts))
        home = literal.resolve()
        if outside := [path for path in found if not path.resolve().is_relative_to(home)]:
            raise WrongValue(
                f'"{outside[0]}" is a link that leads out of folder "{place}"; name what it leads to, or copy it there'
            )
        if not found:
            raise WrongValue(f'folder "{place}" holds no file; pass one that does')
        found = _readable(found, place)
    elif has_magic(place):
        found = sorted(path for name in glob(str(literal), recursive=True) if (path := Path(name)).is_file())
        if not found:
            raise WrongValue(f'glob "{place}" matches no file; quote it in the shell, and use ** to go into folders')
    else:
        raise FileNotFoundError(
            f'no file "{place}"; pass an existing file, a folder, a quoted glob, one of python, cpp, english, '
            "data.jsonl#field or hub:owner/name#field"
        )
    sorts = {suffix_of(path) in TABLES for path in found}
    if len(sorts) > 1:
        raise WrongValue(
            f'"{place}" holds both tables and texts; narrow it with a glob, such as "{place.rstrip("/")}/*.jsonl"'
        )
    return found


def _readable(files: list[Path], place: str) -> list[Path]:
    """Return the files of a folder that can be read as rows or texts; the others are counted and logged.

    Raises:
        ValueError: if there is none.
    """
    kept = [path for path in files if known(ending_of(path))]
    if not kept:
        suffix_of(files[0])  # says why
    if left := len(files) - len(kept):
        other = next(path for path in files if not known(ending_of(path)))
        _log.warning('left out %d of %d files of "%s", of no known kind, such as "%s"', left, len(files), place, other)
    return kept


def value_of(record: Mapping[str, Any], field: str) -> Any:
    """Return a field, by its whole name before by its path; None where there is none."""
    if field in record:
        return record[field]
    found: Any = record
    for part in field.split("."):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def _hub(name: str, fields: Sequence[str]) -> Rows:
    import datasets  # takes seconds to import

    try:
        every = datasets.load_dataset(name, split="train", streaming=True)
        names = tuple(every.column_names or ())
        tops = {field if field in names else field.partition(".")[0] for field in fields}
        chosen = every.select_columns([n for n in names if n in tops]) if tops & set(names) else every
        found = list(islice(chosen, HUB + 1))
    except Exception as error:  # the reader raises whatever its file format raises
        raise WrongValue(
            f'cannot read dataset "{name}" ({type(error).__name__}: {error}); check the name and the network, or pass '
            "a local file"
        ) from error
    rows = [
        Row(tuple(value_of(record, field) for field in fields), f"{name}:{number}")
        for number, record in enumerate(found[:HUB])
    ]
    return Rows(tuple(rows), names or tuple(found[0] if found else ()), sampled=len(found) > HUB)
