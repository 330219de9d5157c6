"""Behaviours that are made from word lists of our own, in the tokens of any tokenizer, each with a corrupted twin.

    induction       a random sequence of words, repeated: what followed the last word before
    indirect        "Then Ann and Tom went to the shop. Tom gave a ring to" -> " Ann"
    greater         "The war lasted from the year 1743 to the year 17" -> a number above 43
    agreement       "The keys near the table" -> " are"
    brackets        "([{ a" -> the bracket that closes the last
    copying         "My name is Rose. ... As I said, my name is" -> " Rose"
    arguments       the next argument in a docstring, in the order of the function

Words that are no single token where they stand are left out, so that prompts and twins have equal lengths.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from skilloc.mistakes import WrongValue
from skilloc.tasks.items import Item
from skilloc.tasks.prompts import item_subtask
from skilloc.tasks.rows import Encode, continuation
from skilloc.tasks.subtask import Subtask


def _listed(text: str) -> list[str]:
    return text.split()


_NAMES = _listed(
    "Ann Tom Mary John Paul Anna James Sarah David Peter Mark Jack Kate Rose Alice Bob Sam Emma Lucy George "
    "Henry Jane Adam Simon Laura Martin Helen Frank Alan Chris Michael Robert William Thomas Daniel Steve "
    "Kevin Brian Jason Eric"
)
_PLACES = _listed("shop school park house garden station market office church beach")
_THINGS = _listed("ring book drink letter key ball flower card gift phone")
_ONES = _listed("key dog car teacher student picture house friend doctor book window tree player child")
_MANY = _listed("keys dogs cars teachers students pictures houses friends doctors books windows trees players children")
_EVENTS = _listed("war trip project reign study dispute plan journey")
_ARGUMENTS = _listed("size name path index value key text file date user color width height shape label node line")
_PAIRS = ("()", "[]", "{}")


@dataclass(frozen=True)
class _Words:
    """Words that are one token, for a tokenizer."""

    encode: Encode

    def single(self, words: Iterable[str], prompt: str = "a") -> list[str]:
        """Return the words that are one token behind a prompt."""
        return [word for word in words if len(continuation(prompt, f" {word}", self.encode)[1]) == 1]


def _induction(words: _Words, rng: random.Random) -> Item:
    own = words.single([*_NAMES, *_PLACES, *_THINGS, *_ONES])
    said = rng.sample(own, 12)
    other = [word for word in own if word not in said]
    told, half = " ".join(said), said[: rng.randint(4, 8)]
    # The twin's first part has another word where the answer was.
    changed = [*said[: len(half)], rng.choice(other), *said[len(half) + 1 :]]
    return Item(
        f"a {told} a {' '.join(half)}", f" {said[len(half)]}", subject=told,
        wrong=(f" {changed[len(half)]}",), corrupted=f"a {' '.join(changed)} a {' '.join(half)}",
    )  # fmt: skip


def _indirect(words: _Words, rng: random.Random) -> Item:
    a, b, c = rng.sample(words.single(_NAMES), 3)
    place, thing = rng.choice(words.single(_PLACES)), rng.choice(words.single(_THINGS))
    first, second = rng.sample([a, b], 2)
    start = f"Then, {first} and {second} went to the {place}."
    return Item(
        f"{start} {b} gave a {thing} to", f" {a}", subject=f"{a} {b} {place} {thing}",
        wrong=(f" {b}",), corrupted=f"{start} {c} gave a {thing} to",
    )  # fmt: skip


def _greater(words: _Words, rng: random.Random) -> Item:
    century, year = rng.randint(11, 18), rng.randint(2, 97)
    event = rng.choice(words.single(_EVENTS))
    tens = rng.choice([t for t in range(year // 10, 10) if t > year // 10 or year % 10 < 9])
    best = max(year + 1, tens * 10)
    said = "The {} lasted from the year {}{:02} to the year {}"
    lower = tuple(f"{n:02}" for n in rng.sample(range(year + 1), min(3, year + 1)))
    return Item(
        said.format(event, century, year, century), f"{best:02}", subject=f"{event} {century} {year}",
        wrong=lower, corrupted=said.format(event, century, 1, century),
    )  # fmt: skip


def _agreement(words: _Words, rng: random.Random) -> Item:
    both = [(o, m) for o, m in zip(_ONES, _MANY, strict=True) if len(words.single([o, m], "The")) == 2]
    (one, many), (near, nears) = rng.sample(both, 2)
    plural, other = rng.random() < 0.5, rng.choice([near, nears])
    head, twin = (many, one) if plural else (one, many)
    answer, wrong = (" are", " is") if plural else (" is", " are")
    return Item(
        f"The {head} near the {other}", answer, subject=f"{head} {other}",
        wrong=(wrong,), corrupted=f"The {twin} near the {other}",
    )  # fmt: skip


def _brackets(words: _Words, rng: random.Random) -> Item:
    first, second, third = rng.sample(_PAIRS, 3)
    inside = rng.sample(words.single(_THINGS), 3)

    def said(last: str) -> str:
        return f"{first[0]} {inside[0]} {first[1]} {second[0]} {inside[1]} {second[1]} {last[0]} {inside[2]}"

    return Item(
        said(third), f" {third[1]}", subject=said(third), wrong=(f" {second[1]}", f" {first[1]}"),
        corrupted=said(second),
    )  # fmt: skip


def _copying(words: _Words, rng: random.Random) -> Item:
    a, b = rng.sample(words.single(_NAMES), 2)
    place, thing = rng.choice(words.single(_PLACES)), rng.choice(words.single(_THINGS))

    def said(name: str) -> str:
        return f"My name is {name}. I live near the {place} and have a {thing}. As I said, my name is"

    return Item(said(a), f" {a}", subject=f"{a} {place} {thing}", wrong=(f" {b}",), corrupted=said(b))


def _arguments(words: _Words, rng: random.Random) -> Item:
    names = rng.sample(words.single(_ARGUMENTS, ":param"), 5)
    other = names[4]

    def said(third: str) -> str:
        listed = ", ".join([names[0], names[1], third, names[3]])
        told = f":param {names[0]}: first\n    :param {names[1]}: second\n    :param"
        return f'def call({listed}):\n    """Do it.\n\n    {told}'

    return Item(said(names[2]), f" {names[2]}", subject=said(names[2]), wrong=(f" {names[3]}",), corrupted=said(other))


