import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from skilloc import store
from skilloc.effects import Effects
from skilloc.store import Labelled
from skilloc.units import Units, neurons

SPEC = {"width": 64, "seed": 0, "reg": {"lam": 1e-3, "kinds": ["lasso", "l0"]}}
METRICS = {"loss": 0.25, "steps": 3}
FILES = ("spec.json", "metrics.json", "tensors.safetensors", "manifest.json")


def effects() -> Labelled:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    return Labelled(values, ("subtask", "unit"), {"subtask": ("parity_0", "parity_1")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store.write(tmp_path / "one", SPEC, METRICS, {"effects": effects()})
    return tmp_path / "one"


def test_what_was_written_is_read(folder: Path) -> None:
    result = store.read(folder)
    assert result.spec == SPEC
    assert result.metrics == METRICS
    assert list(result.arrays) == ["effects"]
    array = result.arrays["effects"]
    assert np.array_equal(array.values, effects().values)
    assert array.values.dtype == np.float32
    assert array.dims == ("subtask", "unit")
    assert array.coords == {"subtask": ("parity_0", "parity_1")}
    assert store.is_complete(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["one"]


def test_the_key_is_the_hash_of_the_spec_file(folder: Path) -> None:
    assert store.key(SPEC) == hashlib.sha256((folder / "spec.json").read_bytes()).hexdigest()[:16]


def test_the_key_depends_on_content_only() -> None:
    shuffled = {"reg": {"kinds": ("lasso", "l0"), "lam": np.float64(1e-3)}, "seed": np.int32(0), "width": 64}
    assert store.key(shuffled) == store.key(SPEC)
    assert store.key(SPEC | {"seed": 1}) != store.key(SPEC)
    assert store.key({"lam": 1}) != store.key({"lam": 1.0})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), plain, max_size=4))
def test_canonical_json_reads_back_as_the_spec(spec: dict[str, object]) -> None:
    text = store.canonical(spec)
    assert json.loads(text) == spec
    assert store.canonical(json.loads(text)) == text


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"reg": {"kinds": ["lasso", {1, 2}]}}, r"`spec\.reg\.kinds\[1\]` is of type set"),
        ({"width": np.arange(3)}, r"`spec\.width` is of type ndarray.*pass arrays as `arrays`"),
        ({"reg": {"lam": float("nan")}}, r"`spec\.reg\.lam` is nan.*use a finite number or None"),
        ({"reg": {3: "x"}}, r"`spec\.reg` has the key 3 of type int; make every key a string"),
        ({"file": Path("x")}, r"`spec\.file` is of type"),
        ({"when": np.datetime64("2026-01-01")}, r"`spec\.when` is of type date"),
    ],
)
def test_a_spec_that_json_cannot_hold_is_refused_by_key_path(
    tmp_path: Path, spec: dict[str, object], path: str
) -> None:
    with pytest.raises(TypeError, match=path):
        store.canonical(spec)
    with pytest.raises(TypeError, match=path):
        store.write(tmp_path / "one", spec, METRICS)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_become_null_in_metrics(tmp_path: Path) -> None:
    metrics = {"loss": float("nan"), "curve": [np.float32("inf"), np.float32(0.5)], "best": {"step": np.int64(3)}}
    store.write(tmp_path / "one", SPEC, metrics)
    assert store.read(tmp_path / "one").metrics == {"loss": None, "curve": [None, 0.5], "best": {"step": 3}}


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "i8", "f2", "f4", "f8", ">f4", ">i8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_keep_values_and_dtype(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    store.write(tmp_path / "one", SPEC, {}, {"a": Labelled(values, ("x", "y")[: len(shape)])})
    read = store.read(tmp_path / "one").arrays["a"].values
    assert read.shape == shape
    assert read.dtype == values.dtype.newbyteorder("=")
    assert np.array_equal(read, values)


