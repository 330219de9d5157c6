"""The blocks of docs/own.md run as they stand there, and what they say is true."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skilloc.experiment import hold
from skilloc.models.makers import face_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own.md"


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    """What the blocks define, one after the other, in one namespace as on the page."""
    pytest.importorskip("sklearn")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, names)
    return names


def test_effects_of_the_pairs_are_those_of_one_hooked_run_per_head(ran: dict[str, Any]) -> None:
    model, effects, clean = ran["opened"].model, ran["effects"], ran["clean"]
    assert effects.unit == "logits"

    def difference(logits: torch.Tensor) -> float:
        last = logits[:, -1].double()
        return float((last[:, ran["wrong"]] - last[:, ran["right"]]).mean())

    with torch.no_grad():
        base = difference(model(clean))
        for bank in effects.units.banks:
            seen: list[torch.Tensor] = []

            def see(value: torch.Tensor, hook: Any, seen: list[torch.Tensor] = seen) -> None:
                seen.append(value.clone())

            model.run_with_hooks(ran["corrupt"], fwd_hooks=[(bank.name, see)])
            for head in range(bank.width):

                def swap(value: torch.Tensor, hook: Any, head: int = head, other: Any = seen[0]) -> torch.Tensor:
                    value[:, -1, head] = other[:, -1, head]
                    return value

                change = difference(model.run_with_hooks(clean, fwd_hooks=[(bank.name, swap)])) - base
                unit = effects.units.span(bank.name).start + head
                assert effects.mean("brackets")[unit] == pytest.approx(change, abs=1e-5)
    assert np.abs(effects.mean("brackets")).max() > 0.1


def test_the_own_function_is_estimated_without_curvature(ran: dict[str, Any]) -> None:
    doubts = ran["doubts"]
    assert doubts.made["curvature"] == 0
    assert np.abs(doubts.mean("brackets")).max() > 1e-3


def test_the_network_reads_digits_and_its_channels_are_counted_in_shares(ran: dict[str, Any]) -> None:
    errors = ran["errors"]
    assert errors.unit == "share"
    assert len(errors.units) == 24
    assert errors.baseline.mean() < 0.12
    assert np.allclose(errors.values[0] * 75, np.round(errors.values[0] * 75), atol=1e-6)
    assert np.abs(errors.mean("digits")).max() > 0.005


def test_the_pruned_network_computes_what_the_held_one_does(ran: dict[str, Any]) -> None:
    from skilloc.experiment import zero_reference

    images = ran["images"][:20]
    with torch.no_grad(), hold(ran["model"], ran["mask"], zero_reference(ran["mask"].units)):
        wanted = face_of(ran["model"]).run(images)
    with torch.no_grad():
        assert torch.allclose(face_of(ran["smaller"]).run(images), wanted, atol=1e-5)


def test_the_model_in_memory_is_the_one_on_disk(ran: dict[str, Any]) -> None:
    assert torch.allclose(ran["same"], ran["opened"].model(ran["tokens"]), atol=1e-5)
