import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from skilloc.models.language import digest, encoder, open_model


def edit_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_a_folder_without_a_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="pass a folder that transformers saved"):
        open_model(folder)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r'no config.json; did you mean ".*/model"\?'):
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


BIAS = "model.layers.0.self_attn.q_proj.bias"


def test_weights_that_the_config_does_not_use_are_named(folder):
    edit_weights(folder, lambda weights: weights.update({BIAS: torch.ones(32)}))
    named = r"does not use: model\.layers\.0\.self_attn\.q_proj\.bias; set the entry"
    with pytest.raises(ValueError, match=named) as said:
        open_model(folder)
    assert "attention_bias" in str(said.value)
    more = {f"model.layers.{i}.self_attn.{name}.bias": torch.zeros(n) for i in (0, 1) for name, n in SIZES.items()}
    edit_weights(folder, lambda weights: weights.update({**more, BIAS: torch.ones(32)}))
    edit_config(folder, attention_bias=True)  # the cure
    open_model(folder)
    edit_config(folder, attention_bias=False)
    edit_weights(folder, lambda weights: weights.pop(BIAS))  # the other one
    open_model(folder)


SIZES = {"q_proj": 32, "k_proj": 16, "v_proj": 16, "o_proj": 32}


def test_unused_weights_that_change_nothing_do_no_harm(folder):
    before = digest(open_model(folder).model)
    tied = "model.embed_tokens.weight"
    harmless = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
        "model.layers.0.self_attn.bias": torch.ones(1, 1, 48, 48),
        BIAS: torch.zeros(32),
    }
    edit_weights(folder, lambda weights: weights.update({**harmless, "lm_head.weight": weights[tied].clone()}))
    assert digest(open_model(folder).model) == before


def test_a_layer_too_many_is_named(folder):
    extra = {"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)}
    edit_weights(folder, lambda weights: weights.update(extra))
    with pytest.raises(ValueError, match=r"does not use: model\.layers\.2\.mlp\.up_proj\.weight"):
        open_model(folder)


def test_code_that_comes_with_a_checkpoint_is_not_run(folder, monkeypatch, tmp_path):
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"})
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit\n")
    monkeypatch.setattr("builtins.input", lambda *said: "y")  # nobody is asked
    with pytest.raises(ValueError, match="needs code that comes with it, which is not run here; open a model of"):
        open_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(folder, value):
    edit_weights(folder, lambda weights: weights["model.layers.0.self_attn.q_proj.weight"].view(-1)[7].fill_(value))
    with pytest.raises(ValueError, match=r"q_proj.*from before training diverged"):
        open_model(folder)


def test_huge_weights_are_numbers(folder):
    edit_weights(folder, lambda weights: weights["model.norm.weight"].fill_(1.5e38))  # their sum overflows
    open_model(folder)


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


def test_a_tokenizer_of_another_model(folder, new_tokenizer):
    larger = new_tokenizer(330)
    larger.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"go up to \d+, but the model has \d+ embeddings; put the tokenizer"):
        open_model(folder)


def test_an_added_token_without_an_embedding_does_no_harm(folder, tokenizer, new_tokenizer):
    padded = new_tokenizer()
    padded.add_special_tokens({"pad_token": "<pad>"})
    padded.save_pretrained(folder)
    assert open_model(folder).tokenizer.pad_token_id == len(tokenizer)


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
    info = SimpleNamespace(sha="0", siblings=[SimpleNamespace(rfilename=name) for name in ("a.gguf", "onnx/model.bin")])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, **options: info)
    with pytest.raises(ValueError, match=r"download its \.gguf file and pass its path"):
        open_model("someone/tiny-gguf")


def test_a_gguf_file_opens_as_the_model_it_was_made_from(gguf_file, saved, texts):
    opened, original = open_model(gguf_file), open_model(saved)
    ids = encoder(original.tokenizer)(texts)
    assert encoder(opened.tokenizer)(texts) == ids
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
