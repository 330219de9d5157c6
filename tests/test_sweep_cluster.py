"""Sweeps on worker processes: the same results everywhere, and what happens when something is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import dask
import psutil
import pytest
import sweep_cells
from by_hand import CELLS, started, wait_for

from skilloc import store
from skilloc.sweep import Pool, grid, status, sweep
from skilloc.sweep.cells import load, stored_spec
from skilloc.sweep.clients import MEMORY, local_client
from skilloc.sweep.engine import run_cells


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    # The tracker of the multiprocessing module stays with its process, and a nanny may just be restarting a worker.
    new = [process for process in psutil.Process().children(recursive=True) if process not in before]
    ours = [process for process in new if "resource_tracker" not in " ".join(_command(process))]
    by_hand = {process for process in ours if any(parent in before for parent in _parents(process))}
    assert not psutil.wait_procs(set(ours) - by_hand, timeout=10)[1]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _parents(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.parents()
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with started(tmp_path_factory.mktemp("dask")) as file:
        yield file


@pytest.mark.slow
def test_the_engine_does_not_change_the_results(tmp_path: Path, scheduler_file: Path) -> None:
    specs = grid({}, {"width": [8, 16, 32, 64], "rate": [0.1, 0.5], "seed": range(3)})
    assert len(specs) == 24
    tables = []
    for name, engine in {
        "here": {},
        "one": {"workers": 1},
        "two": {"workers": 2},
        "outside": {"scheduler": scheduler_file},
    }.items():
        report = sweep(sweep_cells.trains, specs, out=tmp_path / name, pool=Pool(**engine))  # type: ignore[arg-type]
        assert (len(report.done), len(report.cached), len(report.failed)) == (24, 0, 0)
        tables.append(store.table(tmp_path / name))
    assert len(set(tables[0]["metrics.loss"])) == 24
    for table in tables[1:]:
        assert table.equals(tables[0])


def test_workers_elsewhere_find_a_module_that_lies_beside_a_script(tmp_path: Path, scheduler_file: Path) -> None:
    (tmp_path / "own_cells.py").write_text("def double(spec):\n    return {'double': 2 * spec['x']}\n")
    double = load("own_cells:double", str(tmp_path))
    report = sweep(double, [{"x": 2}], out=tmp_path / "out", pool=Pool(scheduler=scheduler_file))
    assert store.read(report.out / report.done[0]).metrics == {"double": 4}


@pytest.mark.slow
def test_what_workers_find_set(tmp_path: Path) -> None:
    report = sweep(sweep_cells.sees, grid({}, {"x": range(4)}), out=tmp_path, pool=Pool(gpus=(0, "MIG-7"), threads=2))
    found = [store.read(tmp_path / key).metrics for key in report.done]
    assert {(metrics["gpu"], metrics["threads"]) for metrics in found} == {("0", 2), ("MIG-7", 2)}
    assert len({metrics["pid"] for metrics in found} | {os.getpid()}) == 3


def test_a_worker_keeps_the_memory_that_it_frees() -> None:
    with local_client(1) as client:
        found = client.submit(os.environ.copy).result()
    wanted = {"MALLOC_TRIM_THRESHOLD_": 2**30, "MALLOC_MMAP_THRESHOLD_": MEMORY["MALLOC_MMAP_THRESHOLD_"]}
    assert {name: int(found[name]) for name in found if name.startswith("MALLOC")} == {**wanted, "MALLOC_ARENA_MAX": 1}
    assert wanted["MALLOC_MMAP_THRESHOLD_"] in (2**25, 2**30)


def test_local_workers_are_reached_from_this_machine_only() -> None:
    with local_client(1) as client:
        client.submit(abs, -1).result()
        here = psutil.Process()
        addresses = {
            connection.laddr.ip
            for process in (here, *here.children(recursive=True))
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        }
    assert addresses == {"127.0.0.1"}


@pytest.mark.slow
def test_scheduling_costs_less_than_20_ms_a_cell(tmp_path: Path) -> None:
    cells = {f"{x}": json.dumps(stored_spec("sweep_cells:square", {"x": x}, 1)) for x in range(200)}
    words: list[str] = []
    with local_client(2) as client:
        # Scheduler and nannies live in this process. Its own time, because that of the clock depends on the neighbours.
        began = time.process_time()
        run_cells(client, cells, tmp_path, lambda key, word, error, traceback: words.append(word))
        seconds = time.process_time() - began
    assert words == ["done"] * 200
    assert seconds / 200 < 0.02


def test_a_killed_worker_costs_only_the_running_cell(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    killed: list[str] = []

    def kill() -> None:
        wait_for(lambda: any(starts.glob("3-*")))
        pid = next(starts.glob("3-*")).name.split("-")[1]
        killed.extend(path.name for path in starts.glob(f"*-{pid}-*"))
        os.kill(int(pid), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    specs = grid({"starts": str(starts), "seconds": 0.3}, {"x": range(8)})
    report = sweep(sweep_cells.naps, specs, out=tmp_path / "out", pool=Pool(workers=2))
    killer.join()
    assert killed
    assert len(report.done) == 8
    counts = [len(list(starts.glob(f"{x}-*"))) for x in range(8)]
    assert counts == [1, 1, 1, 2, 1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("runs", [(3, 4), pytest.param(range(10), marks=pytest.mark.long)], ids=["twice", "ten times"])
def test_a_poison_cell_is_the_only_one_lost(runs: Iterable[int], tmp_path: Path, scheduler_file: Path) -> None:
    for run in runs:
        specs = grid({"bad": run % 5, "run": run}, {"x": range(8)})
        # Mostly on the workers that were started by hand, which saves the time to start others.
        engine = {"workers": 2} if run in (3, 8) else {"scheduler": scheduler_file}
        report = sweep(sweep_cells.poison, specs, out=tmp_path / f"{run}", pool=Pool(**engine))  # type: ignore[arg-type]
        assert [failure.spec["x"] for failure in report.failed] == [run % 5]
        assert report.failed[0].error.startswith("the worker process died while it ran this cell")
        assert len(report.done) == 7


@pytest.mark.slow
def test_a_killed_driver_leaves_finished_cells_and_no_process(tmp_path: Path) -> None:
    out, starts = tmp_path / "out", tmp_path / "starts"
    starts.mkdir()
    command = [sys.executable, CELLS / "sweep_driver.py", out, starts, "0.3", "12", "2"]
    driver = subprocess.Popen(command)
    wait_for(lambda: sum(map(store.is_complete, out.glob("[!.]*"))) >= 4, seconds=30)
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert len(workers) >= 2
    driver.kill()
    driver.wait()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    finished = len(status(out).done)
    assert 4 <= finished < 12
    assert len(status(out).left) == 12 - finished
    again = subprocess.run([*command[:-1], "0"], capture_output=True, text=True, check=True)
    assert again.stdout.split() == [str(12 - finished), str(finished), "0"]
    assert len(list(starts.iterdir())) <= 12 + 2


@pytest.mark.slow
def test_ctrl_c_keeps_finished_cells_and_says_how_to_go_on(tmp_path: Path) -> None:
    out, starts = tmp_path / "out", tmp_path / "starts"
    starts.mkdir()
    # More cells than any delay lets through.
    command = [sys.executable, CELLS / "sweep_driver.py", out, starts, "0.3", "200", "2"]
    # A group of its own, since Ctrl-C on a terminal goes to the workers as well.
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: sum(map(store.is_complete, out.glob("[!.]*"))) >= 4, seconds=30)
    workers = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGINT)
    message = driver.communicate(timeout=20)[1]
    finished = len(status(out).done)
    assert f"{finished} of 200 cells are finished and kept in {out}; run the same sweep again" in message
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert not list(out.glob(".*"))


def test_a_scheduler_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skilloc.sweep import clients

    monkeypatch.setattr(clients, "ANSWER_WITHIN", 0.5)
    with pytest.raises(ConnectionError, match=r"does not answer.*check that it runs"):
        sweep(sweep_cells.square, [{"x": 1}], out=tmp_path, pool=Pool(scheduler="tcp://127.0.0.1:9"))
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(ConnectionError, match="wait until the scheduler has written it"):
        sweep(sweep_cells.square, [{"x": 1}], out=tmp_path, pool=Pool(scheduler=tmp_path / "cut.json"))
    with pytest.raises(FileNotFoundError, match="start `dask scheduler --scheduler-file"):
        sweep(sweep_cells.square, [{"x": 1}], out=tmp_path, pool=Pool(scheduler=tmp_path / "absent.json"))


def test_a_lost_scheduler_keeps_finished_cells(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    specs = grid({"starts": str(starts), "seconds": 0.2}, {"x": range(6)})
    file = tmp_path / "scheduler.json"
    # One process that is both: a scheduler with a worker, ended in the middle.
    code = (
        "import json, sys\nfrom distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    c = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address='127.0.0.1:0',"
        " protocol='tcp', host='127.0.0.1')\n"
        "    open(sys.argv[1], 'w').write(json.dumps(c.scheduler.identity()))\n    sys.stdin.read()\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(CELLS)}
    )
    wait_for(lambda: file.exists() and file.stat().st_size > 0)

    def kill() -> None:
        wait_for(lambda: len(list(starts.iterdir())) >= 3)
        server.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ConnectionError, match="start it again and run the same sweep: finished cells are kept"):
        sweep(sweep_cells.naps, specs, out=tmp_path / "out", pool=Pool(scheduler=file))
    killer.join()
    server.wait()
    assert len(status(tmp_path / "out").done) >= 2
    assert not sweep(sweep_cells.naps, specs, out=tmp_path / "out").failed


def test_workers_with_several_threads_are_refused(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address="127.0.0.1:0",
            protocol="tcp",
            host="127.0.0.1",
        ) as cluster,
        pytest.raises(ValueError, match="start workers with --nthreads 1"),
    ):
        sweep(sweep_cells.square, [{"x": 1}], out=tmp_path, pool=Pool(scheduler=cluster.scheduler_address))


def test_results_that_are_not_to_be_seen_here_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler_file: Path
) -> None:
    from skilloc.sweep import engine, ledger

    monkeypatch.setattr(ledger, "VISIBLE_WITHIN", 0.1)
    run = engine.run_cell
    # A worker on a machine of its own, with a folder of the same name.
    monkeypatch.setattr(engine, "run_cell", lambda text, out, home: run(text, f"{out}-elsewhere", home))
    report = sweep(sweep_cells.square, [{"x": 1}], out=tmp_path / "out", pool=Pool(scheduler=scheduler_file))
    assert "put `out` on a file system that all workers share" in report.failed[0].error


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    ca, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", key, "-out", ca], check=True, capture_output=True)
    return {"ca": str(ca), "cert": str(ca), "key": str(key)}


def test_tls_files_are_passed_through(tmp_path: Path, certificate: dict[str, str]) -> None:
    from distributed import LocalCluster, Security

    roles = ("scheduler", "worker", "client")
    files = {f"tls_{role}_{part}": certificate[part] for role in roles for part in ("cert", "key")}
    security = Security(require_encryption=True, tls_ca_file=certificate["ca"], **files)
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(security=security, host="127.0.0.1", **options) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        report = sweep(
            sweep_cells.square, [{"x": 3}], out=tmp_path / "out", pool=Pool(scheduler=address, tls=certificate)
        )
        assert len(report.done) == 1
        with pytest.raises(ConnectionError, match="pass the files `ca`, `cert` and `key` as `tls`"):
            sweep(sweep_cells.square, [{"x": 4}], out=tmp_path / "out", pool=Pool(scheduler=address))
    with pytest.raises(ConnectionError, match="leave `tls` out"):
        sweep(
            sweep_cells.square,
            [{"x": 4}],
            out=tmp_path / "out",
            pool=Pool(scheduler="tcp://127.0.0.1:9", tls=certificate),
        )


def test_local_workers_follow_the_tls_of_dasks_configuration(tmp_path: Path, certificate: dict[str, str]) -> None:
    with dask.config.set({"distributed.comm.require-encryption": True}):
        assert len(sweep(sweep_cells.square, [{"x": 1}], out=tmp_path / "out", pool=Pool(workers=1)).done) == 1
        names = [(role, part) for role in ("scheduler", "worker", "client") for part in ("cert", "key")]
        files = {f"distributed.comm.tls.{role}.{part}": certificate[part] for role, part in names}
        files["distributed.comm.tls.ca-file"] = certificate["ca"]
        with dask.config.set(files), local_client(1) as client:
            assert client.scheduler.address.startswith("tls://127.0.0.1")
            assert client.submit(abs, -1).result() == 1
