"""Read a checkpoint with transformers, and refuse one that is cut, incomplete or not a language model.

What comes out is a plain `PreTrainedModel` in evaluation mode and its tokenizer; `language.open_model` wraps it.
"""

import importlib.util
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from skilloc.mistakes import NotInstalled, WrongValue

_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]

_BUFFERS = re.compile(r"(\.masked_bias|\.(attn|attention|self_attn)\.bias|inv_freq|position_ids|num_batches_tracked)$")
"""Names of what old checkpoints keep beside their weights: masks, positions and tables that a model makes itself."""


class Checkpoint(NamedTuple):
    """A model of transformers and its tokenizer, as they were saved."""

    model: Any
    tokenizer: Any


def read_folder(folder: Path, *, dtype: torch.dtype, device_map: Any = None) -> Checkpoint:
    """Read a model folder in the format of Hugging Face.

    Raises:
        FileNotFoundError: if the folder has no `config.json`.
        ValueError: if the files are damaged or do not belong together.
    """
    if not (folder / "config.json").is_file():
        if (folder / "model" / "config.json").is_file():
            raise FileNotFoundError(f'"{folder}" has no config.json; did you mean "{folder / "model"}"?')
        raise FileNotFoundError(
            f'"{folder}" has no config.json; pass a folder that transformers saved (`save_pretrained`), or a .gguf file'
        )
    return _read(folder, dtype, f'"{folder}"', "copy or download the folder again", device_map)


def read_gguf(path: Path, *, dtype: torch.dtype, device_map: Any = None) -> Checkpoint:
    """Read a GGUF file; quantised weights become numbers of `dtype`.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if the gguf package is missing.
        ValueError: if the file is damaged, or transformers cannot convert its architecture.
    """
    if not path.is_file():
        raise FileNotFoundError(f'there is no file "{path}"; check the path')
    if importlib.util.find_spec("gguf") is None:
        raise NotInstalled(f'opening "{path}" needs the gguf package; pip install "skilloc[gguf]"', name="gguf")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise WrongValue(f'"{path}" is not a GGUF file; pass a .gguf file or a model folder')
    checkpoint = _read(path.parent, dtype, f'"{path}"', "download the file again", device_map, gguf_file=path.name)
    # The weights are ordinary numbers by now; with these two marks, transformers would refuse to save them.
    del checkpoint.model.config.quantization_config
    checkpoint.model.hf_quantizer = None
    return checkpoint


def read_plain(folder: Path) -> Any:
    """Return the model of a folder as plain transformers opens it, in float32 and evaluation mode: the yardstick."""
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, trust_remote_code=False
        )
    return model.eval()


