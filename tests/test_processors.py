"""What is promised of numbers on one type of processor and on several: the same bytes, and tolerances."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from skilloc import store

TESTS = Path(__file__).parent
PROCESSORS: dict[str, dict[str, str]] = {
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "best": {},
}
"""What torch takes for the processor, by environment variables: as in `make test-processors`."""
SAMPLE = (
    "test_lasso_finetuning", "test_training", "test_training_gradients", "test_training_many",
    "test_training_products", "test_pruning", "test_pruning_curves", "test_relearning", "test_relearning_runs",
    "test_circuit_hierarchy", "test_nonlocality", "test_penalties", "test_experiments_unit_effects",
)  # fmt: skip
"""Tests that train, and so follow the path that rounding takes."""

pytestmark = pytest.mark.long


def run(processor: str, *command: object) -> None:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
    }
    environment = {**kept, "OMP_NUM_THREADS": "1", **PROCESSORS[processor]}
    done = subprocess.run([sys.executable, "-m", *map(str, command)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """The last layer's heads and some neurons, and a localization of 10 steps, twice on each type of processor."""
    texts = ["--subtask", "english=english", "--length", "24"]
    folders = {}
    for processor in PROCESSORS:
        for again in (0, 1):
            folders[processor, again] = out = tmp_path_factory.mktemp(processor)
            effects = [
                "effects",
                "embedded",
                "--out",
                out / "effects",
                "--workers",
                "1",
                "--layers",
                "3",
                "--sample",
                "64",
            ]
            run(processor, "skilloc.cli", *effects, *texts)
            trained = [
                "--keep",
                "english",
                "--steps",
                "10",
                "--examples",
                "8",
                "--held-out",
                "16",
                "--evaluate-every",
                "10",
            ]
            run(processor, "skilloc.cli", "localize", "embedded", "--out", out / "localized", *texts, *trained)
    return folders


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Effects, all trained weights, and the losses on the way."""
    effects = store.read(folder / "effects" / "effects").arrays["values"].values
    weights = load_file(folder / "localized" / "model" / "model.safetensors")
    history = store.read(folder / "localized" / "history").metrics["history"]
    return effects, np.concatenate([weights[name].ravel() for name in sorted(weights)]), history["english"]


def test_one_type_of_processor_gives_the_same_bytes(measured: dict[tuple[str, int], Path]) -> None:
    for processor in PROCESSORS:
        for name in ("effects/effects/tensors.safetensors", "localized/model/model.safetensors"):
            first, again = (hashlib.sha256((measured[processor, i] / name).read_bytes()) for i in (0, 1))
            assert first.hexdigest() == again.hexdigest(), f"{name} on {processor}"


def test_types_of_processor_agree_to_the_stated_tolerances(measured: dict[tuple[str, int], Path]) -> None:
    effects, weights, losses = arrays(measured["best", 0])
    assert np.nanmax(np.abs(effects)) > 0.01
    for processor in PROCESSORS:
        others = arrays(measured[processor, 0])
        apart = [
            float(np.nanmax(np.abs(a - np.asarray(b)))) for a, b in zip(others, (effects, weights, losses), strict=True)
        ]
        print(json.dumps({processor: apart}))
        assert (np.isnan(others[0]) == np.isnan(effects)).all()
        assert apart[0] < 1e-5
        assert apart[1] < 1e-4
        assert apart[2] < 1e-5


@pytest.mark.parametrize("processor", ["default", "avx2"])
def test_tests_that_train_pass_on_other_processors(processor: str) -> None:
    run(processor, "pytest", "-q", "-p", "no:cacheprovider", *(TESTS / f"{name}.py" for name in SAMPLE))
