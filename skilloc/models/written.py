"""Weights on disk: what the writer of safetensors says of a full disk is an error of the system, as of any other file."""

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
