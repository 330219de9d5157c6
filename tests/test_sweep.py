import errno
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweep_cells

from skilloc import store
from skilloc.store import progress as progress_module
from skilloc.sweep import Pool, grid, seed_of, status, sweep

CELLS = Path(__file__).parent / "cells"


def test_a_grid_takes_all_combinations_last_axis_fastest() -> None:
    specs = grid({"steps": 5, "model": {"depth": 2}}, {"seed": range(2), "model.width": [32, 64]})
    assert specs == [
        {"steps": 5, "model": {"depth": 2, "width": width}, "seed": seed} for seed in (0, 1) for width in (32, 64)
    ]


def test_zipped_axes_go_side_by_side_and_listed_cells_one_by_one() -> None:
    specs = grid({}, {"seed": [0, 1]}, zipped={"width": [1, 2], "rate": [3, 4]}, listed=[{"a": 5}, {"b": 6}])
    assert len(specs) == 2 * 2 * 2
    assert specs[0] == {"seed": 0, "width": 1, "rate": 3, "a": 5}
    assert specs[-1] == {"seed": 1, "width": 2, "rate": 4, "b": 6}


def test_a_grid_without_axes_is_one_cell_of_its_own() -> None:
    base = {"model": {"width": 1}}
    (spec,) = grid(base)
    assert spec == base
    spec["model"]["width"] = 2
    assert base == {"model": {"width": 1}}


