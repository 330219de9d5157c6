"""Handwritten digits: a subtask per digit, or per set of digits such as the even ones.

An input is an image as one row of pixels from 0 to 1, a target one of ten classes, whatever the set: a network that
knows only even digits still has ten outputs [paper, section 4.2]. Splits are by the content of an image, so that equal
images are in one split, and an image is in the same split whatever else there is.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks.digit_files import fetched_digits
from skilloc.tasks.examples import Examples
from skilloc.tasks.subtask import Split, Subtask

FAMILY = "digits"
EVEN, ODD = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
_SHARES = {"train": 0.7, "selection": 0.85, "report": 1.0}


@dataclass(frozen=True)
class Digits:
    """Images of digits, by split.

    Attributes:
        images: pixels from 0 to 1, a row per image, by split.
        labels: which digit it is, by split.
        source: where they come from.
        digest: hash of all images and labels.
    """

    images: Mapping[Split, Float[Tensor, "image pixel"]]
    labels: Mapping[Split, Int[Tensor, " image"]]
    source: str
    digest: str


def digit_subtasks(groups: Mapping[str, Iterable[int]] | None = None, *, small: bool = False) -> dict[str, Subtask]:
    """Return subtasks of digits: the images of a set of digits, with the digit as the target.

    Args:
        groups: digits by the name of the subtask, such as `{"even": (0, 2, 4, 6, 8)}`; one subtask per digit,
            `digit_0` to `digit_9`, if not given.
        small: scikit-learn's 1,797 digits of 8 x 8 pixels instead of MNIST's of 28 x 28; they need no download.

    Raises:
        FileNotFoundError: if MNIST's digits have not been fetched, with the command.
        ModuleNotFoundError: if `small` and scikit-learn is not there.
        ValueError: if a group is empty or has what is no digit; on drawing, if a split holds too few images.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.tasks.digit_subtasks({"even": (0, 2, 4, 6, 8)}, small=True)
        >>> subtasks["even"].draw(3).inputs.shape
        torch.Size([3, 64])
    """
    chosen = {f"digit_{digit}": (digit,) for digit in range(10)} if groups is None else dict(groups)
    if not chosen:
        raise WrongValue("`groups` is empty; name at least one set of digits, or leave it out")
    held = _small() if small else _large()
    return {name: _subtask(name, tuple(digits), held) for name, digits in chosen.items()}


def _subtask(name: str, digits: tuple[int, ...], held: Digits) -> Subtask:
    if not digits or len(set(digits)) < len(digits) or not set(digits) <= set(range(10)):
        raise WrongValue(f'`groups` has "{name}" as {digits}; use some of the digits 0 to 9, each once')

    @cache
    def places(split: Split) -> Int[Tensor, " image"]:
        return torch.isin(held.labels[split], torch.tensor(digits)).nonzero()[:, 0]

    def sample(n: int, split: Split, seed: int) -> Examples:
        among = places(split)
        if n > len(among):
            raise WrongValue(
                f'`n` is {n} but the {split} split of subtask "{name}" has {len(among)} images ({held.source}); draw '
                "fewer or from another split"
            )
        order = np.random.default_rng([seed, get_args(Split).index(split)]).permutation(len(among))[:n]
        rows = among[torch.from_numpy(order)]
        return Examples(held.images[split][rows], held.labels[split][rows])

    sizes = {split: len(places(split)) for split in get_args(Split)}
    made = {"family": FAMILY, "digits": list(digits), "source": held.source, "hash": held.digest, "images": sizes}
    return Subtask(name, sample, (), made)


@cache
def _large() -> Digits:
    images, labels, source = fetched_digits()
    return _split(images, labels, source)


@cache
def _small() -> Digits:
    from sklearn.datasets import load_digits

    found = load_digits()
    return _split((found.data * (255 / 16)).round().astype(np.uint8), found.target.astype(np.int64), "scikit-learn")


def _split(images: np.ndarray, labels: np.ndarray, source: str) -> Digits:
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in images]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)  # not the order in the file
    shares = np.array([int.from_bytes(hashes[i][:8], "big") / 2**64 for i in order])
    pixels = torch.from_numpy(images[order].astype(np.float32) / 255)
    targets = torch.from_numpy(labels[order])
    bounds = np.searchsorted(shares, [0.0, *_SHARES.values()])
    parts = {split: slice(bounds[i], bounds[i + 1]) for i, split in enumerate(_SHARES)}
    everything = hashlib.sha256(images[order].tobytes() + labels[order].astype(np.int64).tobytes())
    return Digits(
        {split: pixels[part] for split, part in parts.items()},  # type: ignore[misc]
        {split: targets[part] for split, part in parts.items()},  # type: ignore[misc]
        source,
        everything.hexdigest()[:16],
    )
