"""Write a Llama with layers of one width as a GGUF file, with the writer of the gguf package.

GGUF keeps the rotary dimensions of queries and keys in pairs side by side, where transformers has them in halves; each
head's rows are put in that order. All else is names and sizes.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from skilloc.mistakes import NotInstalled, WrongValue

FILE = "model.gguf"

NORMAL, CONTROL = 1, 3
"""Types of tokens in GGUF."""


def check_gguf(module: Any, tokenizer: Any) -> None:
    """Refuse what no GGUF file can be written of here.

    Args:
        module: a plain model of transformers.
        tokenizer: its tokenizer.

    Raises:
        ModuleNotFoundError: if the gguf package is missing.
        ValueError: if the model is no Llama without biases and scaled positions, or its tokenizer no byte-level BPE.
    """
    if importlib.util.find_spec("gguf") is None:
        raise NotInstalled('writing GGUF needs the gguf package; pip install "skilloc[gguf]"', name="gguf")
    config = module.config
    rope = getattr(config, "rope_parameters", None) or {}
    wrong = {
        f"a {config.model_type}": config.model_type != "llama",
        "a llama with biases": any(name.endswith(".bias") for name, _ in module.named_parameters()),
        f"a llama with positions of type {rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
        f"a llama with {getattr(config, 'hidden_act', None)}": getattr(config, "hidden_act", None) != "silu",
    }
    for what, so in wrong.items():
        if so:
            raise WrongValue(f"`model` is {what}, which is not written as GGUF here; leave the GGUF file out")
    _splitting(tokenizer)


def write_gguf(module: Any, tokenizer: Any, path: Path, *, name: str) -> None:
    """Write a model and its tokenizer as one GGUF file, with the numbers of its weights as they are, in float32.

    Args:
        module: a plain Llama of transformers.
        tokenizer: its tokenizer.
        path: of the file, whose name ends in .gguf.
        name: what the file says that the model is called.

    Raises:
        ModuleNotFoundError: as `check_gguf`.
        ValueError: as `check_gguf`.
    """
    check_gguf(module, tokenizer)
    import gguf

    writer, config = gguf.GGUFWriter(path, "llama"), module.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for parameter_name, parameter in module.named_parameters():
        values = parameter.detach().float().cpu().numpy()
        for projection, count in heads.items():
            values = _in_pairs(values, count) if projection in parameter_name else values
        writer.add_tensor(names.get_name(parameter_name, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _in_pairs(weight: Float[np.ndarray, "row d_model"], heads: int) -> Float[np.ndarray, "row d_model"]:
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _add_tokenizer(writer: Any, tokenizer: Any, size: int) -> None:
    saved = json.loads(tokenizer.backend_tokenizer.to_str())
    listed = {index: token for token, index in tokenizer.get_vocab().items()}
    special = {one["id"] for one in saved["added_tokens"] if one["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(tokenizer))
    # A model may have more rows than its tokenizer has tokens; a file has a token for each.
    writer.add_token_list([listed.get(index, f"[unused{index}]") for index in range(size)])
    writer.add_token_types([CONTROL if index in special else NORMAL for index in range(size)])
    merges = saved["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    for kind in ("bos", "eos", "pad"):
        if (index := getattr(tokenizer, f"{kind}_token_id")) is not None:
            getattr(writer, f"add_{kind}_token_id")(index)


def _splitting(tokenizer: Any) -> str:
    """Return what GGUF calls the way in which a tokenizer splits texts into words.

    Raises:
        ValueError: if it has no word for it.
    """
    saved = json.loads(tokenizer.backend_tokenizer.to_str()) if getattr(tokenizer, "is_fast", False) else {}
    splits = saved.get("pre_tokenizer") or {}
    parts = splits.get("pretokenizers", [splits])
    kinds = [part.get("type") for part in parts]
    bytewise = kinds[-1:] == ["ByteLevel"] and parts[-1].get("use_regex", True)
    if saved.get("model", {}).get("type") == "BPE" and bytewise and not saved.get("normalizer"):
        if len(parts) == 1:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
            return "smollm"
    raise WrongValue(
        "`tokenizer` splits texts in a way that GGUF has no name for here (a byte-level BPE is written); leave the "
        "GGUF file out"
    )
