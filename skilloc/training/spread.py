"""One run in several processes: what each does of a step, and how their parts come together.

    gradient of a step = sum over processes, and over the pieces of each, of the gradient of
                         (sum of the loss over the piece) / (number of scored targets of the whole step)

All processes draw the same examples, which are a function of the step, and each takes its own part of them. So the sum
is that of one process to rounding, also where parts have unequally many targets; a mean of means would not be. Whoever
starts the processes has also to join them: `joined`, of those of torchrun, or `torch.distributed.init_process_group`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, distributed, nn

from skilloc.mistakes import WrongValue, whole
from skilloc.tasks import Examples

Way = Literal["alone", "replicated", "sharded"]


@dataclass(frozen=True)
class Spread:
    """How a run is spread over processes. What comes of it is the same, to rounding.

    Attributes:
        way: "alone", also where there are other processes; "replicated", where each has all weights and gradients are
            summed, as DDP does; "sharded", where weights, gradients and the optimiser lie in shards (FSDP2), and each
            process besides holds the whole model for rules and evaluations.
        accumulate: number of pieces that each process cuts its part of a step into, one after the other.

    Example:
        >>> from skilloc.training.spread import Spread
        >>> Spread(accumulate=4).way
        'alone'
    """

    way: Way = "alone"
    accumulate: int = 1

    def __post_init__(self) -> None:
        whole("accumulate", self.accumulate)
        if self.way not in get_args(Way):
            raise WrongValue(f'unknown `way` "{self.way}"; use one of {", ".join(get_args(Way))}')


def started() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that torchrun started, if it did; give whether this is the first, which writes and prints.

    They talk by NCCL where there are GPUs, one for each process, else by gloo.
    """
    if not started():
        yield True
        return
    if gpu := torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        yield distributed.get_rank() == 0
    finally:
        distributed.destroy_process_group()


def place_of(spread: Spread) -> tuple[int, int]:
    """Return the number of this process, counted from 0, and how many there are.

    Raises:
        ValueError: if there should be several, and nobody has joined them.
    """
    if spread.way == "alone":
        return 0, 1
    if not (distributed.is_available() and distributed.is_initialized()):
        raise WrongValue(
            f'`spread` is "{spread.way}", but no processes are joined; start them with torchrun (in your program, '
            'call torch.distributed.init_process_group first), or train "alone"'
        )
    return distributed.get_rank(), distributed.get_world_size()


def pieces_of(examples: Examples, spread: Spread) -> list[Examples]:
    """Return the part of a step's examples that this process has, in pieces.

    Raises:
        ValueError: if they cannot be cut into equally many examples.
    """
    place, processes = place_of(spread)
    count = processes * spread.accumulate
    if len(examples) % count:
        raise WrongValue(
            f"a step has {len(examples)} examples, but `spread` cuts it into {count} pieces ({processes} processes, "
            f"{spread.accumulate} each); use a multiple of {count}"
        )
    if count == 1:
        return [examples]
    size = len(examples) // count
    first = place * spread.accumulate
    return [examples.part(slice(i * size, (i + 1) * size)) for i in range(first, first + spread.accumulate)]


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each process the sum of all gradients: one message per type, not one per weight."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            kinds.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for found in kinds.values():
        joined = torch.cat([gradient.flatten() for gradient in found])
        distributed.all_reduce(joined)
        for gradient, part in zip(found, torch.split(joined, [gradient.numel() for gradient in found]), strict=True):
            gradient.copy_(part.view_as(gradient))


def summed(value: Tensor, spread: Spread) -> Tensor:
    """Return the sum of a number over all processes."""
    if spread.way != "alone":
        distributed.all_reduce(value)
    return value


def agreed(row: Mapping[str, float], spread: Spread) -> dict[str, float]:
    """Return what the first process found, so that all stop, and steer, alike."""
    found = [dict(row)]
    if spread.way != "alone":
        distributed.broadcast_object_list(found, src=0)
    return found[0]


def wait(spread: Spread) -> None:
    """Wait until all processes are here."""
    if spread.way != "alone":
        distributed.barrier()
