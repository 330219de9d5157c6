"""Tiny random models, opened without network or saved as files, and the promise that no test leaves a trace.

They are shared by the whole session. After each test, `untouched` compares their weights with the first digest and
looks for hooks, gradients and training mode that were left behind: whatever a test calls must put the model back.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from timed import LIST, named
from torch import Tensor

from skilloc.models.language import digest

# The same examples in every run, so that `make test` is about the code and not about luck; `make test-long` draws anew.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# Types and shapes are checked as those of the package. The folder is on the path, as for a script that is run.
ANALYSES = Path(__file__).parents[1] / "analyses"
install_import_hook([path.stem for path in ANALYSES.glob("*.py")], "typechecking.checked")

VOCABULARY, CONTEXT = 61, 64
_TEXTS = ["def add(a, b):\n    return a + b\n", "the cat sat on the mat", "void f(int x) { return; }", "ünïcödé ☃"]
_LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_NATIVE = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 40, "n_ctx": CONTEXT}

_models: dict[str, tuple[Any, tuple[str, int]]] = {}


def _state(model: Any) -> tuple[str, int]:
    """The weights, and the number of hooks that are not the libraries' own."""
    hooks = [hook for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    points = [hook for point in set(model.hook_dict.values()) for hook in (*point.fwd_hooks, *point.bwd_hooks)]
    ours = [hook for hook in hooks if hook.__module__.partition(".")[0] not in ("transformers", "transformer_lens")]
    return digest(model), len(ours) + len(points)


def _randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Large weights and biases, so that no unit is without effect, and evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=CONTEXT, **_LLAMA)
    return _bridged(LlamaForCausalLM(config))


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return _bridged(
        GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT))
    )


def _neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **_LLAMA)
    return _bridged(GPTNeoXForCausalLM(config))


def _native(**settings: Any) -> Any:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(**{**_NATIVE, "d_vocab": VOCABULARY, "seed": 0, **settings})
    return _randomised(TransformerBridge.boot_native(config))


def _bridged(model: Any) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model.set_attn_implementation("eager")
    return build_bridge_from_module(_randomised(model), type(model).__name__, hf_config=model.config).eval()


_BUILDERS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "neox": _neox,
    "native_gated_rms": lambda: _native(
        gated_mlp=True, act_fn="silu", normalization_type="RMS", n_key_value_heads=2, positional_embedding_type="rotary"
    ),
    "native_plain_ln": lambda: _native(act_fn="gelu", normalization_type="LN"),
    "native_gated_ln": lambda: _native(gated_mlp=True, act_fn="gelu", normalization_type="LN"),
    "native_plain_rms": lambda: _native(act_fn="relu", normalization_type="RMS"),
}


def _model(name: str) -> Any:
    if name not in _models:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _BUILDERS[name]()
        _models[name] = model, _state(model)
    return _models[name][0]


@pytest.fixture(scope="session")
def llama() -> Any:
    """Llama of transformers: 3 layers, gated, RMSNorm, rotary, 4 heads on 2 keys and values, no biases."""
    return _model("llama")


@pytest.fixture(scope="session")
def gpt2() -> Any:
    """GPT-2 of transformers: 2 layers, LayerNorm, biases, fused Conv1D projections, learned positions."""
    return _model("gpt2")


@pytest.fixture(scope="session")
def neox() -> Any:
    """GPT-NeoX of transformers: 3 layers, attention and MLP in parallel, biases, fused projections."""
    return _model("neox")


@pytest.fixture(scope="session")
def native_gated_rms() -> Any:
    """Native model of transformer-lens: 2 layers, gated, RMSNorm, rotary, grouped keys and values."""
    return _model("native_gated_rms")


@pytest.fixture(scope="session")
def native_plain_ln() -> Any:
    """Native model of transformer-lens: 2 layers, gelu with biases, LayerNorm."""
    return _model("native_plain_ln")


@pytest.fixture(scope="session", params=list(_BUILDERS))
def any_model(request: pytest.FixtureRequest) -> Any:
    """Each family in turn, also the natives that are gated with LayerNorm and plain with RMSNorm."""
    return _model(request.param)


@pytest.fixture(scope="session")
def tokens() -> Tensor:
    """Four sequences of 12 tokens."""
    return torch.randint(VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(1))


def _tokenizer(size: int = 300) -> Any:
    """A byte-level BPE of about `size` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def _tied_llama(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        initializer_range=0.3,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def _interleaved(weight: Any, heads: int) -> Any:
    """The order of rotary dimensions that GGUF keeps for Llama: pairs side by side instead of in halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _write_gguf(path: Path, model: Any, tokenizer: Any) -> None:
    gguf = pytest.importorskip("gguf")
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    saved = json.loads(tokenizer.backend_tokenizer.to_str())
    writer.add_token_list(sorted(saved["model"]["vocab"], key=saved["model"]["vocab"].get))
    writer.add_token_merges([" ".join(merge) for merge in saved["model"]["merges"]])
    writer.add_token_types([3] + [1] * (len(tokenizer) - 1))  # control, normal
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            values = _interleaved(
                values, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            )
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Documents on which the tokenizer was trained."""
    return list(_TEXTS)


@pytest.fixture(scope="session")
def new_tokenizer() -> Callable[..., Any]:
    """Train a byte-level BPE of about a given number of tokens."""
    return _tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of the saved model."""
    return _tokenizer()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny Llama with tied embeddings, as transformers saves it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    _tied_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The same Llama as a GGUF file in float32."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    _write_gguf(path, _tied_llama(len(tokenizer)), tokenizer)
    return path


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Fail a test that leaves a shared model with other weights, in training mode, or with a hook."""
    yield
    for name, (model, before) in _models.items():
        _models[name] = model, after = model, _state(model)  # what one test leaves, the next is not blamed for
        assert after == before, f"{name} was left with other weights or with hooks"
        assert not model.training, f"{name} was left in training mode"
        assert all(parameter.grad is None for parameter in model.parameters()), f"{name} was left with gradients"


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in the folder that a test file calls `home`; return its status, stdout and stderr."""
    from skilloc.cli import main

    monkeypatch.chdir(home)

    def run(*args: object) -> tuple[int, str, str]:
        status = 0
        try:
            main([str(arg) for arg in args])
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what a timed run found slow (see `timed`)."""
    slow = set(LIST.read_text().split())
    home = Path(__file__).parent
    for item in (one for one in items if one.path.is_relative_to(home)):
        module = ".".join(item.path.relative_to(home).with_suffix("").parts)
        if named(module, item.name) in slow:
            item.add_marker("slow")
