"""Rows of the files that people have: one reader, for the fields that are asked for and no other.

    .jsonl .ndjson .json    a JSON object per line, or one array of objects
    .csv .tsv               a header, then a row per line (or per quoted field)
    .parquet                only the columns of the fields are read
    .txt .md .py .rs ...    text: one row per file, whose only field is `text` (`TEXTS` lists the suffixes)
    hub:owner/name          the train split of a dataset of the hub, of which the first `HUB` rows are read

Each may end in .gz, but for parquet, and in capitals. A folder stands for all files in it and below
that are of one of these kinds. Nothing is cut
off in silence: rows without a field are the caller's to count, and `Rows.sampled` says where rows were left unread.
"""

import csv
import gzip
import io
import json
import logging
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Any

from skilloc.mistakes import WrongValue

HUB = 20_000
"""Rows that are read of a dataset of the hub, which may have billions."""

TABLES = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet")
"""Suffixes of files with a row per example."""

TEXTS = frozenset(
    "txt text md markdown rst tex org adoc html htm xml svg css yaml yml toml ini cfg conf log srt vtt "  # noqa: SIM905
    "py pyi pyx ipynb rs c h cc cpp cxx hpp hh hxx cu cuh java kt scala js jsx mjs ts tsx go rb php pl pm r jl lua m "
    "mm swift cs fs vb hs ml mli clj ex exs erl lisp el scm nim zig d dart f f90 f95 for pas asm s sql sh bash zsh "
    "fish ps1 bat cmake mk gradle proto graphql vue svelte lean v sv vhd vhdl tcl".split()
)
"""Suffixes of files that are one text; a file without a suffix is one, too."""

PACKED = 200
"""Text is at most so many times as long as what gzip makes of it; of a smaller result nothing is asked."""

LEAST_PACKED = 100_000_000

BOM = b"\xef\xbb\xbf"
WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


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


def split_source(source: str) -> tuple[str, str | None]:
    """Return the place and the field of `PLACE#FIELD`; a file that is called like the whole of it is the place."""
    if "#" not in source or Path(source).expanduser().exists():
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
        for number, record in enumerate(_records(path, fields)):
            names = names or tuple(map(str, record))
            rows.append(Row(tuple(_value(record, field) for field in fields), f"{path}:{number}"))
    if not rows:
        raise WrongValue(f'"{place}" has no rows; pass a file that has some')
    return Rows(tuple(rows), names)


def _files(place: str) -> list[Path]:
    """Return the files of a place, in order of path, of one sort."""
    literal = Path(place).expanduser()
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
    sorts = {_suffix(path) in TABLES for path in found}
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
    kept = [path for path in files if _known(_ending(path))]
    if not kept:
        _suffix(files[0])  # says why
    if left := len(files) - len(kept):
        other = next(path for path in files if not _known(_ending(path)))
        _log.warning('left out %d of %d files of "%s", of no known kind, such as "%s"', left, len(files), place, other)
    return kept


def _ending(path: Path) -> str:
    """Return the suffix of a file without .gz."""
    return Path(path.name.lower().removesuffix(".gz").removesuffix(".")).suffix.removeprefix(".")


def _known(ending: str) -> bool:
    return not ending or ending.isdigit() or ending in TABLES or ending in TEXTS


def _suffix(path: Path) -> str:
    """Return the suffix that says how a file is read, without .gz.

    Raises:
        ValueError: if nothing is known of it.
    """
    found = _ending(path)
    if not _known(found):
        raise WrongValue(
            f'"{path}" ends in ".{found}", which is neither a table ({", ".join(TABLES)}, each also .gz) nor a known '
            "kind of text; convert it, or rename it to end in .txt if it is UTF-8 text"
        )
    return found


