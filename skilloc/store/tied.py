"""Parts of a folder belong to its request, and are refused in another folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skilloc.mistakes import WrongValue
from skilloc.store.folder import is_complete, read
from skilloc.store.plain import key


def check_tied(folder: Path, part: str, made: Mapping[str, Any]) -> None:
    """Refuse a part of a folder that belongs to another request than the folder.

    Args:
        folder: of the study.
        part: what it is called there.
        made: what the part says it was made of.

    Raises:
        ValueError: if it was made for another request; a part of version 0.1 names none, and is compared by its model
            and its tokens.
    """
    if not is_complete(folder / "request"):
        return
    request = read(folder / "request").spec
    named = made.get("request")
    same = (
        named == key(request)
        if named is not None
        else all(name not in made or made[name] == request.get(name) for name in ("model", "tokens"))
    )
    if not same:
        raise WrongValue(
            f'"{folder / part}" was made for another study than "{folder}"; name the folder that it comes from, or '
            "move it out and run the command again that makes it"
        )


def check_request(folder: Path, part: str, spec: Mapping[str, Any]) -> None:
    """Refuse a part whose own spec is the request of another folder.

    Raises:
        ValueError: if so.
    """
    asked = read(folder / "request").spec if is_complete(folder / "request") else {}
    if any(spec.get(name) != value for name, value in asked.items()):
        raise WrongValue(
            f'"{folder / part}" was made for another request than "{folder}"; name the folder that it comes from, or '
            "move it out and run the command again that makes it"
        )