def hub_folder(name: str) -> Path:
    """Return the local copy of a model on the Hugging Face hub, downloading what is missing.

    Without network, the copy that an earlier download left is used.

    Raises:
        ValueError: if the hub has no such model, or it has no weights that transformers reads.
        ConnectionError: if there is neither a network nor a local copy.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = HfApi().model_info(name, timeout=10)
    except RepositoryNotFoundError as error:
        raise WrongValue(
            f'there is no folder "{name}", and the hub has no model of this name, or it is private or gated; check the '
            "name, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # the kinds for "no network" differ from one transport to the next
        try:
            return Path(snapshot_download(name, local_files_only=True, allow_patterns=[*_FILES, "*.safetensors"]))
        except OSError:
            raise ConnectionError(
                f'there is no folder "{name}", no earlier download, and the hub cannot be reached '
                f"({_first_line(error)}); connect to the network, or open `embedded`, a folder or a .gguf file"
            ) from error
    names = [file.rfilename for file in info.siblings or () if "/" not in file.rfilename]
    kinds = [kind for kind in (".safetensors", ".bin") if any(file.endswith(kind) for file in names)]
    if not kinds:
        raise WrongValue(f'"{name}" has no weights that transformers reads; download its .gguf file and pass its path')
    patterns = [*_FILES, f"*{kinds[0]}"]
    ignored = ["*/*", "consolidated*"]  # other formats of the same weights
    return Path(snapshot_download(name, revision=info.sha, allow_patterns=patterns, ignore_patterns=ignored))


def _read(folder: Path, dtype: torch.dtype, shown: str, cure: str, device_map: Any = None, **place: str) -> Checkpoint:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_inside(folder)
    with quiet():
        try:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                device_map=device_map,
                attn_implementation="eager",  # the one whose attention patterns can be hooked
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told apart below, with a clearer message
                **place,
            )
        except SafetensorError as error:
            raise WrongValue(f"the weights in {shown} are cut or damaged ({_first_line(error)}); {cure}") from error
        except Exception as error:  # one kind per damaged file and reader: ValueError, KeyError, struct.error, ...
            if "trust_remote_code" in str(error):
                raise WrongValue(
                    f"{shown} needs code that comes with it, which is not run here; open a model of an architecture "
                    "that transformers has"
                ) from error
            raise WrongValue(f"cannot open {shown} as a language model ({_first_line(error)}); {cure}") from error
        _check_loaded(loaded, shown, type(model).__name__)
        _check_used(loaded["unexpected_keys"], folder, shown, type(model).__name__)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **place)
        except Exception as error:
            raise WrongValue(
                f"{shown} has no tokenizer that can be read ({_first_line(error)}); save the model's tokenizer in the "
                "same folder"
            ) from error
    _check_finite(model, shown)
    check_vocabulary(model.get_input_embeddings().weight.shape[0], tokenizer, shown)
    return Checkpoint(model.eval(), tokenizer)


def _check_inside(folder: Path) -> None:
    """Refuse an index that looks for weights outside of its folder."""
    for index in folder.glob("*.index.json"):
        try:
            named = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
        except (ValueError, LookupError, TypeError, AttributeError):
            continue  # what is wrong with it, its reader says
        for name in sorted(named):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise WrongValue(
                    f'"{index}" names "{name}", which lies outside of the folder; open a folder that holds its own '
                    "weights"
                )


def _check_loaded(loaded: dict[str, Any], shown: str, kind: str) -> None:
    # transformers fills what is missing with random numbers, and says so in a table only.
    wanting = sorted(loaded["missing_keys"]) + sorted(str(key[0]) for key in loaded["mismatched_keys"])
    if wanting:
        raise WrongValue(
            f"{shown} lacks {len(wanting)} of the weights of a {kind}, or has them in another shape (the first is "
            f"{wanting[0]}); its config.json and its weights must be of the same model"
        )


def _check_used(unused: Iterable[str], folder: Path, shown: str, kind: str) -> None:
    # transformers leaves out what the configuration does not speak of, and the model computes something else.
    names = sorted(name for name in unused if not _BUFFERS.search(name))
    wrong = [name for name in names if not (name.endswith(".bias") and _is_zero(folder, name))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WrongValue(
            f"{shown} has weights that a {kind} of its config.json does not use: {', '.join(wrong[:3])}{more}; set "
            "the entry of config.json that switches them on (such as attention_bias), or take them out of the file"
        )


def _is_zero(folder: Path, name: str) -> bool:
    """Whether a weight in the safetensors files of a folder is zero throughout."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    home = json.loads(index.read_text())["weight_map"].get(name, "") if index.is_file() else "model.safetensors"
    if not (folder / home).is_file():
        return False
    with safe_open(folder / home, framework="pt") as file:
        return name in file.keys() and not bool(file.get_tensor(name).any())  # noqa: SIM118


def _check_finite(model: Any, shown: str) -> None:
    for name, parameter in model.named_parameters():
        # A sum is finite if all terms are, unless it overflows; only then is it worth to look at each.
        if not torch.isfinite(parameter.detach().sum()) and not bool(torch.isfinite(parameter.detach()).all()):
            raise WrongValue(
                f"{shown} has NaN or infinite weights (the first in {name}); use a checkpoint from before training "
                "diverged, or open it in another dtype"
            )


def check_vocabulary(rows: int, tokenizer: Any, shown: str) -> None:
    """Refuse a tokenizer that gives ids for which a model has no embedding.

    Args:
        rows: number of embeddings.
        tokenizer: the tokenizer.
        shown: how messages call the model.

    Raises:
        ValueError: if so.
    """
    # Added tokens do not count: some tokenizers have a padding token that the model never learnt, and no text has it.
    added = set(tokenizer.added_tokens_decoder)
    largest = max((index for index in tokenizer.get_vocab().values() if index not in added), default=-1)
    if largest >= rows or largest < 0:
        raise WrongValue(
            f"the tokenizer of {shown} does not belong to the model: its token ids go up to {largest}, but the model "
            f"has {rows} embeddings; put the tokenizer that the model was trained with in its place"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing warnings and progress bars about loading, and restore its settings."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    # A list that the first line announces is cut off, so that its announcement is, too.
    return lines[0][:160].removesuffix(" from one of:").rstrip(" :") if lines else type(error).__name__
