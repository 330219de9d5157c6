"""What docs/scale.md tells its readers to do."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from skilloc import store
from skilloc.cli.sweep_config import read_plan

DOCS = Path(__file__).parents[1] / "docs"


def _block(language: str, first: str) -> str:
    found = re.search(rf"```{language}\n({re.escape(first)}.*?)```", (DOCS / "scale.md").read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def areas(tmp_path: Path) -> Path:
    """The first configuration, beside the module that it names."""
    (tmp_path / "area.py").write_text(_block("python", "# area.py"))
    (tmp_path / "areas.toml").write_text(_block("toml", "cell"))
    return tmp_path / "areas.toml"


def test_the_first_configuration_is_a_plan_of_nine_cells(areas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    plan = read_plan(areas)
    assert len(plan.specs) == 9
    assert {spec["height"] for spec in plan.specs} == {3.0}


def test_the_first_sweep_runs_on_two_workers(areas: Path) -> None:
    code = "from skilloc.cli import main\nif __name__ == '__main__':\n    main()\n"
    (areas.parent / "command.py").write_text(code)
    command = [sys.executable, "command.py", "sweep", "run", "areas.toml", "--workers", "2"]
    shown = subprocess.run(command, cwd=areas.parent, capture_output=True, text=True, check=True).stdout
    assert "9 cells: 9 done, 0 cached, 0 failed; next: skilloc sweep table runs/areas" in shown
    assert sorted(set(store.table(areas.parent / "runs" / "areas")["metrics.area"])) == [24, 48, 96]


def test_the_configuration_of_an_analysis_names_a_cell_beside_it() -> None:
    plan = read_plan(DOCS.parent / "analyses" / "token_budget.toml")
    assert plan.cell == "token_budget:measure_budget"
    assert len(plan.specs) == 18
    assert {spec["length"] for spec in plan.specs} == {96}


def test_the_function_of_ones_own_runs_on_two_workers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_block("python", "# mine.py"))
    for expected in ("15 0 ()", "0 15 ()"):
        shown = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == expected


def test_links_and_the_parts_of_the_kubernetes_recipe() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / "scale.md").read_text()):
        assert (DOCS / target).is_file(), target
    parts = {
        (part["kind"], part["metadata"]["name"]): part
        for part in yaml.safe_load_all((DOCS / "kubernetes/sweep.yaml").read_text())
    }
    address = "tls://sweep-scheduler:8786"
    worker = parts["Deployment", "sweep-workers"]["spec"]["template"]["spec"]["containers"][0]
    driver = parts["Job", "sweep"]["spec"]["template"]["spec"]["containers"][0]
    assert address in worker["command"]
    assert address in driver["command"]
    assert ("Service", "sweep-scheduler") in parts
    for container in (worker, driver):
        for name in ("sweeps", "config"):
            assert {"name": name, "mountPath": f"/{name}"} in container["volumeMounts"]
        assert container["envFrom"] == [{"configMapRef": {"name": "sweep-dask"}}]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command, as the recipe does")
def test_the_slurm_recipe_runs(tmp_path: Path, areas: Path) -> None:
    """With stand-ins for srun (it starts the tasks here) and for hostname (this machine alone)."""
    recipe = DOCS / "slurm" / "sweep.sbatch"
    stubs = tmp_path / "bin"
    stubs.mkdir()
    run = "if __name__ == '__main__':\n    main()\n"
    scripts = {
        "hostname": "#!/bin/sh\necho 127.0.0.1\n",
        "srun": '#!/bin/bash\ntrap \'kill $pids\' TERM\nn=${1#--ntasks=}; shift\n'
        'for _ in $(seq "$n"); do "$@" & pids="$pids $!"; done\nwait\n',
        "dask": f"#!{sys.executable}\nfrom dask.__main__ import main\n{run}",
        "skilloc": f"#!{sys.executable}\nfrom skilloc.cli import main\n{run}",
    }  # fmt: skip
    for name, text in scripts.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    environment = {
        "PATH": f"{stubs}:/usr/bin:/bin",
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "2",
        "TMPDIR": str(tmp_path),
    }
    job = subprocess.Popen(
        ["bash", recipe, areas, tmp_path / "out"],
        cwd=shared, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        shown, errors = job.communicate(timeout=90)
        assert job.returncode == 0, errors
        assert "9 cells: 9 done, 0 cached, 0 failed" in shown
        assert not list(shared.iterdir())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
