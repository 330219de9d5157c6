"""Folders of models that want more than to be read: code in pickles and files, names of the hub, paths leading out."""

import json
import os
import socket
from contextlib import suppress

import pytest
import torch
from test_models_reading import edit_config

from skilloc.models.language import digest, open_model


class Evil:
    """What makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def pickled(folder):
    """The weights as old checkpoints have them."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def tried(monkeypatch):
    """Who was asked for: nobody can be reached."""
    asked = []

    def refused(*given, **more):
        asked.append(given)
        raise OSError("there is no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    return asked


def test_pickled_weights_that_are_weights_are_read(pickled, saved):
    assert digest(open_model(pickled).model) == digest(open_model(saved).model)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before zip"])
def test_code_in_pickled_weights_is_not_run(pickled, tmp_path, old):
    weights = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    first = next(iter(weights))
    evil = {**weights, first: Evil(tmp_path / "ran")}
    torch.save(evil, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"cannot open .* as a language model .*; copy or download the folder again"):
        open_model(pickled)
    assert not (tmp_path / "ran").exists()
    torch.load(pickled / "pytorch_model.bin", weights_only=False)  # so it would have
    assert (tmp_path / "ran").exists()


def test_beside_safetensors_no_pickle_is_read(folder, tmp_path, saved):
    torch.save(Evil(tmp_path / "ran"), folder / "pytorch_model.bin")
    assert digest(open_model(folder).model) == digest(open_model(saved).model)
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_tokenizer_is_not_run(folder, tmp_path):
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit\n")
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    with suppress(ValueError):  # of what else is in the folder, a tokenizer may be made
        open_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "names",
    [
        {"_name_or_path": "evil/model"},
        {"auto_map": {"AutoConfig": "evil/model--own.Own", "AutoModelForCausalLM": "evil/model--own.Model"}},
        {"tokenizer_class": "evil/model--own.Own", "base_model_name_or_path": "evil/model"},
    ],
    ids=["origin", "code", "tokenizer"],
)
def test_names_of_the_hub_in_a_config_are_not_followed(folder, saved, tried, names):
    edit_config(folder, **names)
    assert digest(open_model(folder).model) == digest(open_model(saved).model)
    assert not tried


def test_an_adapter_does_not_fetch_the_model_that_it_names(folder, saved, tried):
    adapter = {"base_model_name_or_path": "evil/model", "peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with suppress(ValueError):  # where the package for adapters is installed
        assert digest(open_model(folder).model) == digest(open_model(saved).model)
    assert not tried


@pytest.mark.parametrize("name", ["../other.safetensors", "part/../../other.safetensors", "/other.safetensors"])
def test_weights_outside_of_the_folder_are_refused(folder, name):
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    name = name if name.startswith((".", "p")) else str(folder.parent / "other.safetensors")
    (folder / "part").mkdir()
    weights = {"model.norm.weight": name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    with pytest.raises(ValueError, match=r'index\.json" names ".*other\.safetensors", which lies outside'):
        open_model(folder)


def test_links_are_followed_as_the_cache_of_the_hub_is_made_of_them(folder, saved):
    """Said in docs/reliability.md."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert digest(open_model(folder).model) == digest(open_model(saved).model)
