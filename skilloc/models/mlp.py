"""The toy network: a multilayer perceptron with a hook after every hidden layer's activation.

    h_0 = x,    h_i = activation(h_{i-1} W_i^T + b_i),    logits = h_{depth-1} W_out^T + b_out

`depth` counts linear layers, so there are depth - 1 hidden layers. The neurons of hidden layer i, counted from 0, are
the units of the hook `layers.{i}.hook_post`.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from skilloc import store
from skilloc.mistakes import WrongValue, a_seed, whole
from skilloc.models.written import write_weights

with warnings.catch_warnings():  # importing transformer-lens turns warnings off for good
    from transformer_lens import HookedRootModule
    from transformer_lens.hook_points import HookPoint

ACTIVATIONS = ("relu", "gelu", "silu", "tanh")

MODEL_TYPE = "skilloc-mlp"
"""`model_type` in the config.json of a saved network."""

WIDEST = 2**20
"""Inputs, outputs, neurons of a layer and layers, at most: a slip of the hand, where it is more."""

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Shape:
    """Sizes of a network.

    Attributes:
        d_in: number of inputs.
        d_out: number of outputs.
        widths: number of neurons in each hidden layer; they differ after pruning.
        activation: name of the activation function.
    """

    d_in: int
    d_out: int
    widths: tuple[int, ...]
    activation: str


class _Linear(nn.Module):
    """A linear map with torch's default initial values, from a generator of its own."""

    def __init__(self, d_in: int, d_out: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = d_in**-0.5
        self.weight = nn.Parameter(torch.empty(d_out, d_in).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(d_out).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Float[Tensor, "example d_in"]) -> Float[Tensor, "example d_out"]:
        return functional.linear(x, self.weight, self.bias)


class _Hidden(_Linear):
    """A linear map with the hook that its layer's activation passes."""

    def __init__(self, d_in: int, d_out: int, generator: torch.Generator) -> None:
        super().__init__(d_in, d_out, generator)
        self.hook_post = HookPoint()


class MLP(HookedRootModule):  # type: ignore[misc]
    """A hooked multilayer perceptron.

    Attributes:
        cfg: the sizes.
        layers: the hidden layers, each with `weight`, `bias` and `hook_post`.
        out: the output layer, with `weight` and `bias`.

    Raises:
        ValueError: if a size is below 1, or the activation is unknown.

    Example:
        >>> import torch
        >>> import skilloc as sk
        >>> model = sk.MLP(6, 2, width=8, depth=3)  # two hidden layers of 8
        >>> model(torch.zeros(1, 6)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        width: int | Sequence[int],
        depth: int,
        *,
        activation: str = "relu",
        seed: int = 0,
    ) -> None:
        """Make a network with torch's default initial values: uniform in +-1/sqrt(inputs of the layer).

        Args:
            d_in: number of inputs.
            d_out: number of outputs.
            width: number of neurons in every hidden layer, or one number per hidden layer.
            depth: number of linear layers.
            activation: "relu", "gelu", "silu" or "tanh".
            seed: of the initial values; the same as `torch.manual_seed` gives to a stack of `nn.Linear`.
        """
        super().__init__()
        for name, size in (("d_in", d_in), ("d_out", d_out), ("depth", depth)):
            whole(name, size, most=WIDEST)
        a_seed("seed", seed)
        widths = (width,) * (depth - 1) if isinstance(width, int) else tuple(width)
        if depth < 2 or len(widths) != depth - 1:
            raise WrongValue(
                f"`depth` is {depth} and `width` {width}; use at least 2 linear layers, and one width per hidden layer"
            )
        for size in widths:
            whole("width", size, most=WIDEST)
        if activation not in ACTIVATIONS:
            raise WrongValue(f'unknown `activation` "{activation}"; use one of {", ".join(ACTIVATIONS)}')
        self.cfg = Shape(d_in, d_out, widths, activation)
        self.activation = getattr(functional, activation)
        generator = torch.Generator().manual_seed(seed)
        sizes = (d_in, *widths)
        self.layers = nn.ModuleList(_Hidden(a, b, generator) for a, b in zip(sizes, widths, strict=False))
        self.out = _Linear(sizes[-1], d_out, generator)
        self.setup()
        self.eval()

    def forward(self, x: Float[Tensor, "example d_in"]) -> Float[Tensor, "example d_out"]:
        """Return the logits."""
        for layer in self.layers:
            x = layer.hook_post(self.activation(layer(x)))  # type: ignore[operator]
        return cast(Tensor, self.out(x))


def save_mlp(model: MLP, folder: Path | str) -> None:
    """Write a network as a folder of config.json and model.safetensors, whole or not at all.

    Raises:
        FileExistsError: if the folder is there already.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"`folder` {folder} is there already; save to another folder")
    with store.placed(folder) as aside:
        aside.mkdir()
        write_weights({name: p.detach().cpu().contiguous() for name, p in model.state_dict().items()}, aside / WEIGHTS)
        (aside / CONFIG).write_text(json.dumps({"model_type": MODEL_TYPE, **asdict(model.cfg)}, indent=1))
        store.write_manifest(aside)


def is_mlp_folder(folder: Path | str) -> bool:
    """Whether a folder says that it holds a network of this kind."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def open_mlp(folder: Path | str) -> MLP:
    """Read what `save_mlp` wrote.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no network of this kind, or is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no model at {folder}; save one with save_mlp, or pass another folder")
    if not is_mlp_folder(folder):
        raise WrongValue(f"{folder} holds no {MODEL_TYPE}; open it with open_model")
    store.check_manifest(folder, "save the model again")
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    try:
        widths = config["widths"]
        model = MLP(config["d_in"], config["d_out"], widths, len(widths) + 1, activation=config["activation"])
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise WrongValue(f"{folder} is damaged ({first}); save the model again") from error
    return model
