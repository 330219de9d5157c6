"""Values of rows as text, and the options of multiple choice: which there are, and which is right."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from skilloc.mistakes import WrongValue
from skilloc.tasks.asked import LETTERS
from skilloc.tasks.corpora import is_text


class UnusableError(Exception):
    """Why a row cannot be asked; the words go on "a row ..."."""


class Options(NamedTuple):
    """The options of a row.

    Attributes:
        texts: what they say.
        labels: what they are called; letters where the row does not say.
        told: whether the row does.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    told: bool


def text_of(value: object) -> str | None:
    """Return text, or a number as it is written; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and is_text(value) else None


def options_of(given: Any, named: str) -> Options:
    """Return the options of a list of texts, of {"text": [...], "label": [...]}, or of [{"text": ..., "label": ...}].

    Args:
        given: what the row has.
        named: how messages call the field.

    Raises:
        UnusableError: if it is none of these, or two options are the same.
    """
    if isinstance(given, list | tuple) and given and all(isinstance(one, Mapping) for one in given):
        named_so = [one["label"] for one in given if "label" in one]
        given = {"text": [one.get("text") for one in given], "label": named_so or None}
    values, labels = (given.get("text"), given.get("label")) if isinstance(given, Mapping) else (given, None)
    if not isinstance(values, list | tuple) or len(values) < 2 or not isinstance(labels, list | tuple | None):
        raise UnusableError(f"whose {named} is no list of two options or more")
    texts = [text for value in values if (text := text_of(value)) is not None]
    if len(texts) < len(values):
        raise UnusableError(f"whose {named} has an option that is no text")
    if len({text.strip() for text in texts}) < len(texts):
        raise UnusableError(f"whose {named} has two options that are the same")
    if labels is None:
        return Options(tuple(texts), tuple(LETTERS[: len(texts)]), False)
    if len(set(map(str, labels))) < len(texts) or len(labels) > len(texts):
        raise UnusableError(f"whose {named} has not one label for each option")
    return Options(tuple(texts), tuple(map(str, labels)), True)


def right_of(answer: Any, options: Options, origin: str) -> int:
    """Return the place of the right option: by a label that the row gives, by number from 0, by letter, or by its text.

    Raises:
        UnusableError: if the answer is no text and no number.
        ValueError: if it is none of the options, or text that means one by its place and another one by what it says.
    """
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    said = text_of(answer)
    if said is None:
        raise UnusableError(f"whose answer is {what_is(answer)}")
    if options.told and said in options.labels:
        return options.labels.index(said)
    if isinstance(answer, int):
        means = {answer} & set(range(len(options.texts)))
    else:
        means = {own.index(said) for own in (options.labels, options.texts) if said in own}
        means |= {int(said)} & set(range(len(options.texts))) if said.isdecimal() and len(said) < 9 else set()
    if len(means) == 1:
        return means.pop()
    if means:
        both = " or ".join(f'"{options.texts[place]}"' for place in sorted(means))
        raise WrongValue(
            f'`answer` of {origin} is the text "{said}", which may mean {both}; write a number from 0 as a number, or '
            'give the options as {"text": [...], "label": [...]}'
        )
    raise WrongValue(
        f'`answer` of {origin} is "{said}", which is none of the options {", ".join(options.labels)}; give the number '
        "from 0, the label or the text of one"
    )


def what_is(value: object) -> str:
    """Return how a message calls a value that is not taken."""
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number", list: "a list", dict: "an object"}
    return next((said for kind, said in names.items() if isinstance(value, kind)), "no text")
