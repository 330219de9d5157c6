"""Records of one file, whatever its kind: tables by their suffix, and texts, each packed by gzip or not."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skilloc.mistakes import WrongValue

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
WIDE = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""What files in wide letters begin with, longer marks before those that they begin with."""


def ending_of(path: Path) -> str:
    """Return the suffix of a file without .gz."""
    return Path(path.name.lower().removesuffix(".gz").removesuffix(".")).suffix.removeprefix(".")


def known(ending: str) -> bool:
    """Whether files with this suffix can be read; one without a suffix, or with a number, is a text."""
    return not ending or ending.isdigit() or ending in TABLES or ending in TEXTS


def suffix_of(path: Path) -> str:
    """Return the suffix that says how a file is read, without .gz.

    Raises:
        ValueError: if nothing is known of it.
    """
    found = ending_of(path)
    if not known(found):
        raise WrongValue(
            f'"{path}" ends in ".{found}", which is neither a table ({", ".join(TABLES)}, each also .gz) nor a known '
            "kind of text; convert it, or rename it to end in .txt if it is UTF-8 text"
        )
    return found


def records(path: Path, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Give the records of a file, of a parquet file with the columns of the fields only.

    Raises:
        ValueError: if it cannot be read, naming the row where that is known.
    """
    suffix = suffix_of(path)
    try:
        if suffix == "parquet":
            yield from _parquet(path, fields)
            return
        data = _unpacked(path) if path.name.lower().endswith(".gz") else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise WrongValue(f'cannot unpack "{path}" ({error}); check that it is whole') from error
    if wide := next((name for mark, name in WIDE.items() if data.startswith(mark)), None):
        raise WrongValue(f'"{path}" is in {wide}, from row 0 on; {_cure(path, wide)}')
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
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a whole number of thousands of digits, which Python does not turn into one
            return json.loads(text, parse_int=str)
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
