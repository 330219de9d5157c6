"""The record that every measurement carries: which model, tokens, units, reference and versions."""

from functools import cache
from importlib import metadata
from typing import Any

from torch import nn

from skilloc.intervene.losses import Folded
from skilloc.intervene.reference import Reference
from skilloc.models.language import digest
from skilloc.units import Units


def record(model: nn.Module, folded: Folded, units: Units, reference: Reference) -> dict[str, Any]:
    """Return what names a measurement. The same record means the same numbers. JSON only."""
    return {
        "model": digest(model),
        "tokens": dict(folded.digests),
        "folds": folded.folds,
        "units": units.record(),
        "reference": reference.record(),
        "versions": dict(_versions()),
    }


@cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("skilloc", "torch", "transformer-lens", "transformers")}
