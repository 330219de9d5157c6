"""Subtasks of prompts with answers: facts, multiple choice, question-answer pairs, from files or from rows.

    facts = prompts("facts.jsonl", encode, Asked(prompt="prompt", group="relation", subject="subject"))

The answer's tokens are those that the text of prompt and answer together has beyond the prompt's own, as lm-eval takes
them: spaces at the prompt's end go to the answer.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from skilloc.mistakes import WrongValue
from skilloc.tasks.asked import LETTERS, Asked
from skilloc.tasks.corpora import BUILTIN, is_text
from skilloc.tasks.examples import Examples
from skilloc.tasks.items import Item, answer_baseline, distinct, split_items
from skilloc.tasks.reading import read_rows
from skilloc.tasks.rows import Encode, examples_of, spaced
from skilloc.tasks.subtask import Split, Subtask

_log = logging.getLogger(__name__)

Source = str | Sequence[Mapping[str, Any]]
"""A file, folder, glob or dataset of the hub as `reading.read_rows` takes it; or rows in memory."""


def prompts(
    source: Source, encode: Encode, asked: Asked = Asked(prompt="prompt"), *, name: str = "prompts",  # noqa: B008
    first: int | None = None, least: int = 1,
) -> dict[str, Subtask]:  # fmt: skip
    """Make subtasks of rows that have a prompt and an answer: one, or one per group.

    Args:
        source: where the rows come from.
        encode: token ids of each text, without special tokens.
        asked: which fields say what, and how prompts are put.
        name: of the subtask; with groups, those are called NAME_GROUP.
        first: the id that every row begins with; None for none.
        least: leave out groups with fewer items than this in a split, saying so.

    Raises:
        ValueError: if no row has a prompt and an answer, or every group is smaller than `least`.

    Example:
        >>> import skilloc as sk
        >>> rows = [{"prompt": f"{a:02} plus one is", "answer": str(a + 1)} for a in range(30)]
        >>> made = sk.prompts(rows, lambda texts: [list(text.encode()) for text in texts])
        >>> made["prompts"].draw(3).at["last"]
        tensor([13, 13, 13])
    """
    items, skipped = _items(source, asked)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(f"{name}_{item.group}".replace(" ", "_") if asked.group else name, []).append(item)
    made = {}
    for called, own in groups.items():
        kept = distinct(own, called)
        splits = split_items(kept, asked.rotation)
        smallest = min(map(len, splits.values()))
        if smallest < least and asked.group:
            _log.warning('left out "%s": %d items, %d in its smallest split, of %d', called, len(kept), smallest, least)
            continue
        made[called] = _subtask(
            called, splits, encode, asked, first, {"skipped": skipped, "twice": len(own) - len(kept)}
        )
    if not made:
        largest = max(map(len, groups.values()))
        raise WrongValue(
            f'`least` is {least}, but the largest group of "{name}" has {largest} items in all; ask for fewer examples'
        )
    return made


def choices(
    source: Source, encode: Encode, asked: Asked = Asked(prompt="question", choices="choices"), *,  # noqa: B008
    name: str = "choices", first: int | None = None, least: int = 1,
) -> dict[str, Subtask]:  # fmt: skip
    """Make subtasks of multiple choice; `prompts` with the fields of lm-eval's local files (ARC, MMLU, WMDP).

    Example:
        >>> import skilloc as sk
        >>> rows = [{"question": f"{a}+1?", "choices": [str(a), str(a + 10)], "answer": 1} for a in range(30)]
        >>> made = sk.choices(rows, lambda texts: [list(text.encode()) for text in texts])
        >>> made["choices"].draw(3).owner
        tensor([0, 0, 1, 1, 2, 2])
    """
    if asked.choices is None:
        raise WrongValue("`asked` names no field of `choices`; pass Asked(prompt=..., choices=...), or call prompts")
    return prompts(source, encode, asked, name=name, first=first, least=least)


def item_subtask(
    name: str, items: Sequence[Item], encode: Encode, *, first: int | None = None, pad: str = "right"
) -> Subtask:
    """Make a subtask of items, as `prompts` does of rows; their prompts are put as they are."""
    kept = distinct(items, name)
    return _subtask(name, split_items(kept), encode, Asked(prompt="prompt", pad=pad), first, {})


def _items(source: Source, asked: Asked) -> tuple[list[Item], int]:
    fields = asked.fields
    if isinstance(source, str):
        if source in BUILTIN and not Path(source).exists():
            raise WrongValue(
                f'"{source}" is running text and has no prompts; name a file of rows, or leave `prompt` out'
            )
        read = read_rows(source, fields)
        rows = [(dict(zip(fields, row.values, strict=True)), row.origin) for row in read.rows]
        have, where = read.fields, source
    else:
        rows = [(dict(row), f"row {number}") for number, row in enumerate(source)]
        have, where = tuple(rows[0][0]) if rows else (), "the rows"
    found = [item for row, origin in rows if (item := _item(row, origin, asked)) is not None]
    skipped = len(rows) - len(found)
    if not found:
        raise WrongValue(
            f'none of the {len(rows)} rows of "{where}" has `prompt` "{asked.prompt}" and `answer` "{asked.answer}"'
            + (f' and `choices` "{asked.choices}"' if asked.choices else "")
            + f"; their fields are {', '.join(have) or 'none'}: name two of them"
        )
    if skipped:
        _log.warning('skipped %d of %d rows of "%s", without a prompt or an answer', skipped, len(rows), where)
    return found, skipped


def _item(row: Mapping[str, Any], origin: str, asked: Asked) -> Item | None:
    """Return the item of a row; None if it has no prompt or no answer."""

    def text(field: str | None) -> str:
        value = row.get(field) if field else None
        return value if is_text(value) and isinstance(value, str) else ""

    answer = row.get(asked.answer, row.get("answerKey"))
    answer = row.get("answerKey") if answer is None else answer
    prompt = text(asked.prompt)
    if not prompt or answer is None or (isinstance(answer, str) and not is_text(answer)):
        return None
    subject, group = text(asked.subject) or prompt, str(row.get(asked.group or "", "") or "")
    if asked.choices:
        given = row.get(asked.choices)
        options, labels = _options(given)
        if len(options) < 2:
            return None
        right = _right(answer, options, labels, origin)
        said = tuple(f" {letter}" for letter in LETTERS[: len(options)]) if asked.by == "letter" else options
        put = asked.put(prompt, options)
        said = tuple(spaced(put, option) for option in said)
        return Item(
            put,
            said[right],
            wrong=(*said[:right], *said[right + 1 :]),
            options=said,
            right=right,
            subject=subject,
            group=group,
        )
    put = asked.put(prompt)
    wrong = row.get(asked.wrong or "") or []
    twin = text(asked.corrupted)
    return Item(
        put,
        spaced(put, str(answer)),
        wrong=tuple(spaced(put, str(one)) for one in ([wrong] if isinstance(wrong, str) else wrong)),
        corrupted=asked.put(twin) if twin else None,
        subject=subject,
        group=group,
    )


def _options(given: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of options and their labels: of a list, letters."""
    if isinstance(given, Mapping):
        texts = tuple(map(str, given.get("text") or ()))
        return texts, tuple(map(str, given.get("label") or LETTERS[: len(texts)]))
    texts = tuple(map(str, given)) if isinstance(given, list | tuple) else ()
    return texts, tuple(LETTERS[: len(texts)])


