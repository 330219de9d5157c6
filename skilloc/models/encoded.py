"""A bridge as transformers would have it on disk: a configuration, and named weights.

Where all layers are equally wide, the configuration says how wide, and plain `from_pretrained` reads the weights. Where
they are not, transformers has no class for it: the configuration keeps the sizes that the model was made with, and the
entry "skilloc" beside it the widths of the hooks that were cut. Only what was cut is asked about: a model from which
nothing was taken is encoded whatever its architecture.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.models.cutting import key_groups
from skilloc.models.reading import quiet
from skilloc.models.residual_saved import residual_config, residual_record
from skilloc.models.unfolded import unfolded
from skilloc.models.unwrapped import plain, transposed
from skilloc.models.weights import architecture, banks_of, output_projection
from skilloc.models.wrapping import run_experts
from skilloc.units import HEAD, NEURON

Widths = dict[str, tuple[int, int]]
"""Per hook: the number of units, and of keys that its heads share out among them (0 for neurons)."""

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}
"""Largest difference of logits, relative to the largest, of one model in two forms; 0.05 in fewer bits."""

_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_KEYS = ("num_key_value_heads", "num_kv_heads")


@dataclass(frozen=True)
class Encoded:
    """A model in the form of transformers.

    Attributes:
        kind: its class in transformers.
        config: its configuration.
        weights: its weights by name, each memory once.
        cut: widths of the hooks that have others than the configuration says.
        biases: names of weights that a model of this class does not have.
        stream: the width of a residual stream that was cut, where the configuration has no word for it.
    """

    kind: type
    config: Any
    weights: dict[str, Tensor]
    cut: Widths = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    stream: Mapping[str, Any] | None = None

    @property
    def stock(self) -> bool:
        """Whether plain transformers reads it."""
        return not self.cut and not self.biases and self.stream is None


def encode(model: Any) -> Encoded:
    """Return a bridge in the form of transformers, with the widths that it has.

    Raises:
        ValueError: if it wraps no model of transformers.
    """
    check_wrapped(model)
    config = configured(model.original_model)
    stock = stock_shapes(config)
    model = unfolded(model, stock)
    module = plain(model)
    weights = _weights(module, stock)
    biases = tuple(sorted(set(weights) - set(stock)))
    cut = cut_widths(model)
    stream = residual_record(model)
    if (cut or stream) and not biases:
        uniform = with_widths(config, model, _shared(model, cut))
        uniform = None if uniform is None else residual_config(model, module, uniform)
        if uniform is not None and fits(uniform, weights):
            return Encoded(type(module), uniform, weights)
    return Encoded(type(module), config, weights, cut, biases, stream)


def check_wrapped(model: Any) -> None:
    """Refuse what wraps no model of transformers.

    Raises:
        ValueError: naming what it wraps.
    """
    if not hasattr(getattr(model, "original_model", None), "save_pretrained"):
        raise WrongValue(
            f"`model` is a {architecture(model)}, which transformers cannot save; save a model that open_model opened, "
            "or an MLP"
        )


def cut_widths(model: Any) -> Widths:
    """Return the widths of the hooks whose units are not as many as the configuration of the model says."""
    copies: dict[int, Any] = {}
    module = plain(model, copies)
    names = {id(part): name for name, part in module.named_modules()}
    stock, found = stock_shapes(module.config), {}
    for bank in banks_of(model):
        projection = copies.get(id(output_projection(model, bank.name)))
        name = f"{names.get(id(projection))}.weight"
        inputs = 0 if transposed(projection) else 1
        if name in stock and projection is not None and projection.weight.shape[inputs] != stock[name][inputs]:
            found[bank.name] = bank.width, key_groups(model, bank.name) if bank.kind == HEAD else 0
    return found


def with_widths(config: Any, model: Any, widths: Mapping[str, tuple[int, int]]) -> Any:
    """Return a configuration with one number of units per kind for all layers, or None if it has no word for it."""
    made = copy.deepcopy(config)
    for kind, (width, keys) in widths.items():
        said = {name: width for name in (_WIDTHS if kind == NEURON else _HEADS) if _settable(made, name)}
        if kind == HEAD:
            said |= {name: keys for name in _KEYS if _settable(made, name)}
            said |= {name: int(model.cfg.d_head) for name in ("head_dim",) if _settable(made, name)}
        if not said:
            return None
        for name, value in said.items():
            setattr(made, name, value)
    return made


def _settable(config: Any, name: str) -> bool:
    described = getattr(type(config), name, None)
    return hasattr(config, name) and not (isinstance(described, property) and described.fset is None)


def _shared(model: Any, cut: Widths) -> dict[str, tuple[int, int]]:
    """Return the widths that all layers share, by kind; a kind whose layers differ is not there."""
    found = {}
    for kind in (NEURON, HEAD):
        hooks = [bank.name for bank in banks_of(model) if bank.kind == kind]
        sizes = {cut.get(hook) for hook in hooks}
        if len(sizes) == 1 and (size := sizes.pop()) is not None:
            found[kind] = size
    return found


def stock_shapes(config: Any) -> dict[str, torch.Size]:
    """Return the shapes that transformers gives to the weights of a configuration."""
    from transformers import AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        made = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=False)
        return {name: value.shape for name, value in made.state_dict().items()}


def fits(config: Any, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights have the shapes that a configuration wants."""
    try:
        stock = stock_shapes(config)
    except (ValueError, RuntimeError, TypeError, AttributeError):  # sizes that do not go together here
        return False
    return all(stock.get(name) == value.shape for name, value in weights.items())


