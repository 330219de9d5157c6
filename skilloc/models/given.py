"""Open a model that is in memory already: of transformers, a bridge, a network, or a described module."""

from collections.abc import Callable
from typing import Any

from torch import nn

from skilloc.mistakes import of_kind
from skilloc.models.described import Described
from skilloc.models.makers import face_of
from skilloc.models.reading import Checkpoint, check_vocabulary


def given_model(
    model: nn.Module, tokenizer: Any, bridge: Callable[[Checkpoint, str], Any]
) -> tuple[nn.Module, Any, str]:
    """Return a model that can be measured, its tokenizer, and what it is called.

    A model of transformers is set to eager attention, the one whose patterns can be hooked, and wrapped; its weights
    are shared.

    Args:
        model: what the user has; it is put into evaluation mode.
        tokenizer: its tokenizer; that of a bridge if not given. Without one, only token ids can be asked for.
        bridge: wraps a model of transformers, under a name.

    Raises:
        ValueError: if transformer-lens does not wrap the model, or it comes with another's tokenizer.
        TypeError: if the tokenizer is none, or it is a module of which nobody has named the units.
    """
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    kind = type(model).__name__
    if tokenizer is not None:
        cure = "pass the tokenizer itself, such as AutoTokenizer.from_pretrained(...) gives it"
        of_kind("tokenizer", tokenizer, PreTrainedTokenizerBase, cure)
    if isinstance(model, PreTrainedModel):
        if tokenizer is not None:
            check_vocabulary(model.get_input_embeddings().weight.shape[0], tokenizer, f"this {kind}")
        model.set_attn_implementation("eager")
        name = str(model.config._name_or_path or kind)
        return bridge(Checkpoint(model.eval(), tokenizer), name), tokenizer, name
    face = face_of(model)
    if isinstance(model, Described) or face.chain is not None:
        return model.eval(), tokenizer, face.architecture
    own: Any = model
    found = own.tokenizer if tokenizer is None else tokenizer
    if found is not None:
        check_vocabulary(int(own.cfg.d_vocab), found, f"this {face.architecture}")
    folded = " (compatibility mode)" if own.compatibility_mode else ""
    return model.eval(), found, f"{own.cfg.model_name or face.architecture}{folded}"