def _right(answer: Any, options: tuple[str, ...], labels: tuple[str, ...], origin: str) -> int:
    if isinstance(answer, int) and 0 <= answer < len(options):
        return answer
    for known in (labels, options):
        if str(answer) in known:
            return known.index(str(answer))
    if str(answer).isdecimal() and int(answer) < len(options):
        return int(answer)
    raise WrongValue(
        f'`answer` of {origin} is "{answer}", which is none of the options {", ".join(labels)}; give the number from '
        "0, the label or the text of one"
    )


def _subtask(
    name: str,
    splits: Mapping[Split, list[Item]],
    encode: Encode,
    asked: Asked,
    first: int | None,
    left: Mapping[str, int],
) -> Subtask:
    def sample(n: int, split: Split, seed: int) -> Examples:
        chosen = chosen_items(splits, n, split, seed, asked.shots, name)
        return examples_of(chosen, encode, first=first, pad=asked.pad)

    def shown(n: int, split: Split, seed: int) -> list[Item]:
        return chosen_items(splits, n, split, seed, asked.shots, name)

    baseline = answer_baseline(splits["train"], splits["report"])
    counts = {split: len(own) for split, own in splits.items()}
    made = {
        "family": "prompts",
        "asked": asdict(asked),
        "items": counts,
        "answers": len({item.answer for own in splits.values() for item in own}),
        "baseline": baseline._asdict(),
        "add_bos": first is not None,
        **{key: value for key, value in left.items() if value},
    }
    return Subtask(name, sample, made=made, items=shown)


def chosen_items(
    splits: Mapping[Split, list[Item]], n: int, split: Split, seed: int, shots: int, name: str
) -> list[Item]:
    """Return n items of a split, in the order of the split, each behind `shots` answered ones of the train split."""
    generator = torch.Generator().manual_seed(seed)
    train = splits["train"]
    shown = [train[i] for i in torch.randperm(len(train), generator=generator)[:shots].tolist()]
    keys = {item.key for item in shown}
    pool = [item for item in splits[split] if item.key not in keys]
    if len(pool) < n or len(shown) < shots:
        counts = ", ".join(f"{len(own)} {key}" for key, own in splits.items())
        raise WrongValue(
            f'{n} examples are too many: the {split} split of subtask "{name}" has {len(pool)} items ({counts}; '
            f"`shots` {shots}); draw fewer or from another split, or pass more rows"
        )
    order = torch.randperm(len(pool), generator=generator)[:n].sort().values.tolist()
    before = "".join(f"{item.prompt}{item.answer}\n\n" for item in shown)
    return [
        replace(
            pool[i],
            prompt=before + pool[i].prompt,
            subject=pool[i].subject,
            corrupted=None if (twin := pool[i].corrupted) is None else before + twin,
        )
        for i in order
    ]
