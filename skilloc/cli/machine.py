"""Where a model runs, and in which numbers: the options that every command has which opens one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from skilloc.mistakes import WrongValue

if TYPE_CHECKING:
    import torch

    from skilloc.models.language import Opened

DTYPES = ("float32", "bfloat16", "float16", "float64")
HALVES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Machine:
    """Where models run."""

    device: str = "cpu"
    """where the model runs: cpu, cuda, cuda:1, mps, or auto for the best of these"""
    dtype: Annotated[str, arg(metavar="float32|bfloat16|float16|float64")] = "float32"
    """numbers of the weights: float32, bfloat16, float16 or float64; effects are small, so measure in float32"""
    weights: Annotated[str | None, arg(metavar="bfloat16|float16", help_behavior_hint="")] = None
    """keep the weights in this type, in half of the memory, and compute in float32 all the same: of a checkpoint of
    this type the same numbers. For commands that do not train"""
    device_map: Annotated[str | None, arg(metavar="MAP", help_behavior_hint="")] = None
    """spread one model over several GPUs, such as auto or balanced; needs the accelerate package"""

    def check(self) -> None:
        """Refuse what is not there, before anything is read.

        Raises:
            ValueError: if there is no such device or type, or the two options contradict each other.
        """
        if self.dtype not in DTYPES:
            raise WrongValue(f'unknown `dtype` "{self.dtype}"; use {", ".join(DTYPES[:-1])} or {DTYPES[-1]}')
        if self.device_map is not None and self.device != "cpu":
            raise WrongValue(
                f'`device_map` is "{self.device_map}" and `device` "{self.device}"; a map says itself where everything '
                "goes, so leave `device` out"
            )
        if self.weights not in (None, *HALVES):
            raise WrongValue(f'unknown `weights` "{self.weights}"; use {" or ".join(HALVES)}')
        if self.weights is not None and self.dtype != "float32":
            raise WrongValue(
                f'`weights` is "{self.weights}", which are computed with in float32, but `dtype` is "{self.dtype}"; '
                "give one of them"
            )
        chosen = device_of(self.device)
        if chosen.type == "mps" and self.dtype == "float64":
            raise WrongValue('`dtype` is "float64", which a device of type mps has not; use float32, or the cpu')

    def open(self, name: str, *, trained: bool = False) -> "Opened":
        """Open a model there.

        Args:
            name: as of `open_model`.
            trained: whether it, or a copy, is going to be trained.

        Raises:
            ValueError: as `check`, or as `open_model`; or if weights that are to be trained are kept in half precision.
        """
        import torch

        from skilloc.models.language import open_model

        self.check()
        if trained and self.weights is not None:
            raise WrongValue(f"`weights` is {self.weights}, but this command trains, in float32; leave it out")
        settings: dict[str, Any] = {"device": device_of(self.device)}
        if self.device_map is not None:
            settings = {"device_map": self.device_map}
        if self.weights is not None:
            return open_model(name, weights=getattr(torch, self.weights), **settings)
        return open_model(name, dtype=getattr(torch, self.dtype), **settings)


def device_of(name: str) -> "torch.device":
    """Return a device of this machine by name; `auto` is the first there is of cuda, mps and cpu.

    Raises:
        ValueError: if there is none of this name.
    """
    import torch

    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        return torch.device(next(kind for kind, count in there.items() if count))
    kind, colon, place = name.partition(":")
    known = there.get(kind, 0)
    if not known or (colon and not (place.isdecimal() and int(place) < known)):
        names = [kind if count == 1 else f"{kind}:0 to {kind}:{count - 1}" for kind, count in there.items() if count]
        raise WrongValue(f'`device` is "{name}", which this machine does not have; use {" or ".join(names)}, or auto')
    return torch.device(name)
