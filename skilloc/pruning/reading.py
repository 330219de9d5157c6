"""What became of a pruned or a localized model, read from the folder that was written then."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skilloc import store
from skilloc.locality.intervals import Interval
from skilloc.pruning.results import Change, Localized, Parameters, Pruned, Stages
from skilloc.training import History
from skilloc.training.history import NATS


def load_pruned(folder: Path) -> Pruned:
    """Read what became of a pruned model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it was cut or altered.
    """
    found = store.read(folder / "report")
    store.check_request(folder, "report", found.spec)
    rest = {name: value for name, value in found.metrics.items() if name not in ("parameters", "kept_for", "subtasks")}
    subtasks = {
        name: {measure: Stages(*(Interval(**part[stage]) for stage in Stages._fields)) for measure, part in one.items()}
        for name, one in found.metrics["subtasks"].items()
    }
    return Pruned(
        parameters=Parameters(**found.metrics["parameters"]),
        kept_for=tuple(found.metrics["kept_for"]),
        subtasks=subtasks,
        split=found.spec["split"],
        **{"unit": "nats", **rest},
    )


def load_localized(folder: Path) -> Localized:
    """Read what became of a localized model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it was cut or altered.
    """
    read = store.read(folder / "history")
    store.check_request(folder, "history", read.spec)
    found = dict(read.metrics)
    found["subtasks"] = {
        name: Change(row["kept"], row["before"], row["after"], _interval(row["change"]))
        for name, row in found["subtasks"].items()
    }
    return Localized(**{"unit": NATS, **found, "history": History.from_record(found["history"])})


def _interval(record: Mapping[str, Any]) -> Interval:
    return Interval(*(float("nan") if record[end] is None else record[end] for end in ("value", "low", "high")))