def _records(path: Path, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    suffix = _suffix(path)
    try:
        if suffix == "parquet":
            yield from _parquet(path, fields)
            return
        data = _unpacked(path) if path.name.lower().endswith(".gz") else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise WrongValue(f'cannot unpack "{path}" ({error}); check that it is whole') from error
    if data[:2] in WIDE:
        raise WrongValue(f'"{path}" is in {WIDE[data[:2]]}, from row 0 on; {_cure(path, WIDE[data[:2]])}')
    data = data.removeprefix(BOM)
    if suffix in ("csv", "tsv"):
        yield from _table(path, data, "," if suffix == "csv" else "\t")
    elif suffix in TABLES:
        yield from _json(path, data)
    else:
        yield {"text": _decoded(path, data, None)}


def _unpacked(path: Path) -> bytes:
    """Return what is in a .gz file, unless it is so much more than the file that it is no text."""
    most = max(PACKED * path.stat().st_size, LEAST_PACKED)
    with gzip.open(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise WrongValue(
            f'"{path}" unpacks to more than {most / 1e6:,.0f} MB, {PACKED} times its size, as no text does; unpack it '
            "yourself if it is to be read"
        )
    return data


def _decoded(path: Path, data: bytes, row: int | None) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f'"{path}" is not UTF-8 text' if row is None else f'row {row} of "{path}" is not UTF-8'
        raise WrongValue(
            f"{place} (byte 0x{data[error.start]:02x} at {error.start}, perhaps Windows-1252 or Latin-1); "
            f"{_cure(path, 'WINDOWS-1252')}"
        ) from error


def _cure(path: Path, encoding: str) -> str:
    return f"convert the file, such as by iconv -f {encoding} -t UTF-8, and pass what comes of it"


def _json(path: Path, data: bytes) -> Iterator[Mapping[str, Any]]:
    """Objects, one per line, or all in one array, or one over many lines."""
    head = data.lstrip()[:1]
    if head == b"[":
        parsed = _parsed(path, _decoded(path, data, None), "")
        yield from ({"": None} if not isinstance(one, Mapping) else one for one in parsed)
        return
    lines = [line for line in data.split(b"\n") if line.strip()]
    whole = len(lines) > 1 and lines[0].strip() == b"{"
    for number, line in enumerate([data] if whole else lines):
        found = _parsed(path, _decoded(path, line, number), f"row {number} of ")
        # What is no object has no fields.
        yield found if isinstance(found, Mapping) else {"": None}


def _parsed(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise WrongValue(f'{where}"{path}" is not JSON ({error}); check that it is whole') from error


def _table(path: Path, data: bytes, delimiter: str) -> Iterator[Mapping[str, Any]]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        # A quoted field may hold lines, so this may be one too high; it is where to look.
        text = _decoded(path, data, max(0, data[: error.start].count(b"\n") - 1))
    before = csv.field_size_limit(sys.maxsize)  # the setting is the process's; documents are longer than its default
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(reader, [])
        if twice := [name for name, count in Counter(header).items() if name and count > 1]:
            raise WrongValue(f'"{path}" has {header.count(twice[0])} columns "{twice[0]}"; give each its own name')
        number = 0
        for cells in reader:
            if not cells:
                continue
            if len(cells) > len(header):
                raise WrongValue(
                    f'row {number} of "{path}" has {len(cells)} fields but its header {len(header)}; quote fields that '
                    f"hold a {'comma' if delimiter == ',' else 'tab'}"
                )
            yield dict(zip(header, cells, strict=False))
            number += 1
    except csv.Error as error:
        raise WrongValue(f'cannot read "{path}" near line {reader.line_num} ({error}); mend its quotes') from error
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            tops = {field if field in names else field.partition(".")[0] for field in fields}
            columns = [name for name in names if name in tops]
            for batch in file.iter_batches(columns=columns or names):
                for record in batch.to_pylist():
                    yield {**dict.fromkeys(names), **record}
    except (pyarrow.ArrowException, OSError) as error:
        raise WrongValue(f'cannot read "{path}" ({str(error).splitlines()[0]}); check that it is whole') from error


def _value(record: Mapping[str, Any], field: str) -> Any:
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
        Row(tuple(_value(record, field) for field in fields), f"{name}:{number}")
        for number, record in enumerate(found[:HUB])
    ]
    return Rows(tuple(rows), names or tuple(found[0] if found else ()), sampled=len(found) > HUB)
