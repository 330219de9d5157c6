"""Weights on disk: a full disk, as the writer of safetensors tells it, is an error of the system like any other."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as safetensors.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        save_file(dict(weights), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path.parent.parent} cannot hold the weights ({error}); make room, and run again") from error