def test_arrays_that_are_not_contiguous_keep_their_values(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(4, 6)
    arrays = {"turned": Labelled(values.T, ("y", "x")), "stepped": Labelled(values[::2, ::-3], ("x", "y"))}
    store.write(tmp_path / "one", SPEC, {}, arrays)
    read = store.read(tmp_path / "one").arrays
    assert all(np.array_equal(read[name].values, arrays[name].values) for name in arrays)


def test_nan_and_infinity_survive_in_arrays(tmp_path: Path) -> None:
    values = np.array([np.nan, np.inf, -np.inf, -0.0])
    store.write(tmp_path / "one", SPEC, {}, {"a": Labelled(values, ("unit",))})
    assert store.read(tmp_path / "one").arrays["a"].values.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("array", "error", "cure"),
    [
        (Labelled(np.array(["a", "b"]), ("unit",)), TypeError, "pass strings as `coords`"),
        (Labelled(np.array([1j]), ("unit",)), TypeError, "booleans, integers or floats"),
        (Labelled(np.zeros((2, 3)), ("unit",)), ValueError, "give each axis a name of its own"),
        (Labelled(np.zeros((2, 3)), ("unit", "unit")), ValueError, "give each axis a name of its own"),
        (Labelled(np.zeros(2), ("unit",), {"subtask": ("a", "b")}), ValueError, "use one of its dims"),
        (Labelled(np.zeros(2), ("unit",), {"unit": ("a",)}), ValueError, "one label per entry"),
        (Labelled(np.zeros(2), ("unit",), {"unit": (1, 2)}), TypeError, "make each label a string"),  # type: ignore[dict-item]
    ],
)
def test_arrays_that_cannot_be_stored_are_refused(
    tmp_path: Path, array: Labelled, error: type[Exception], cure: str
) -> None:
    with pytest.raises(error, match=cure):
        store.write(tmp_path / "one", SPEC, METRICS, {"a": array})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_an_altered_byte_is_refused_by_name(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 50)):
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"/one: .*make the result again"):
            store.read(folder)
    (folder / name).write_bytes(whole)
    assert store.read(folder).metrics == METRICS


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 0.5, -1])
def test_a_cut_file_is_refused_by_name(folder: Path, name: str, kept: float) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(kept * len(whole)) if kept >= 0 else -1])
    assert not store.is_complete(folder)
    with pytest.raises(ValueError, match=rf"/one: {name} is cut.*move the folder elsewhere"):
        store.read(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert not store.is_complete(folder)
    with pytest.raises(ValueError, match=rf"/one: {name} is missing.*move the folder elsewhere"):
        store.read(folder)


def test_another_format_version_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"format": 2}))
    assert not store.is_complete(folder)
    with pytest.raises(ValueError, match="has format 2 but this skilloc reads format 1"):
        store.read(folder)


def test_tensors_without_labels_are_refused_even_with_a_right_hash(folder: Path) -> None:
    from safetensors.numpy import save

    data = save({"a": np.zeros(2)})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["tensors.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "tensors.safetensors").write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"/one: tensors.safetensors cannot be read"):
        store.read(folder)


def test_nothing_there(tmp_path: Path) -> None:
    assert not store.is_complete(tmp_path / "one")
    with pytest.raises(FileNotFoundError, match="make it first"):
        store.read(tmp_path / "one")


def test_the_second_writer_loses_quietly(folder: Path) -> None:
    store.write(folder, SPEC, {"loss": 9.0})
    assert store.read(folder).metrics == METRICS
    assert sorted(path.name for path in folder.parent.iterdir()) == ["one"]


def test_a_folder_of_another_spec_is_left_alone(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"holds the result of another spec.*another folder"):
        store.write(folder, SPEC | {"seed": 1}, METRICS)
    assert store.read(folder).spec == SPEC
    assert sorted(path.name for path in folder.parent.iterdir()) == ["one"]


def test_a_folder_that_is_no_result_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not a complete result; write to another folder"):
        store.write(tmp_path / "one", SPEC, METRICS)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["thesis.tex"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


def test_many_writers_at_once_leave_one_whole_result(tmp_path: Path) -> None:
    errors = []

    def write(writer: int) -> None:
        try:
            for spec in range(10):
                store.write(tmp_path / f"{spec}", {"spec": spec}, {"writer": writer}, {"a": effects()})
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{spec}" for spec in range(10)]
    assert all(store.read(tmp_path / f"{spec}").spec == {"spec": spec} for spec in range(10))


@pytest.mark.parametrize(
    ("function", "code"),
    [("fsync", errno.ENOSPC), ("replace", errno.EDQUOT), ("mkdir", errno.EROFS), ("mkdir", errno.EACCES)],
)
def test_a_full_or_read_only_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, refuse)
    with pytest.raises(OSError, match=f"cannot write the result .*{os.strerror(code)}.*run again") as caught:
        store.write(tmp_path / "one", SPEC, METRICS, {"effects": effects()})
    assert caught.value.errno == code
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    store.write(tmp_path / "one", SPEC, METRICS, {"effects": effects()})
    assert store.read(tmp_path / "one").metrics == METRICS


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r") -> object:
        return opened(Path("/dev/full") if self.name == "tensors.safetensors" else self, mode)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left on device"):
        store.write(tmp_path / "one", SPEC, METRICS, {"effects": effects()})
    assert not list(tmp_path.iterdir())


def test_a_parent_that_is_a_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="choose a folder"):
        store.write(tmp_path / "file" / "one", SPEC, METRICS)


