"""What a model draws while it is trained (dropout), as a function of the seed and the step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from skilloc.tasks.streams import seed_of

STREAM = 0xD407
"""What tells these seeds from those of a stream of examples."""


@contextmanager
def drawing(devices: Iterable[torch.device], seed: int, step: int, place: int = 0) -> Iterator[None]:
    """Let everything that is drawn globally come from a seed and a step, and put the global state back on leaving.

    So a step draws the same after any other steps, and nobody else's random numbers change. Of several processes, which
    have other examples, each draws its own (`place`).
    """
    generators = [torch.default_generator, *(_generator(device) for device in set(devices) if device.type != "cpu")]
    before = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed_of(STREAM, seed, step, *[place] * (place > 0)))
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    module = torch.get_device_module(device)
    index = module.current_device() if device.index is None else device.index
    generator: torch.Generator = module.default_generators[index]
    return generator
