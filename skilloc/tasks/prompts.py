"""Subtasks of prompts with answers: facts, multiple choice, question-answer pairs, from files or from rows.

    facts = prompts("facts.jsonl", encode, Asked(prompt="prompt", group="relation", subject="subject"))

The answer's tokens are those that the text of prompt and answer together has beyond the prompt's own, as lm-eval takes
them: spaces at the prompt's end go to the answer.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from skilloc.mistakes import WrongValue
from skilloc.tasks.asked import Asked
from skilloc.tasks.examples import Examples
from skilloc.tasks.items import Item, answer_baseline, distinct, split_items
from skilloc.tasks.questions import Source, items_of
from skilloc.tasks.rows import Encode, continuation, examples_of
from skilloc.tasks.subtask import Split, Subtask

_log = logging.getLogger(__name__)


def prompts(
    source: Source, encode: Encode, asked: Asked = Asked(prompt="prompt"), *, name: str = "prompts",  # noqa: B008
    first: int | None = None, longest: int | None = None,
) -> dict[str, Subtask]:  # fmt: skip
    """Make subtasks of rows that have a prompt and an answer: one, or one per group.

    Rows that lack one of the fields that are asked for are left out, counted, and logged with the reason.

    Args:
        source: where the rows come from.
        encode: token ids of each text, without special tokens.
        asked: which fields say what, and how prompts are put.
        name: of the subtask; with groups, those are called NAME_GROUP.
        first: the id that every row begins with; None for none.
        longest: leave out prompts that have more tokens than this with their answer, saying so.

    Raises:
        ValueError: if no row has one of the fields, no row can be asked, or two groups would have one name.

    Example:
        >>> import skilloc as sk
        >>> rows = [{"prompt": f"{a:02} plus one is", "answer": str(a + 1)} for a in range(30)]
        >>> made = sk.prompts(rows, lambda texts: [list(text.encode()) for text in texts])
        >>> made["prompts"].draw(3).at["last"]
        tensor([13, 13, 13])
    """
    if asked.prompt is None:
        raise WrongValue("`asked` names no field of the `prompt`; pass Asked(prompt=...)")
    items, skipped = items_of(source, asked)
    if longest is not None:
        before, most = len(items), longest - (first is not None)
        items = _fitting(items, encode, most, name)
        skipped += before - len(items)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(f"{name}_{item.group}".replace(" ", "_") if asked.group else name, []).append(item)
    made = {}
    for called, own in groups.items():
        if len(apart := list(dict.fromkeys(item.group for item in own))) > 1:
            raise WrongValue(
                f'groups "{apart[0]}" and "{apart[1]}" would both be called "{called}"; write one of them otherwise'
            )
        kept = distinct(own, called)
        left = {"skipped": skipped, "twice": len(own) - len(kept)}
        made[called] = _subtask(called, split_items(kept, asked.rotation), encode, asked, first, left)
    return made


def choices(
    source: Source, encode: Encode, asked: Asked = Asked(prompt="question", choices="choices"), *,  # noqa: B008
    name: str = "choices", first: int | None = None, longest: int | None = None,
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
    return prompts(source, encode, asked, name=name, first=first, longest=longest)


def item_subtask(
    name: str, items: Sequence[Item], encode: Encode, *, first: int | None = None, pad: str = "right"
) -> Subtask:
    """Make a subtask of items, as `prompts` does of rows; their prompts are put as they are."""
    kept = distinct(items, name)
    return _subtask(name, split_items(kept), encode, Asked(prompt="prompt", pad=pad), first, {})


def large_enough(made: Mapping[str, Subtask], least: int) -> dict[str, Subtask]:
    """Return the groups of a file that have enough items in each split; the others are counted and logged.

    Raises:
        ValueError: if there is none.
    """
    counts: dict[str, dict[str, int]] = {name: dict[str, Any](own.made or {})["items"] for name, own in made.items()}
    small = [name for name, own in counts.items() if min(own.values()) < least]
    if len(small) == len(made):
        largest = max(made, key=lambda name: sum(counts[name].values()))
        raise WrongValue(
            f'none of {len(made)} groups has {least} items in every split: the largest, "{largest}", has '
            f"{_counted(counts[largest])}; draw fewer examples, or group by a field with fewer values"
        )
    if small:
        listed = ", ".join(f'"{name}" ({_counted(counts[name])})' for name in small[:3])
        more = f" and {len(small) - 3} more" if len(small) > 3 else ""
        _log.warning("left out groups with fewer than %d items in a split: %s%s", least, listed, more)
    return {name: own for name, own in made.items() if name not in small}


def _counted(items: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in items.items())


def _fitting(items: Sequence[Item], encode: Encode, most: int, name: str) -> list[Item]:
    """Return the items that have at most so many tokens; the others are counted and logged.

    Raises:
        ValueError: if there is none.
    """

    def fits(item: Item) -> bool:
        answers = (item.answer, *item.wrong)
        # A token is a byte at least: most texts need not be encoded.
        if len((item.prompt + max(answers, key=len)).encode("utf-8", "replace")) < most:
            return True
        told = [continuation(item.prompt, answer, encode) for answer in answers]
        return max(len(before) + len(after) - 1 for before, after in told) <= most

    found = [item for item in items if fits(item)]
    if not found:
        raise WrongValue(f'all {len(items)} prompts of "{name}" have more than {most} tokens; pass shorter ones')
    if left := len(items) - len(found):
        first = next(item for item in items if not fits(item))
        _log.warning(
            'left out %d of %d prompts of "%s", of more than the %d tokens that the model can read, such as "%s..."',
            left, len(items), name, most, first.prompt[:40],
        )  # fmt: skip
    return found


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
    if shots > len(train):
        raise WrongValue(
            f'`shots` is {shots}, but the train split of subtask "{name}", from which they come, has {len(train)} '
            "items; show fewer, or pass more rows"
        )
    shown = [train[i] for i in torch.randperm(len(train), generator=generator)[:shots].tolist()]
    keys = {item.key for item in shown}
    pool = [item for item in splits[split] if item.key not in keys]
    if len(pool) < n:
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