def test_old_leftovers_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    old, young = tmp_path / f".one.{'a' * 16}.aside", tmp_path / f".one.{'b' * 16}.aside"
    others = [tmp_path / ".git", tmp_path / ".notes.aside", tmp_path / "one"]
    for folder in (old, young, *others):
        folder.mkdir()
        (folder / "spec.json").touch()
        if folder != young:
            os.utime(folder, (time.time() - 2 * 86400,) * 2)
    file = tmp_path / f".plan.json.{'c' * 16}.aside"
    twice = tmp_path / f"..one.{'d' * 16}.aside.{'e' * 16}.aside"
    for path in (file, twice):
        path.touch()
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    assert store.clear_leftovers(tmp_path, name="one") == 2
    assert not old.exists()
    assert not twice.exists()
    assert store.clear_leftovers(tmp_path) == 1
    assert not file.exists()
    assert all(folder.exists() for folder in (young, *others))
    assert store.clear_leftovers(tmp_path / "absent") == 0


def test_the_table_has_one_row_per_result(tmp_path: Path) -> None:
    store.write(tmp_path / "b", {"reg": {"lam": 0.1}, "seed": 1}, {"loss": float("nan"), "best": {"step": 2}})
    store.write(tmp_path / "deep" / "a", {"reg": {"lam": 0.2}}, {"loss": 0.5})
    store.write(tmp_path / ".hidden", {}, {})
    (tmp_path / "empty").mkdir()
    table = store.table(tmp_path)
    assert list(table.columns) == ["spec.reg.lam", "spec.seed", "metrics.best.step", "metrics.loss"]
    assert list(table.index) == ["b", "deep/a"]
    assert list(table["spec.reg.lam"]) == [0.1, 0.2]
    assert table["metrics.loss"].isna().tolist() == [True, False]


def test_the_table_of_nothing_is_empty(tmp_path: Path) -> None:
    assert len(store.table(tmp_path)) == 0
    with pytest.raises(FileNotFoundError, match="pass the folder that holds the results"):
        store.table(tmp_path / "absent")


