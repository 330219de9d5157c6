"""Mistakes that are the user's to mend: the mark that their errors carry, and the checks that every door shares.

An error of a marked class is one or two lines on the command line, with exit status 2; any other error is a bug, and
keeps its traceback. Each marked class is also the built-in one that a caller of the library would expect. A message has
three parts: the argument in backticks with its value, what was needed, and a cure that can work and destroys nothing.
"""

import math
import numbers
import operator
import unicodedata
from pathlib import PurePath

MOST = 10**9
"""Above this, a number of steps, examples or units is a slip of the hand: nothing here can do so much."""

LARGEST = 1e12
"""The same for a learning rate, a loss, a strength or a time in seconds."""

WORKERS = 4096
"""Threads or processes, at most."""

LONGEST_NAME = 100
"""Characters of a name."""

LONGEST_FILE = 200
"""Bytes of a name that becomes a file's."""

TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that turn the direction of writing: what follows them reads as something else."""

SEEDS = 2**63 - 1
"""Largest seed that every generator takes."""


class Mistake(Exception):
    """The mark of an error that is the user's to mend."""


class WrongValue(Mistake, ValueError):
    """An argument, a file or a folder that cannot be worked with as it is."""


class WrongType(Mistake, TypeError):
    """An argument of a kind that is not taken."""


class NotInstalled(Mistake, ModuleNotFoundError):
    """A package, or a module of the user's own, that is not there."""


class Unreachable(Mistake, RuntimeError):
    """What was asked for cannot be had of this model."""


class Diverged(Mistake, FloatingPointError):
    """A training whose numbers are not finite any more."""


def whole(name: str, value: object, least: int = 1, most: int = MOST) -> None:
    """Refuse what is no whole number from `least` to `most`.

    Args:
        name: what the argument is called.
        value: what was given.
        least: smallest that is allowed.
        most: largest that is allowed.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is out of range.

    Example:
        >>> from skilloc.mistakes import whole
        >>> whole("steps", -5)
        Traceback (most recent call last):
        skilloc.mistakes.WrongValue: `steps` is -5; use a whole number, at least 1 and at most 1000000000
    """
    cure = f"use a whole number, at least {least} and at most {most}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise WrongType(f"`{name}` is {_shown(value)}; {cure}")
    if not least <= operator.index(value) <= most:
        raise WrongValue(f"`{name}` is {_shown(value)}; {cure}")


def real(
    name: str,
    value: object,
    least: float = -LARGEST,
    most: float = LARGEST,
    *,
    open_ends: tuple[bool, bool] = (False, False),
) -> None:
    """Refuse what is no finite number in a range.

    Args:
        name: what the argument is called.
        value: what was given.
        least: smallest that is allowed.
        most: largest that is allowed.
        open_ends: whether `least`, and `most`, are themselves not allowed.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is NaN, infinite or out of range.

    Example:
        >>> from skilloc.mistakes import real
        >>> real("rate", float("nan"), 0.0)
        Traceback (most recent call last):
        skilloc.mistakes.WrongValue: `rate` is nan; use a number, at least 0 and at most 1e+12
    """
    low, high = "above" if open_ends[0] else "at least", "below" if open_ends[1] else "at most"
    kind = "positive number" if open_ends[0] and least == 0 else f"number, {low} {least:g}"
    cure = f"use a {kind}{',' if kind.startswith('positive') else ' and'} {high} {most:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise WrongType(f"`{name}` is {_shown(value)}; {cure}")
    # Exact: a whole number of hundreds of digits is larger than any float.
    over, under = operator.gt if open_ends[0] else operator.ge, operator.lt if open_ends[1] else operator.le
    inside = over(value, least) and under(value, most)
    if not inside or not math.isfinite(value):
        raise WrongValue(f"`{name}` is {_shown(value)}; {cure}")


def positive(name: str, value: object, most: float = LARGEST) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is NaN, infinite, 0, negative or above `most`.
    """
    real(name, value, 0.0, most, open_ends=(True, False))


def in_share(name: str, value: object) -> None:
    """Refuse what is no number above 0 and up to 1.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is out of range.
    """
    real(name, value, 0.0, 1.0, open_ends=(True, False))


def a_seed(name: str, value: object) -> None:
    """Refuse what no random generator takes as a seed.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is negative or above 2^63 - 1.
    """
    whole(name, value, 0, SEEDS)


def a_name(called: str, name: object) -> None:
    """Refuse what cannot be a name in a table, a picture, a page and a record: it would not show what it is.

    Every printable text of up to 100 characters can, markup of whatever kind included: it is shown as it is.

    Args:
        called: what the argument is called.
        name: what was given.

    Raises:
        TypeError: if it is no text.
        ValueError: if it is blank, too long, or has characters that are not shown or turn the direction of writing.
    """
    cure = f"use up to {LONGEST_NAME} printable characters"
    if not isinstance(name, str):
        raise WrongType(f"`{called}` is {_shown(name)}; {cure}")
    odd = [sign for sign in name if unicodedata.category(sign) in ("Cc", "Cs", "Cn", "Zl", "Zp") or sign in TURNING]
    if not name.strip() or len(name) > LONGEST_NAME or odd:
        raise WrongValue(f"`{called}` is {name[:60]!a}{'...' if len(name) > 60 else ''}; {cure}")


def a_file_name(called: str, name: object) -> None:
    """Refuse what cannot be a name and the name of a file as well, in the folder that it is meant for and in no other.

    Args:
        called: what the argument is called.
        name: what was given.

    Raises:
        TypeError: if it is no text.
        ValueError: if it is no name (`a_name`), has a slash, or begins with a dot.
    """
    a_name(called, name)
    if isinstance(name, str) and (name.startswith(".") or set(name) & set("/\\") or len(name.encode()) > LONGEST_FILE):
        raise WrongValue(
            f"`{called}` is {name!a}, which is to name a folder; use a shorter name without slashes, that begins "
            "with no dot"
        )


def of_kind(name: str, value: object, kind: type | tuple[type, ...], cure: str) -> None:
    """Refuse what is of another kind than the argument takes.

    Args:
        name: what the argument is called.
        value: what was given.
        kind: class, or classes, that are taken.
        cure: what to pass instead.

    Raises:
        TypeError: if it is of none of them.

    Example:
        >>> from skilloc.mistakes import of_kind
        >>> of_kind("sources", ["python"], dict, "pass sources by name")
        Traceback (most recent call last):
        skilloc.mistakes.WrongType: `sources` is ['python']; pass sources by name
    """
    if not isinstance(value, kind):
        raise WrongType(f"`{name}` is {told(value)}; {cure}")


def told(value: object) -> str:
    """Return how a message calls a value: plain ones as they are, as far as a line holds them; others by their kind."""
    plain = value is None or isinstance(value, str | numbers.Number | list | tuple | dict | PurePath)
    return _shown(value) if plain else f"a {type(value).__name__}"


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, numbers.Number) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