@torch.no_grad()
def difference(model: Any, encoded: Encoded) -> float:
    """Return by how much logits differ once plain transformers has read a model, relative to the largest.

    Raises:
        ValueError: if transformers does not read it, or reads only a part.
    """
    with quiet(), torch.random.fork_rng(devices=[]):  # some models make initial values, and overwrite them
        read, loaded = encoded.kind.from_pretrained(  # type: ignore[attr-defined]
            None,
            config=copy.deepcopy(encoded.config),
            state_dict=dict(encoded.weights),
            dtype=next(iter(encoded.weights.values())).dtype,
            attn_implementation="eager",
            output_loading_info=True,
        )
    wrong = [*loaded["missing_keys"], *loaded["unexpected_keys"], *loaded["mismatched_keys"]]
    if wrong:
        raise WrongValue(f"plain transformers does not read {wrong[0]} of this {encoded.kind.__name__}")
    run_experts(read)
    return apart(model, lambda tokens: read.eval()(tokens.cpu(), use_cache=False).logits)


@torch.no_grad()
def apart(model: Any, other: Callable[[Tensor], Tensor]) -> float:
    """Return the largest difference of logits on two short rows of random tokens, relative to the largest logit."""
    length, vocabulary = min(16, int(model.cfg.n_ctx)), int(model.cfg.d_vocab)
    tokens = torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(next(model.parameters()).device)
    wanted, found = model(tokens).float().cpu(), other(tokens).float().cpu()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))


def tolerance(model: Any) -> float:
    """Return how much logits may differ, relative to the largest, and still be those of the same model."""
    return TOLERANCE.get(next(model.parameters()).dtype, 0.05)


def configured(module: Any) -> Any:
    """Return the configuration of a module as it is now.

    Compatibility mode takes the embeddings apart, and folds the scale of logits (Cohere) into the unembedding.
    """
    config = copy.deepcopy(module.config)
    config.architectures = [type(module).__name__]
    for name, value in vars(module).items():
        if type(value) in (int, float) and type(getattr(config, name, None)) in (int, float):
            setattr(config, name, value)
    ends = module.get_input_embeddings(), module.get_output_embeddings()
    if all(end is not None for end in ends) and ends[0].weight.data_ptr() != ends[1].weight.data_ptr():
        for part in {id(c): c for c in (config, config.get_text_config())}.values():
            part.tie_word_embeddings = False
    return config


def _weights(module: Any, stock: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return the weights to save: each memory once, and no bias that the bridge gave to the unembedding in vain."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict().items():
        if value.data_ptr() in seen or (name not in stock and not bool(value.any())):
            continue
        seen.add(value.data_ptr())
        found[name] = value.detach().cpu().contiguous()
    return found
