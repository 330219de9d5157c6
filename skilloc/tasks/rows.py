"""Items as token rows: prompt and answer side by side, padded, with the positions that have a name."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks.examples import IGNORE, MASK, TOKENS, Examples
from skilloc.tasks.items import Item

Encode = Callable[[list[str]], list[list[int]]]


class _Line(NamedTuple):
    """Tokens of a row: prompt, answer, wrong answers, the twin's prompt (empty without one), places of the subject."""

    prompt: list[int]
    answer: list[int]
    wrong: list[list[int]]
    twin: list[int]
    subject: tuple[int, int]

    @property
    def longest(self) -> int:
        """Number of tokens of the longest answer, wrong ones among them."""
        return max(map(len, (self.answer, *self.wrong)))


def spaced(prompt: str, answer: str) -> str:
    """Return an answer with a space before it, unless the prompt ends with one or the answer begins with one."""
    return answer if not answer or answer[0].isspace() or prompt[-1:].isspace() else f" {answer}"


def examples_of(items: Sequence[Item], encode: Encode, *, first: int | None = None, pad: str = "right") -> Examples:
    """Return items as examples: one row per item, or, of options told by several tokens, one row per option.

    Positions have the names `last` (where the prompt ends), `answer` (where each of the answer's tokens is predicted)
    and `subject`; fields are `wrong` (the tokens of wrong answers, for which rows have room), and `options` and `right`
    of multiple choice.

    Args:
        items: all with options, or none; all with wrong answers, or none; all with a corrupted twin, or none.
        encode: token ids of each text, without special tokens.
        first: the id that every row begins with; None for none.
        pad: the side that shorter rows are padded on.

    Raises:
        ValueError: if a twin has another number of tokens than its prompt, or only some items have one, or wrong
            answers, or an answer has no tokens.
    """
    several = bool(items[0].options) and not _single(items, encode)
    said = [(item, option) for item in items for option in (item.options if several else (item.answer,))]
    lines = [_line(item, answer, encode, first) for item, answer in said]
    longest = max(len(line.prompt) + line.longest for line in lines) - 1
    tokens, mask = (
        torch.zeros(len(lines), longest, dtype=torch.int64),
        torch.zeros(len(lines), longest, dtype=torch.bool),
    )
    paired, targets = tokens.clone(), torch.full_like(tokens, IGNORE)
    answer, subject = mask.clone(), mask.clone()
    last = torch.zeros(len(lines), dtype=torch.int64)
    for r, line in enumerate(lines):
        row, p = line.prompt + line.answer[:-1], len(line.prompt)
        start = longest - (p + line.longest - 1) if pad == "left" else 0
        tokens[r, start : start + len(row)] = torch.tensor(row)
        mask[r, start : start + len(row)] = True
        answer[r, start + p - 1 : start + len(row)] = True
        targets[r, start + p - 1 : start + len(row)] = torch.tensor(line.answer)
        subject[r, start + line.subject[0] : start + line.subject[1]] = True
        last[r] = start + p - 1
        if line.twin:
            paired[r, start : start + len(row)] = torch.tensor(line.twin + line.answer[:-1])
    twins = {bool(line.twin) for line in lines}
    if len(twins) > 1:
        raise WrongValue("some items have a `corrupted` twin and some have none; give one to each, or to none")
    at = {"last": last, "answer": answer} | ({"subject": subject} if bool(subject.any(dim=1).all()) else {})
    return Examples(
        {TOKENS: tokens, MASK: mask},
        targets,
        fields=_fields(items, lines, encode, several),
        at=at,
        paired={TOKENS: paired, MASK: mask} if twins == {True} else None,
        owner=torch.tensor([i for i, item in enumerate(items) for _ in item.options]) if several else None,
    )


def continuation(prompt: str, answer: str, encode: Encode) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt, and those that the text of both has beyond as many."""
    bare = prompt.rstrip()
    said = prompt[len(bare) :] + answer
    before, both = encode([bare, bare + said])
    return before, both[len(before) :]


def _line(item: Item, answer: str, encode: Encode, first: int | None) -> _Line:
    start = [] if first is None else [first]
    others = () if item.options else item.wrong
    before, after = continuation(item.prompt, answer, encode)
    wrong = [continuation(item.prompt, other, encode)[1] for other in others]
    for said, tokens in zip((answer, *others), (after, *wrong), strict=True):
        if not tokens:
            raise WrongValue(f'the answer "{said}" to "{item.prompt}" has no tokens; give it some text')
    if after in wrong:
        raise WrongValue(f'the answer "{answer}" to "{item.prompt}" is right and wrong as well; leave one out')
    if not start + before:
        raise WrongValue(f'the prompt of the answer "{answer}" has no tokens; give it some text')
    twin: list[int] = []
    if item.corrupted is not None:
        twin = start + continuation(item.corrupted, answer, encode)[0]
        if len(twin) != len(start + before):
            raise WrongValue(
                f'the `corrupted` twin "{item.corrupted}" has {len(twin)} tokens but its prompt "{item.prompt}" '
                f"{len(start + before)}; positions must correspond, so write twins of equal length in tokens"
            )
    place = _subject(item, before, encode)
    return _Line(start + before, after, wrong, twin, (place[0] + len(start), place[1] + len(start)))


def _subject(item: Item, ids: list[int], encode: Encode) -> tuple[int, int]:
    """Return the first token of the subject's last mention in the prompt, and the one behind it; (0, 0) for none."""
    at = item.prompt.rfind(item.subject) if item.subject and item.subject != item.prompt else -1
    if at < 0:
        return 0, 0
    before, until = encode([item.prompt[:at].rstrip(), item.prompt[: at + len(item.subject)]])
    end = _common(until, ids)
    return _common(before, ids), min(len(ids), end + (end < len(until)))


def _common(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _single(items: Sequence[Item], encode: Encode) -> bool:
    """Whether all options are one token each, so that one row asks for all of them."""
    for item in items:
        rows = [continuation(item.prompt, option, encode) for option in item.options]
        same = all(before == rows[0][0] for before, _ in rows)
        if not same or any(len(after) != 1 for _, after in rows) or len({a[0] for _, a in rows}) < len(rows):
            return False
    return True


def _fields(items: Sequence[Item], lines: Sequence[_Line], encode: Encode, several: bool) -> dict[str, Tensor]:
    if several:
        right = [option == item.right for item in items for option in range(len(item.options))]
        return {"right": torch.tensor(right)}
    if items[0].options:
        options = [[continuation(i.prompt, o, encode)[1][:1] for o in i.options] for i in items]
        found = {"options": _filled(options)[:, :, 0], "right": torch.tensor([item.right for item in items])}
        rest = [[*row[: item.right], *row[item.right + 1 :]] for row, item in zip(options, items, strict=True)]
        return {**found, "wrong": _filled(rest)}
    have = {bool(line.wrong) for line in lines}
    if len(have) > 1:
        raise WrongValue("some items have `wrong` answers and some have none; give some to each, or to none")
    return {"wrong": _filled([line.wrong for line in lines])} if have == {True} else {}


def _filled(answers: Sequence[Sequence[Sequence[int]]]) -> Int[Tensor, "row k pos"]:
    """Return the tokens of some answers per row, filled up with IGNORE."""
    widest, longest = max(map(len, answers)), max(len(one) for row in answers for one in row)
    found = torch.full((len(answers), widest, longest), IGNORE)
    for r, row in enumerate(answers):
        for k, one in enumerate(row):
            found[r, k, : len(one)] = torch.tensor(one)
    return found
