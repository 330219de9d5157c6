"""Open a language model: one function, and one spelling, for every place where a model can lie."""

import copy
import difflib
import hashlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from skilloc import store
from skilloc.mistakes import NotInstalled, WrongValue, of_kind
from skilloc.models.fetch import smollm2_folder
from skilloc.models.given import given_model
from skilloc.models.half import HALVES, compute_whole
from skilloc.models.mlp import is_mlp_folder, open_mlp
from skilloc.models.reading import Checkpoint, hub_folder, read_folder, read_gguf
from skilloc.models.saving import open_widths, saved_widths
from skilloc.models.wrapping import wrapped
from skilloc.tasks.reading import at_home

ASSETS = Path(__file__).resolve().parents[1] / "assets"
EMBEDDED = ASSETS / "embedded"
"""The small model that comes with the package: an ordinary Hugging Face folder, with a model card."""

SHIPPED = ("embedded", "embedded-without-python", "embedded-without-cpp", "embedded-without-english", "embedded-seed-1")
"""What comes with the package: the embedded model; and its siblings, which are its equal in all but what they read, or
in the seed."""

MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""How transformers can spread weights over devices by itself."""


class Opened(NamedTuple):
    """A model that is ready to be measured.

    Attributes:
        model: a `TransformerBridge` with the weights as they were saved, or an `MLP`; in evaluation mode.
        tokenizer: the model's tokenizer, as it was saved; None for an `MLP`, and for what came into memory without one.
        name: what was opened.
    """

    model: Any
    tokenizer: Any
    name: str

    def __repr__(self) -> str:
        """One line: a model prints itself over many."""
        tokenizer = "no tokenizer" if self.tokenizer is None else f"a {type(self.tokenizer).__name__}"
        return f'Opened("{self.name}": a {type(self.model).__name__} and {tokenizer})'


def open_model(
    name: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    weights: torch.dtype | None = None,
    device_map: Any = None,
) -> Opened:
    """Open a language model and wrap it for hooks; or take one that is in memory already.

    Nothing is folded, centred or otherwise processed: logits are those of transformers with eager attention. No code
    that comes with a checkpoint is run.

    Args:
        name: `embedded`, the small model of this package; `smollm2`, after `skilloc fetch smollm2`; a name on the
            Hugging Face hub, `owner/name`; a folder, also of a saved `MLP`; or a GGUF file, whose name ends in .gguf.
            A folder that is called like one of the others is opened as `./embedded`. Or a model in memory: one of
            transformers, whose weights are shared; a bridge, also in compatibility mode, which its name then says; an
            `MLP`; a described module. It is put into evaluation mode.
        tokenizer: of a model of transformers in memory; without one, it takes token ids (`Examples`) and no texts.
        device: where the weights go; the CPU if not given, and where it is for a model in memory.
        dtype: the type of the weights; effects are small, so float32 if not given, and as it is for a model in memory.
        weights: bfloat16 or float16, in which weights are kept, in half of the memory, while everything is computed in
            float32 (`models.half`); such a model is measured and copied, not trained. One in memory is kept so itself.
        device_map: instead of a device: how transformers spreads the weights over several (`from_pretrained`).

    Raises:
        FileNotFoundError: if there is no such model.
        ModuleNotFoundError: if a GGUF file is given and the gguf package is missing, or a map and accelerate is.
        TypeError: if it is neither a name nor a model, its tokenizer is none, or a module is given of which nobody has
            named the units.
        ConnectionError: if the hub is needed and cannot be reached.
        ValueError: if the name means nothing, the model is damaged or of an architecture that transformer-lens does not
            wrap, its tokenizer does not belong to it, or the device does not exist.

    Example:
        >>> import skilloc as sk
        >>> opened = sk.open_model("embedded")
        >>> opened.name, len(sk.units_of(opened.model))
        ('embedded', 2072)
    """
    of_kind("name", name, (str, Path, nn.Module), "use embedded, a folder, a name on the hub, or a model in memory")
    if name == "":
        raise WrongValue("`name` is empty; use embedded, a folder, a name on the hub, or a model in memory")
    if weights is None:
        return _open(name, tokenizer, device, dtype, device_map)
    if weights not in HALVES:
        raise WrongValue(f"`weights` is {weights}; use torch.bfloat16 or torch.float16, or `dtype` for another type")
    if dtype not in (None, torch.float32):
        raise WrongValue(
            f"`weights` is {weights}, which are computed with in float32, but `dtype` is {dtype}; leave it out"
        )
    opened = _open(name, tokenizer, device, weights, device_map)
    compute_whole(opened.model)
    return opened


def _open(
    name: str | Path | nn.Module,
    tokenizer: Any,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    device_map: Any,
) -> Opened:
    """Open a model, see `open_model`, whose weights are of one type."""
    if isinstance(name, nn.Module):
        if device_map is not None:
            raise WrongValue(f'`device_map` is "{device_map}", but the model is in memory already; leave it out')
        model, found, called = given_model(name, tokenizer, _bridge)
        moved = model if device is None else _moved(model, device)
        return Opened(moved if dtype is None else moved.to(dtype), found, called)
    if tokenizer is not None:
        raise WrongValue(f'`tokenizer` is given, but "{name}" has its own; leave it out')
    device, dtype = "cpu" if device is None else device, torch.float32 if dtype is None else dtype
    if device_map is not None:
        return _mapped(str(name), dtype, device_map)
    if str(name) not in (*SHIPPED, "smollm2"):
        folder = at_home(name)
        store.check_manifest(folder, "save or copy the model again")
        if is_mlp_folder(folder):
            return Opened(_moved(open_mlp(folder).to(dtype), device), None, str(name))
        if (widths := saved_widths(folder)) is not None:
            model, tokenizer = open_widths(
                folder, widths, dtype, lambda read: _bridge(read._replace(model=_moved(read.model, device)), str(name))
            )
            return Opened(model, tokenizer, str(name))
    checkpoint = _read(str(name), dtype)
    _moved(checkpoint.model, device)
    return Opened(_bridge(checkpoint, str(name)), checkpoint.tokenizer, str(name))


def _mapped(name: str, dtype: torch.dtype, device_map: Any) -> Opened:
    """Open a model whose weights lie on several devices."""
    if importlib.util.find_spec("accelerate") is None:
        raise NotInstalled(
            f'`device_map` is "{device_map}", which needs the accelerate package; pip install accelerate',
            name="accelerate",
        )
    if isinstance(device_map, str) and device_map not in MAPS:
        raise WrongValue(f'unknown `device_map` "{device_map}"; use {", ".join(MAPS)}, or a mapping of module names')
    folder = at_home(name)
    if is_mlp_folder(folder) or saved_widths(folder) is not None:
        raise WrongValue(
            f'`device_map` is "{device_map}", but "{name}" is a pruned model or an MLP, which lies on one device; use '
            "`device`"
        )
    checkpoint = _read(name, dtype, device_map)
    return Opened(_bridge(checkpoint, name), checkpoint.tokenizer, name)


def _moved(model: Any, device: torch.device | str) -> Any:
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise WrongValue(f'`device` is "{device}", which this machine does not have; use "cpu"') from error


def encoder(tokenizer: Any) -> Callable[[list[str]], list[list[int]]]:
    """Return a function from texts to token ids, without special tokens, padding or truncation.

    A special token that is written out in a text (`<|endoftext|>`) is encoded as the characters that it is.
    """
    if not getattr(tokenizer, "is_fast", False):
        return lambda texts: (
            list(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]) if texts else []
        )
    own = copy.deepcopy(tokenizer.backend_tokenizer)
    own.no_padding()
    own.no_truncation()
    own.encode_special_tokens = True
    return lambda texts: [found.ids for found in own.encode_batch_fast(texts, add_special_tokens=False)]


def separator(tokenizer: Any) -> int | None:
    """Return the token that stands between documents, or None if the tokenizer has none.

    It is the beginning-of-sequence token if the tokenizer puts that one first; else `<|endoftext|>`, if there is one
    (chat models keep it from pretraining, and end turns with another); else the end-of-sequence token.
    """
    first = tokenizer("a")["input_ids"][0]
    if first == tokenizer.bos_token_id:
        return int(first)
    found = tokenizer.get_vocab().get("<|endoftext|>", tokenizer.eos_token_id)
    return None if found is None else int(found)


def first_token(tokenizer: Any) -> int | None:
    """Return the token that the tokenizer puts before every text, or None if it puts none.

    Models that were trained so (Gemma, Llama) have seen no text without it, and are another model where it is missing.
    """
    special, plain = (list(tokenizer("a", add_special_tokens=added)["input_ids"]) for added in (True, False))
    return int(special[0]) if special != plain and special[0] != plain[0] else None


def context_length(model: nn.Module) -> int:
    """Return the longest sequence, in tokens, that the model was made for."""
    config: Any = model.cfg
    return int(config.n_ctx)


def digest(model: nn.Module) -> str:
    """Return 16 hex digits that name the weights: a SHA-256 over the name, type, shape and bytes of every parameter."""
    state = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        plain = parameter.detach().cpu().contiguous()
        state.update(f"{name.replace('_original_component.', '')} {plain.dtype} {tuple(plain.shape)}".encode())
        state.update(plain.flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()[:16]


def _read(name: str, dtype: torch.dtype, device_map: Any = None) -> Checkpoint:
    if name in SHIPPED:
        if not (ASSETS / name).is_dir():
            raise FileNotFoundError(
                f'the model "{name}" does not come with this installation, which has {_shipped()}; train it with '
                "analyses/train_embedded.py"
            )
        return read_folder(ASSETS / name, dtype=dtype, device_map=device_map)
    if name == "smollm2":
        return read_folder(smollm2_folder(), dtype=dtype, device_map=device_map)
    path = at_home(name)
    if name.endswith(".gguf"):
        return read_gguf(path, dtype=dtype, device_map=device_map)
    if path.is_dir():
        return read_folder(path, dtype=dtype, device_map=device_map)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return read_folder(hub_folder(name), dtype=dtype, device_map=device_map)
    near = difflib.get_close_matches(name, [*SHIPPED, "smollm2"], n=1)
    raise FileNotFoundError(
        f'there is no model "{name}"; '
        + (f"did you mean {near[0]}? " if near else "")
        + "use embedded, smollm2, a hub name such as openai-community/gpt2, a folder, or a .gguf file"
    )


def _shipped() -> str:
    return ", ".join(name for name in SHIPPED if (ASSETS / name).is_dir()) or "none"


def _bridge(checkpoint: Checkpoint, name: str) -> Any:
    bridge = wrapped(checkpoint.model, name, tokenizer=checkpoint.tokenizer)
    _check_causal(bridge, name, type(checkpoint.model).__name__)
    return bridge


def _check_causal(bridge: Any, name: str, kind: str) -> None:
    # BERT and its kin open as language models too, but they have seen the token that they are asked for. Many texts of
    # one beginning: where attention is nearly one-hot, a single other token may well leave the first logits alone.
    device = next(bridge.parameters()).device
    texts = torch.arange(16 * 8, device=device).reshape(16, 8) % bridge.cfg.d_vocab
    texts[:, 0] = texts[0, 0]
    with torch.no_grad():
        first = bridge(texts)[:, 0].float()
    if not torch.allclose(first, first[:1].expand_as(first), rtol=1e-3, atol=1e-3, equal_nan=True):
        raise WrongValue(
            f'"{name}" is a {kind} whose predictions depend on later tokens; open a decoder such as Llama or GPT-2'
        )