@pytest.mark.parametrize(
    ("arguments", "error", "cure"),
    [
        ({"axes": {"name": "abc"}}, TypeError, "pass a list of values"),
        ({"axes": {"seed": 3}}, TypeError, "pass a list of values"),
        ({"axes": {"seed": []}}, ValueError, "give at least one"),
        ({"zipped": {"a": [1, 2], "b": [1]}}, ValueError, "give each as many values"),
        ({"axes": {"a": [1]}, "zipped": {"a": [1]}}, ValueError, "keep it in one of them"),
        ({"axes": {"steps.more": [1]}}, ValueError, "only nested settings have dots"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(arguments: dict[str, Any], error: type[Exception], cure: str) -> None:
    with pytest.raises(error, match=cure):
        grid({"steps": 5}, **arguments)


def test_the_seed_of_a_spec_depends_on_its_content_only() -> None:
    assert seed_of({"a": 1, "b": 2}) == seed_of({"b": np.int64(2), "a": 1})
    seeds = {seed_of({"a": a, "seed": seed}) for a in range(20) for seed in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_each_cell_runs_once_and_lies_under_its_key(tmp_path: Path) -> None:
    specs = grid({}, {"x": [3, 1, 2]})
    first = sweep(sweep_cells.square, specs, out=tmp_path)
    assert first.done == first.keys
    results = [store.read(tmp_path / key) for key in first.keys]
    assert [result.metrics["square"] for result in results] == [9, 1, 4]
    assert results[0].spec == {"cell": "sweep_cells:square", "threads": 1, "x": 3}
    assert first.keys[0] == store.key(results[0].spec)
    second = sweep("sweep_cells:square", [*specs, {"x": 4}, {"x": 4}], out=tmp_path)
    assert second.cached == first.keys
    assert len(second.done) == 1


def test_cells_may_return_arrays(tmp_path: Path) -> None:
    report = sweep(sweep_cells.with_arrays, [{"n": 4}], out=tmp_path)
    assert store.read(tmp_path / report.keys[0]).arrays["ramp"].values.tolist() == [0, 1, 2, 3]


def test_two_functions_share_a_folder_without_mixing(tmp_path: Path) -> None:
    sweep(sweep_cells.square, [{"x": 2}], out=tmp_path)
    report = sweep(sweep_cells.fails_on_odd, [{"x": 2}], out=tmp_path)
    assert store.read(tmp_path / report.done[0]).metrics == {"x": 2}


def test_a_cell_may_take_its_settings_as_a_dataclass(tmp_path: Path) -> None:
    deep = sweep_cells.Curve(width=2, labels=("x", "y"), model=sweep_cells.Model(depth=3))
    report = sweep(sweep_cells.curve, [deep, {"width": 4}], out=tmp_path)
    first, second = (store.read(tmp_path / key) for key in report.keys)
    assert first.spec == {
        "cell": "sweep_cells:curve", "threads": 1, "width": 2, "rate": 0.1, "steps": 10, "seed": 0,
        "labels": ["x", "y"], "model": {"depth": 3, "kind": "a"},
    }  # fmt: skip
    assert [first.metrics["area"], second.metrics["area"]] == [2, 4]
    with pytest.raises(TypeError, match="pass a mapping or a dataclass"):
        sweep(sweep_cells.curve, [sweep_cells.Curve], out=tmp_path)


def test_cells_read_the_results_of_others_and_moving_the_folder_repeats_nothing(tmp_path: Path) -> None:
    curves = sweep(sweep_cells.curve, [sweep_cells.Curve(width=width) for width in (1, 2)], out=tmp_path / "here")
    both = [sweep_cells.Sum(curves.keys)]
    (key,) = sweep(sweep_cells.area, both, out=tmp_path / "here").done
    assert store.read(tmp_path / "here" / key).metrics == {"area": 3}
    (tmp_path / "here").rename(tmp_path / "there")
    assert sweep(sweep_cells.area, both, out=tmp_path / "there").cached == (key,)


def test_the_number_of_threads_is_part_of_the_spec(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    for threads in (1, 2):
        report = sweep(sweep_cells.sees, [{}], out=tmp_path, pool=Pool(threads=threads))
        assert len(report.done) == 1
        assert store.read(tmp_path / report.done[0]).metrics["threads"] == threads
        assert store.read(tmp_path / report.done[0]).spec["threads"] == threads
    assert torch.get_num_threads() == before
    cores = len(os.sched_getaffinity(0))
    assert store.read(tmp_path / sweep(sweep_cells.sees, [{}], out=tmp_path, pool=Pool(threads=0)).keys[0]).spec == {
        "cell": "sweep_cells:sees",
        "threads": cores,
    }


def test_a_failing_cell_is_noted_and_stops_no_other(tmp_path: Path) -> None:
    report = sweep(sweep_cells.fails_on_odd, grid({}, {"x": range(4)}), out=tmp_path)
    assert len(report.done) == 2
    assert [failure.spec["x"] for failure in report.failed] == [1, 3]
    assert report.failed[0].error == "ArithmeticError: 1 is odd"
    assert "in fails_on_odd" in report.failed[0].traceback
    assert status(tmp_path).failed == report.failed
    assert sorted(path.stem for path in (tmp_path / "failed").iterdir()) == sorted(f.key for f in report.failed)


def test_a_failed_cell_is_tried_again_and_then_forgotten(tmp_path: Path) -> None:
    specs = [{"file": str(tmp_path / "data")}]
    assert len(sweep(sweep_cells.fails_unless_there, specs, out=tmp_path / "out").failed) == 1
    (tmp_path / "data").write_text("hello")
    report = sweep(sweep_cells.fails_unless_there, specs, out=tmp_path / "out")
    assert len(report.done) == 1
    assert status(tmp_path / "out").failed == ()
    assert not list((tmp_path / "out" / "failed").iterdir())


@pytest.mark.parametrize(
    ("cell", "error"), [("leaves", "SystemExit: 3"), ("returns_a_number", "WrongType: .*return metrics as a dict")]
)
def test_odd_ends_of_a_cell_are_failures(tmp_path: Path, cell: str, error: str) -> None:
    (failure,) = sweep(f"sweep_cells:{cell}", [{}], out=tmp_path).failed
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(failure.error)


def test_status_knows_what_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"2 of 5 cells are finished and kept in .*run the same sweep again"):
        sweep(sweep_cells.interrupts, grid({}, {"x": range(5)}), out=tmp_path)
    state = status(tmp_path)
    assert (len(state.done), len(state.failed), len(state.left)) == (2, 0, 3)
    with pytest.raises(FileNotFoundError, match="pass the folder that a sweep was given"):
        status(tmp_path / "absent")


def test_a_damaged_result_is_named_not_replaced(tmp_path: Path) -> None:
    report = sweep(sweep_cells.square, [{"x": 1}, {"x": 2}], out=tmp_path)
    (tmp_path / report.keys[0] / "metrics.json").write_text("{")
    again = sweep(sweep_cells.square, [{"x": 1}, {"x": 2}], out=tmp_path)
    assert again.cached == report.keys[1:]
    assert f"{report.keys[0]} is damaged; move the folder elsewhere" in again.failed[0].error
    assert (tmp_path / report.keys[0] / "metrics.json").read_text() == "{"


def test_a_spec_that_cannot_be_stored_stops_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"`spec\.x\.y` is of type set"):
        sweep(sweep_cells.square, [{"x": 1}, {"x": {"y": {1}}}], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="key `threads`, which the sweep sets itself"):
        sweep(sweep_cells.square, [{"threads": 1}], out=tmp_path / "out")


def test_a_cell_function_without_a_name_is_refused(tmp_path: Path) -> None:
    def inner(spec: dict[str, Any]) -> dict[str, Any]:
        return {}

    for cell in (inner, lambda spec: {}, "sweep_cells", "sweep_cells:"):
        with pytest.raises(TypeError, match="'module:function'"):
            sweep(cell, [{}], out=tmp_path)
    with pytest.raises(TypeError, match="no function at 'sweep_cells:absent'"):
        sweep("sweep_cells:absent", [{}], out=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ({"workers": -1}, "use 0 for this process"),
        ({"workers": 1, "gpus": (0,)}, "pass one"),
        ({"workers": 1, "scheduler": "tcp://127.0.0.1:1"}, "pass one"),
        ({"gpus": (0, 0)}, "give each worker its own"),
        ({"threads": -1}, "use at least 1"),
        ({"threads": 0, "scheduler": "tcp://127.0.0.1:1"}, "pass a number"),
        ({"tls": {"ca": "a", "cert": "b", "key": "c"}}, "together with a `scheduler`"),
        ({"tls": {"ca": "a"}, "scheduler": "tls://127.0.0.1:1"}, "`ca`, `cert` and `key`"),
    ],
)
def test_engines_that_make_no_sense_are_refused(tmp_path: Path, arguments: dict[str, Any], cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        sweep(sweep_cells.square, [{"x": 1}], out=tmp_path, pool=Pool(**arguments))


def test_a_full_disk_fails_the_cell_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(sweep_cells.square, [{"x": 0}], out=tmp_path)
    with monkeypatch.context() as patch:
        write = Path.write_bytes

        def full(path: Path, data: bytes) -> int:
            if path.suffix == ".safetensors":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, data)

        patch.setattr(Path, "write_bytes", full)
        report = sweep(sweep_cells.square, [{"x": 0}, {"x": 1}], out=tmp_path)
    assert len(report.cached) == 1
    assert "No space left on device" in report.failed[0].error
    assert "free some space" in report.failed[0].error
    assert len(store.table(tmp_path)) == 1
    assert not list(tmp_path.glob(".*"))
    assert len(sweep(sweep_cells.square, [{"x": 0}, {"x": 1}], out=tmp_path).done) == 1


def test_a_folder_that_cannot_be_written_stops_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"Read-only file system.*choose an `out`"):
        sweep(sweep_cells.naps, [{"starts": str(tmp_path), "seconds": 0, "x": 1}], out=tmp_path / "out")
    assert not list(tmp_path.glob("1-*"))


def test_what_is_all_there_can_be_asked_for_in_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(sweep_cells.square, [{"x": 1}], out=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(os, "replace", lambda *args: pytest.fail("something was written"))
    assert len(sweep(sweep_cells.square, [{"x": 1}], out=tmp_path).cached) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_two_drivers_on_one_folder_lose_nothing(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    command = [sys.executable, CELLS / "sweep_driver.py", tmp_path / "out", starts, "0.01", "30", "0"]
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [[int(word) for word in driver.communicate(timeout=60)[0].split()] for driver in drivers]
    assert all(done + cached == 30 and failed == 0 for done, cached, failed in counts)
    table = store.table(tmp_path / "out")
    assert sorted(table["metrics.x"]) == list(range(30))
    assert not list((tmp_path / "out").glob(".*"))


def test_what_a_killed_sweep_left_is_cleared_unless_another_is_at_work(tmp_path: Path) -> None:
    specs = [{"x": 1}]
    left = [store.aside_of(tmp_path / "0123456789abcdef"), store.aside_of(tmp_path / "plans" / "0123456789abcdef.json")]
    for path in left:
        path.mkdir(parents=True)
    with ThreadPoolExecutor(1) as other, store.at_work(tmp_path, inside=True):
        for path in left:
            path.mkdir(exist_ok=True)  # in the writing
        other.submit(sweep, "sweep_cells:square", specs, out=tmp_path, progress=False).result()
        assert all(path.is_dir() for path in left)
    (tmp_path / store.LOCK).touch()
    found = sweep("sweep_cells:square", specs, out=tmp_path, progress=False)
    assert len(found.cached) == 1
    assert not [path for path in tmp_path.rglob(".*")]


def test_a_cell_whose_half_written_result_another_sweep_cleared_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared, write = [], store.write

    def clearing(folder: Path, *parts: Any) -> None:
        if not cleared:
            cleared.append(folder)
            raise FileNotFoundError(errno.ENOENT, "cleared")
        write(folder, *parts)

    monkeypatch.setattr(store, "write", clearing)
    assert len(sweep("sweep_cells:square", [{"x": 1}], out=tmp_path, progress=False).done) == 1


def test_a_thousand_cached_cells_answer_within_a_second_without_dask_or_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = grid({}, {"x": range(1000)})
    # Five thousand syncs of a disk are slow, and not what is asked here.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    assert len(sweep(sweep_cells.square, specs, out=tmp_path, progress=False).done) == 1000
    code = (
        "import sys, time; from skilloc.sweep import Pool, grid, sweep; began = time.process_time();"
        "report = sweep('sweep_cells:square', grid({}, {'x': range(1000)}), out=sys.argv[1], pool=Pool(workers=2));"
        "seconds = time.process_time() - began; sweep('sweep_cells:square', [{'x': -1}], out=sys.argv[1]);"
        "print(len(report.cached), seconds, [m for m in ('dask', 'torch') if m in sys.modules])"
    )
    cached, seconds, imported = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(CELLS)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split(maxsplit=2)
    assert cached == "1000"
    assert imported.strip() == "[]"
    assert float(seconds) < 1


def test_progress_in_a_log_is_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(sweep_cells.fails_on_odd, grid({}, {"x": range(10)}), out=tmp_path)
    assert capsys.readouterr().err == ""  # over within half a minute
    monkeypatch.setattr(progress_module, "EVERY", -1.0)
    sweep(sweep_cells.fails_on_odd, grid({}, {"x": range(12)}), out=tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert re.match(r"sweep: 50% done, \d+ s so far.*\(0 done, 5 cached, 1 failed\)$", lines[0])
    assert re.fullmatch(r"sweep: 100% done, \d+ s so far \(1 done, 5 cached, 6 failed\)", lines[-1])
    sweep(sweep_cells.fails_on_odd, grid({}, {"x": range(14)}), out=tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sweep(sweep_cells.fails_on_odd, grid({}, {"x": range(10)}), out=tmp_path)
    assert "100%" in (shown := capsys.readouterr().err)
    assert "5 done, 0 cached, 5 failed" in shown


def test_a_failure_is_a_file_that_people_can_read(tmp_path: Path) -> None:
    (failure,) = sweep(sweep_cells.fails_on_odd, [{"x": 1}], out=tmp_path).failed
    note = json.loads((tmp_path / "failed" / f"{failure.key}.json").read_text())
    assert note["spec"]["x"] == 1
    assert note["error"] == failure.error
