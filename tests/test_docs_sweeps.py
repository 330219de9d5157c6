"""What docs/sweeps.md tells its readers to do."""

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

from skilloc.cli.sweep_config import read_plan

CELLS = Path(__file__).parent / "cells"
DOCS = Path(__file__).parents[1] / "docs"
CONFIG = """
experiment = "curve"
[grid.product]
width = [8, 16]
seed = [0, 1, 2, 3]
"""


def _block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (DOCS / "sweeps.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_first_configuration_is_a_plan_of_nine_cells(tmp_path: Path) -> None:
    (tmp_path / "budget.toml").write_text(_block("toml"))
    plan = read_plan(tmp_path / "budget.toml")
    assert len(plan.specs) == 9
    assert {spec["length"] for spec in plan.specs} == {64}


def test_the_function_of_ones_own_runs_on_two_workers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_block("python"))
    for expected in ("15 0 ()", "0 15 ()"):
        shown = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == expected


def test_links_and_the_parts_of_the_kubernetes_recipe() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / "sweeps.md").read_text()):
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
        assert {"name": "sweeps", "mountPath": "/sweeps"} in container["volumeMounts"]
        assert container["envFrom"] == [{"configMapRef": {"name": "sweep-dask"}}]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command, as the recipe does")
def test_the_slurm_recipe_runs(tmp_path: Path) -> None:
    """With stand-ins for srun (it starts the tasks here) and for hostname (this machine alone)."""
    recipe, config = DOCS / "slurm" / "sweep.sbatch", tmp_path / "curve.toml"
    config.write_text(CONFIG)
    stubs = tmp_path / "bin"
    stubs.mkdir()
    here = f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(CELLS)!r})\n"
    scripts = {
        "hostname": "#!/bin/sh\necho 127.0.0.1\n",
        "srun": '#!/bin/bash\ntrap \'kill $pids\' TERM\nn=${1#--ntasks=}; shift\n'
        'for _ in $(seq "$n"); do "$@" & pids="$pids $!"; done\nwait\n',
        "dask": here + "from dask.__main__ import main\nif __name__ == '__main__':\n    main()\n",
        "skilloc": here + "import sweep_experiments\nfrom skilloc.cli import main, sweep_config\n"
        "sweep_config.EXPERIMENTS = sweep_experiments.EXPERIMENTS\nif __name__ == '__main__':\n    main()\n",
    }  # fmt: skip
    for name, text in scripts.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    environment = {
        "PATH": f"{stubs}:/usr/bin:/bin",
        "PYTHONPATH": str(CELLS),
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "2",
        "TMPDIR": str(tmp_path),
    }
    job = subprocess.Popen(
        ["bash", recipe, config, tmp_path / "out"],
        cwd=shared, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        shown, errors = job.communicate(timeout=90)
        assert job.returncode == 0, errors
        assert "8 cells: 8 done, 0 cached, 0 failed" in shown
        assert not list(shared.iterdir())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