MAKERS: dict[str, Callable[[_Words, random.Random], Item]] = {
    "induction": _induction,
    "indirect": _indirect,
    "greater": _greater,
    "agreement": _agreement,
    "brackets": _brackets,
    "copying": _copying,
    "arguments": _arguments,
}
"""What makes one item of each behaviour."""


def behaviours(
    encode: Encode, names: Sequence[str] = tuple(MAKERS), *, first: int | None = None, count: int = 240, seed: int = 0
) -> dict[str, Subtask]:
    """Make behaviours in the tokens of a model.

    Args:
        encode: token ids of each text, without special tokens.
        names: which of `MAKERS`.
        first: the id that every row begins with; None for none.
        count: items to make of each, over all splits.
        seed: of the items.

    Raises:
        ValueError: if a name is unknown, or fewer than half of the items could be made in these tokens.
    """
    made = {}
    for name in names:
        if name not in MAKERS:
            raise WrongValue(f'unknown behaviour "{name}"; use {", ".join(MAKERS)}')
        found = _made(name, encode, count, seed)
        if len(found) < count / 2:
            raise WrongValue(
                f'only {len(found)} of {count} items of "{name}" could be made, since most of its words are several '
                "tokens of this tokenizer; leave it out, or ask for fewer with `count`"
            )
        made[name] = item_subtask(name, found, encode, first=first)
    return made


def _made(name: str, encode: Encode, count: int, seed: int) -> list[Item]:
    known: dict[tuple[str, ...], list[list[int]]] = {}

    def remembered(texts: list[str]) -> list[list[int]]:
        key = tuple(texts)
        if key not in known:
            known[key] = encode(texts)
        return known[key]

    words, found = _Words(remembered), dict[str, Item]()
    digest = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    for attempt in range(4 * count):
        if len(found) == count:
            break
        try:
            item = MAKERS[name](words, random.Random(f"{seed} {digest} {attempt}"))
        except (IndexError, ValueError):  # too few words that are one token
            continue
        assert item.corrupted is not None
        before, twin = (len(continuation(text, item.answer, encode)[0]) for text in (item.prompt, item.corrupted))
        answers = [tuple(continuation(item.prompt, one, encode)[1][:1]) for one in (item.answer, *item.wrong)]
        if before == twin and all(answers) and len(set(answers)) > 1:
            found.setdefault(item.key, item)
    return list(found.values())
