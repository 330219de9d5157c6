"""Rows of a file as items: which fields they must have, and what is left out with its reason."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skilloc.mistakes import WrongValue
from skilloc.tasks.asked import LETTERS, Asked
from skilloc.tasks.corpora import BUILTIN
from skilloc.tasks.items import Item
from skilloc.tasks.options import UnusableError, options_of, right_of, text_of, what_is
from skilloc.tasks.reading import read_rows, value_of
from skilloc.tasks.rows import spaced

_log = logging.getLogger(__name__)

Source = str | Sequence[Mapping[str, Any]]
"""A file, folder, glob or dataset of the hub as `reading.read_rows` takes it; or rows in memory."""

KEY = "answerKey"
"""ARC's own name for the field of the answer, where no other is asked for."""


class _Row(NamedTuple):
    """The fields of a row that are asked for, and where it comes from."""

    values: Mapping[str, Any]
    origin: str

    def need(self, name: str, field: str) -> Any:
        """Return a field that must be there."""
        value = self.values.get(field)
        if value is None or (isinstance(value, str) and text_of(value) is None):
            raise UnusableError(f'without `{name}` "{field}"')
        return value

    def text(self, name: str, field: str) -> str:
        """Return a field that must be text, or a number."""
        value = self.need(name, field)
        if (said := text_of(value)) is None:
            raise UnusableError(f'whose `{name}` "{field}" is {what_is(value)}')
        return said

    def told(self, name: str, field: str | None) -> str:
        """Return text, a number, or true or false, as text; nothing where there is none.

        Raises:
            ValueError: if it is something else, by which rows cannot be told apart.
        """
        value = None if field is None else self.values.get(field)
        if isinstance(value, list | tuple | Mapping):
            raise WrongValue(
                f'`{name}` "{field}" of {self.origin} is {what_is(value)}; name a field of text or of numbers'
            )
        return str(value) if isinstance(value, bool) else text_of(value) or ""


def items_of(source: Source, asked: Asked) -> tuple[list[Item], int]:
    """Return the items of some rows, and the number of rows that were left out, each with its reason in the log.

    Raises:
        ValueError: if no row has one of the fields that are asked for, none can be asked, or one contradicts itself.
    """
    rows, have, where = _read(source, asked)
    answer = _answer(rows, asked)
    for name, field in asked.named.items():
        if not any(row.values.get(field if name != "answer" else answer) is not None for row in rows):
            raise WrongValue(
                f'none of the {len(rows)} rows of "{where}" has `{name}` "{field}"; their fields are '
                f"{', '.join(have) or 'none'}: name one of them"
            )
    found, left = list[Item](), dict[str, list[str]]()
    for row in rows:
        try:
            found.append(_item(row, answer, asked))
        except UnusableError as reason:
            left.setdefault(str(reason), []).append(row.origin)
    reasons = ", ".join(f"{len(own)} {reason} ({own[0]})" for reason, own in left.items())
    if not found:
        raise WrongValue(f'none of the {len(rows)} rows of "{where}" can be asked: {reasons}; name other fields')
    if left:
        _log.warning('skipped %d of %d rows of "%s": %s', len(rows) - len(found), len(rows), where, reasons)
    untold = sum(not row.told("subject", asked.subject) for row in rows)
    if asked.subject and untold:
        _log.warning('%d of %d rows of "%s" have no `subject`; each is about its own prompt', untold, len(rows), where)
    return found, len(rows) - len(found)


def _read(source: Source, asked: Asked) -> tuple[list[_Row], tuple[str, ...], str]:
    """Return the rows, the fields of the first one, and how messages call all of them."""
    fields = (*asked.named.values(), KEY)
    if isinstance(source, str):
        if source in BUILTIN and not Path(source).exists():
            raise WrongValue(
                f'"{source}" is running text and has no prompts; name a file of rows, or leave `prompt` out'
            )
        read = read_rows(source, fields)
        rows = [_Row(dict(zip(fields, row.values, strict=True)), row.origin) for row in read.rows]
        return rows, read.fields, source
    rows = [_Row({name: value_of(row, name) for name in fields}, f"row {n}") for n, row in enumerate(source)]
    return rows, tuple(source[0]) if source else (), "the rows"


def _answer(rows: Sequence[_Row], asked: Asked) -> str:
    """Return the field of the answer: ARC's own where nothing else is asked for and no row has what is usual."""
    usual = asked.answer != Asked.answer or any(row.values.get(asked.answer) is not None for row in rows)
    return asked.answer if usual else KEY


def _item(row: _Row, answer: str, asked: Asked) -> Item:
    """Return the item of a row.

    Raises:
        UnusableError: if the row has not what is asked for.
    """
    assert asked.prompt is not None
    prompt = row.need("prompt", asked.prompt)
    if not isinstance(prompt, str):
        raise UnusableError(f'whose `prompt` "{asked.prompt}" is {what_is(prompt)}')
    group = row.told("group", asked.group)
    if asked.group and not group:
        raise UnusableError(f'without `group` "{asked.group}"')
    subject = row.told("subject", asked.subject) or prompt
    twin = None if asked.corrupted is None else row.text("corrupted", asked.corrupted)
    if asked.choices:
        options = options_of(row.need("choices", asked.choices), f'`choices` "{asked.choices}"')
        right = right_of(row.need("answer", answer), options, row.origin)
        texts = options.texts
        if asked.by == "letter" and len(texts) > len(LETTERS):
            raise WrongValue(f'{row.origin} has {len(texts)} options, more than there are letters; use `by` "text"')
        put = asked.put(prompt, texts)
        said = tuple(spaced(put, one) for one in (tuple(LETTERS[: len(texts)]) if asked.by == "letter" else texts))
        wrong = (*said[:right], *said[right + 1 :])
    else:
        texts, right, put = (), 0, asked.put(prompt)
        said = (spaced(put, row.text("answer", answer)),)
        wrong = () if asked.wrong is None else _wrong(row, asked.wrong, put)
        if said[0] in wrong:
            raise UnusableError("whose right answer is a wrong one as well")
    return Item(
        put, said[right], subject, wrong, None if twin is None else asked.put(twin, texts), group,
        said if texts else (), right,
    )  # fmt: skip


def _wrong(row: _Row, field: str, put: str) -> tuple[str, ...]:
    given = row.need("wrong", field)
    texts = [text_of(one) for one in (given if isinstance(given, list | tuple) else [given])]
    if not texts or None in texts:
        raise UnusableError(f'whose `wrong` "{field}" is no text and no list of texts')
    return tuple(dict.fromkeys(spaced(put, text) for text in texts if text is not None))
