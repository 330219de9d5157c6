"""Room for what may be larger than the memory: in files without a name, mapped, which the system keeps in memory as far
as it can. Where something lies does not change what it holds."""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence

import psutil
import torch
from torch import Tensor

SHARE = 0.5
"""Of the memory that is free; what would take more goes to files."""


def roomy(shapes: Mapping[str, Sequence[int]], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return empty tensors by name, on the devices and of the types of some others.

    On the CPU they lie in files of the folder for temporary files, where they would take more than `SHARE` of the
    memory that is free; the files have no name, and go when the tensors do.

    Args:
        shapes: by name.
        like: by the same names.

    Raises:
        OSError: if the disk has no room for them either.
    """
    sizes = {name: math.prod(shape) * like[name].element_size() for name, shape in shapes.items()}
    here = all(tensor.device.type == "cpu" for tensor in like.values())
    if not here or sum(sizes.values()) <= SHARE * psutil.virtual_memory().available:
        return {name: like[name].new_empty(tuple(shape)) for name, shape in shapes.items()}
    return {name: _in_a_file(tuple(shape), like[name].dtype, sizes[name]) for name, shape in shapes.items()}


def _in_a_file(shape: tuple[int, ...], dtype: torch.dtype, size: int) -> Tensor:
    with tempfile.NamedTemporaryFile(prefix="skilloc-") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))  # a full disk says so now, and not in the middle of a write
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype).view(shape)
