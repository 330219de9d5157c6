"""What names a measurement in its record: the same record means the same numbers."""

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from torch import nn

from skilloc.experiment.reference import Reference
from skilloc.models.language import digest
from skilloc.models.points import hooks_of_users
from skilloc.tasks import Folded
from skilloc.tasks.losses import Loss
from skilloc.units import Units


def record(model: nn.Module, folded: Folded, units: Units, reference: Reference, loss: Loss) -> dict[str, Any]:
    """Return what names a measurement. JSON only."""
    hooks = hooks_of_users(model)
    return {
        "model": digest(model),
        "tokens": dict(folded.digests),
        "folds": folded.folds,
        "units": units.record(),
        "reference": reference.record(),
        "loss": loss.record(),
        "versions": dict(versions()),
        **({"hooks": list(hooks)} if hooks else {}),
    }


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of the libraries that numbers come from."""
    return {name: metadata.version(name) for name in ("skilloc", "torch", "transformer-lens", "transformers")}