@pytest.mark.parametrize("name", FILES)
def test_the_table_names_a_damaged_result(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{")
    with pytest.raises(ValueError, match=rf"/one: {name} is cut"):
        store.table(folder.parent)


def test_the_store_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, skilloc.store; print([m for m in ('torch', 'pandas', 'dask') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_file_appears_whole_or_not_at_all_and_clears_what_a_killed_writer_left(tmp_path: Path) -> None:
    left = tmp_path / f".a.json.{'0' * 16}.aside"
    young, other = tmp_path / f".a.json.{'1' * 16}.aside", tmp_path / f".b.json.{'0' * 16}.aside"
    for path in (left, young, other):
        path.touch()
    for path in (left, other):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    store.write_json(tmp_path / "a.json", {"x": [1, 2.5, "ü"], "y": None})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([young.name, other.name, "a.json"])
    assert store.read_json(tmp_path / "a.json") == {"x": [1, 2.5, "ü"], "y": None}

    def die(aside: Path) -> None:
        aside.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), store.placed(tmp_path / "a.json") as aside:
        die(aside)
    assert store.read_json(tmp_path / "a.json")["y"] is None


def test_folders_of_others_are_left_as_they_are(tmp_path: Path) -> None:
    """Where somebody names a folder of theirs as `out`, nothing is taken away in it, nor in what lies below it."""
    aside = f".one.{'0' * 16}.aside"
    data, runs = tmp_path / "data", tmp_path / "runs"
    for folder in (data, data / "deep", runs, runs / "parts", runs / "parts" / "pictures"):
        folder.mkdir()
        (folder / aside).touch()
    (data / "table.csv").write_text("1,2")
    store.write_json(runs / "request.json", {"x": 1})
    (runs / "parts" / "notes.txt").write_text("mine, in a folder of a study")
    assert [store.is_ours(folder) for folder in (data, data / "deep", runs)] == [False, None, True]
    for place in (tmp_path, data):
        with store.at_work(place, inside=True):
            pass
        assert (data / aside).exists()
        assert (data / "deep" / aside).exists()
    assert not list(runs.rglob("*.aside"))


def test_what_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="file"), store.at_work(tmp_path / "new" / ".." / "file" / "below", inside=True):
        pass
    with pytest.raises(ValueError, match="no"), store.at_work(tmp_path / "a" / "b", inside=True):
        raise ValueError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_altered_mapping_is_refused_and_a_strangers_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.write_json(path, {"x": 1})
    path.write_text(path.read_text().replace('"x": 1', '"x": 2'))
    with pytest.raises(ValueError, match=r"a\.json was altered after it was written .*make it again"):
        store.read_json(path)
    path.write_text('{"x": 3}')
    assert store.read_json(path) == {"x": 3}
    path.write_text("[1]")
    with pytest.raises(ValueError, match="holds a list and no mapping"):
        store.read_json(path)


def test_what_a_writer_made_private_is_read_by_whoever_reads_its_folder(tmp_path: Path) -> None:
    with store.placed(tmp_path / "model") as aside:
        aside.mkdir()
        (aside / "weights").touch(mode=0o600)
    allowed = (tmp_path / "model").stat().st_mode & 0o666
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == allowed
    assert allowed & 0o044


def test_a_folder_is_compared_with_its_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with store.placed(folder) as aside:
        aside.mkdir()
        (aside / "weights").write_bytes(bytes(1000))
        store.write_manifest(aside)
    store.check_manifest(folder, "copy it again")
    data = bytearray(1000)
    data[500] = 1
    (folder / "weights").write_bytes(data)
    with pytest.raises(ValueError, match="weights is cut or altered; copy it again"):
        store.check_manifest(folder, "copy it again")
    (folder / "weights").unlink()
    with pytest.raises(ValueError, match="weights is missing"):
        store.check_manifest(folder, "copy it again")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is cut or altered"):
        store.check_manifest(folder, "copy it again")
    for of_others in ("{}", '{"name": "an app"}', "[1, 2]"):
        (folder / "manifest.json").write_text(of_others)
        store.check_manifest(folder, "copy it again")
    (folder / "manifest.json").unlink()
    store.check_manifest(folder, "copy it again")


@dataclass(frozen=True)
class Drawn:
    """A result as measurements make them."""

    WHAT: ClassVar[str] = "drawn"
    LABELS: ClassVar[Mapping[str, str]] = {"source": "subtasks"}

    values: Float[np.ndarray, "source size"]
    subtasks: tuple[str, ...]
    sizes: tuple[int | None, ...]
    units: Units
    chance: float
    made: Mapping[str, Any] = field(default_factory=dict)


def test_a_result_saves_itself_with_the_labels_of_its_axes(tmp_path: Path) -> None:
    units = Units((neurons("layers.0.hook_post", 3, 0),))
    drawn = Drawn(np.arange(6.0).reshape(2, 3), ("a", "b"), (1, 2, None), units, 0.5, {"seed": 1})
    store.save(drawn, tmp_path / "r")
    array = store.read(tmp_path / "r").arrays["values"]
    assert array.dims == ("source", "size")
    assert array.coords == {"source": ("a", "b"), "size": ("1", "2", "None")}
    again = store.load(Drawn, tmp_path / "r")
    np.testing.assert_array_equal(again.values, drawn.values)
    assert replace(again, values=drawn.values) == drawn


def test_results_of_other_kinds_and_parts_are_refused(tmp_path: Path) -> None:
    units = Units((neurons("layers.0.hook_post", 3, 0),))
    drawn = Drawn(np.zeros((1, 1)), ("a",), (1,), units, 0.5)
    store.save(drawn, tmp_path / "r")
    with pytest.raises(ValueError, match="a result of kind 'drawn', not effects"):
        store.load(Effects, tmp_path / "r")
    store.save(drawn, tmp_path / "study" / "drawn")
    with pytest.raises(ValueError, match=r'study" is a study, whose drawn are in ".*study/drawn"; pass that'):
        store.load(Drawn, tmp_path / "study")
    spec, arrays = store.to_parts(drawn)
    with pytest.raises(ValueError, match=r"lacks a part .*chance"):
        store.from_parts(Drawn, {name: value for name, value in spec.items() if name != "chance"}, arrays)
    turned = {"values": store.Labelled(arrays["values"].values, ("size", "source"), {})}
    with pytest.raises(ValueError, match=r"has values on axes \('size', 'source'\)"):
        store.from_parts(Drawn, spec, turned)
    with pytest.raises(TypeError, match="is a dict, which does not say what it is"):
        store.save({}, tmp_path / "d")
