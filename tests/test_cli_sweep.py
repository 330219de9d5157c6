import csv
import sys
from pathlib import Path

import pytest

from skilloc import store
from skilloc.cli import main, sweep_config
from skilloc.cli.sweep_config import read_plan

CONFIG = """
cell = "sweep_cells:curve"
[settings]
steps = 3
model.depth = 2
[grid.product]
width = [8, 16]
rate = [1, 0.5]
[grid.zip]
seed = [0, 1]
model.kind = ["a", "b"]
"""


CURVE = 'cell = "sweep_cells:curve"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "curve.toml").write_text(CONFIG)
    return tmp_path / "curve.toml"


def _read(folder: Path, text: str, *changes: str) -> sweep_config.Plan:
    (folder / "own.toml").write_text(text)
    return read_plan(folder / "own.toml", changes)


def test_a_plan_has_every_cell_with_all_its_settings(config: Path) -> None:
    plan = read_plan(config)
    assert (plan.cell, plan.threads) == ("sweep_cells:curve", 1)
    assert len(plan.specs) == 2 * 2 * 2
    assert plan.specs[0] == {
        "steps": 3, "width": 8, "rate": 1.0, "seed": 0, "labels": ["x"], "model": {"depth": 2, "kind": "a"}
    }  # fmt: skip
    assert {(spec["seed"], spec["model"]["kind"]) for spec in plan.specs} == {(0, "a"), (1, "b")}


def test_an_integer_for_a_float_is_the_same_cell(tmp_path: Path) -> None:
    both = _read(tmp_path, 'cell = "sweep_cells:curve"\n[grid.product]\nrate = [1, 1.0]')
    assert len(both.specs) == 1


def test_listed_cells(tmp_path: Path) -> None:
    plan = _read(tmp_path, 'cell = "sweep_cells:curve"\n[[grid.list]]\nwidth = 1\n[[grid.list]]\nwidth = 2\nseed = 5')
    assert [(spec["width"], spec["seed"]) for spec in plan.specs] == [(1, 0), (2, 5)]


def test_changes_go_over_the_file_in_every_cell(config: Path) -> None:
    plan = read_plan(config, ["width=3", "model.kind=c d", "labels=['y', 'z']"])
    assert len(plan.specs) == 4
    assert {spec["width"] for spec in plan.specs} == {3}
    assert plan.specs[0]["model"] == {"depth": 2, "kind": "c d"}
    assert plan.specs[0]["labels"] == ["y", "z"]


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("cell =", "is not TOML"),
        ("", 'write cell = "MODULE:FUNCTION"'),
        ('cell = "sweep_cells"', 'write cell = "MODULE:FUNCTION"'),
        ('cell = "sweep_cells:curv"', 'unknown function of sweep_cells "curv"; did you mean "curve"'),
        ('cell = "sweep_cells:square"', "square does not say what settings it has; annotate its first argument"),
        ('cell = "sweep_cels:curve"', "put sweep_cels.py beside the configuration"),
        ('cell = "os:system"', "annotate its first argument with a dataclass"),
        (CURVE + "setings = {}", 'did you mean "settings"'),
        (CURVE + 'threads = "two"', "use a number"),
        (CURVE + "[settings]\nwidht = 3", 'unknown setting "widht"; did you mean "width"'),
        (CURVE + "[settings]\nmodel.dept = 3", 'did you mean "model.depth"'),
        (CURVE + "[grid.product]\nseeds = [1]", 'did you mean "seed"'),
        (CURVE + "[grid.prod]\nseed = [1]", 'did you mean "product"'),
        (CURVE + "[grid.list]\nseed = 1", r"write \[\[grid.list\]\]"),
        (CURVE + "[grid.product]\nseed = 1", "pass a list of values"),
        (CURVE + "[grid.zip]\nseed = [1]\nwidth = [1, 2]", "give each as many values"),
        (CURVE + "[settings]\nseed = 1\n[grid.product]\nseed = [1, 2]", "keep it in one of them"),
        (CURVE + '[settings]\nwidth = "8"', '`width`: Input should be a valid integer but is "8"'),
        (
            CURVE + "[settings]\nwidth = true",
            "`width`: Input should be a valid integer but is true",
        ),
        (CURVE + "[settings]\nrate = nan", "use a finite number"),
        (CURVE + "[settings]\nwidth = 0", "`width` is 0; use at least 1"),
        (CURVE + "[settings]\nwidth = 1979-05-27", "`spec.width` is of type date"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_its_cure(tmp_path: Path, text: str, cure: str) -> None:
    with pytest.raises(ValueError, match=f"own.toml.*{cure}"):
        _read(tmp_path, text)


def test_changes_that_make_no_sense_are_refused(config: Path) -> None:
    with pytest.raises(ValueError, match="write --set key=value"):
        read_plan(config, ["width"])
    with pytest.raises(ValueError, match='unknown setting "with"; did you mean "width"'):
        read_plan(config, ["with=3"])
    with pytest.raises(FileNotFoundError, match="pass a TOML file"):
        read_plan(config.with_name("absent.toml"))


def test_nothing_in_a_configuration_is_executed(tmp_path: Path) -> None:
    trap = f"__import__('pathlib').Path({str(tmp_path / 'trap')!r}).touch()"
    plan = _read(tmp_path, f'cell = "sweep_cells:curve"\n[settings]\nmodel.kind = "{trap}"', f"labels=[{trap!r}]")
    assert plan.specs[0]["model"]["kind"] == trap
    assert not (tmp_path / "trap").exists()


def test_dry_run_run_status_and_table(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run = ["sweep", "run", str(config), "--out", str(out)]
    main([*run, "--dry-run"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "sweep_cells:curve: labels=x model.depth=2 steps=3"
    assert len(shown) == 1 + 8 + 1
    assert shown[1].startswith("left ")
    assert shown[1].endswith(" model.kind=a rate=1.0 seed=0 width=8")
    assert shown[-1] == "8 cells: 0 cached, 8 to run"
    assert not out.exists()

    main([*run, "--set", "width=8"])
    assert "4 cells: 4 done, 0 cached, 0 failed; next: skilloc sweep table" in capsys.readouterr().out
    main([*run, "--dry-run"])
    assert "8 cells: 4 cached, 4 to run" in capsys.readouterr().out
    main([*run, "--workers", "1"])
    assert "8 cells: 4 done, 4 cached, 0 failed" in capsys.readouterr().out

    main(["sweep", "status", str(out)])
    assert capsys.readouterr().out.startswith("8 done, 0 failed, 0 left")
    main(["sweep", "table", str(out)])
    shown = capsys.readouterr().out.splitlines()
    assert "spec.steps = 3" in shown
    assert not any(line.startswith("spec.seed = ") for line in shown)
    assert [line.split()[-1] for line in shown[-8:]] == ["12.0", "24.0", "24.0", "48.0", "12.5", "24.5", "24.5", "48.5"]

    main(["sweep", "table", str(out), "--csv", str(tmp_path / "a" / "t.csv"), "--parquet", str(tmp_path / "t.parquet")])
    assert "8 rows in" in capsys.readouterr().out
    import pandas

    with (tmp_path / "a" / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    frame = pandas.read_parquet(tmp_path / "t.parquet")
    assert len(rows) == len(frame) == 8
    assert sorted(float(row["metrics.area"]) for row in rows) == sorted(frame["metrics.area"])


def test_failures_are_shown_and_the_exit_status_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.toml").write_text('cell = "sweep_cells:odd"\n[grid.product]\nx = [0, 1, 2]')
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "run", str(tmp_path / "odd.toml"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    main(["sweep", "status", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "2 done, 1 failed, 0 left" in shown
    assert shown.count("x=1\n    ArithmeticError: 1 is odd") == 2


def test_an_error_of_the_user_is_a_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.toml").write_text('cell = "sweep_cells:curve"\n[settings]\nwidht = 3')
    for arguments in (
        ["run", str(tmp_path / "own.toml")],
        ["run", str(tmp_path / "absent.toml")],
        ["status", str(tmp_path / "absent")],
        ["table", str(tmp_path / "absent")],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["sweep", *arguments])
        assert ended.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Rectangle:
    width: int = 1
    height: float = 2.0

def area(settings: "Rectangle"):
    return {"area": settings.width * settings.height}
"""


def test_a_module_beside_the_configuration_is_found_by_workers_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_rectangle.py").write_text(OWN)
    (tmp_path / "own.toml").write_text('cell = "own_rectangle:area"\n[grid.product]\nwidth = [1, 2, 3]')
    out = tmp_path / "out"
    main(["sweep", "run", str(tmp_path / "own.toml"), "--out", str(out), "--set", "width=1"])
    assert "1 cells: 1 done" in capsys.readouterr().out
    main(["sweep", "run", str(tmp_path / "own.toml"), "--out", str(out), "--workers", "1"])
    assert "3 cells: 2 done, 1 cached, 0 failed" in capsys.readouterr().out
    assert sorted(store.table(out)["metrics.area"]) == [2, 4, 6]
    assert not any(str(tmp_path) in path.read_text() for path in out.glob("*/*.json"))


def test_a_module_that_cannot_be_imported_is_named_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "own_broken.py").write_text("1 / 0")
    with pytest.raises(ValueError, match=r"own_broken cannot be imported \(ZeroDivisionError.*mend it"):
        _read(tmp_path, 'cell = "own_broken:area"')


def test_another_module_of_the_same_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "sweep_cells.py").write_text(OWN)
    with pytest.raises(ValueError, match=r"sweep_cells.* was imported from .*cells/sweep_cells.py before"):
        _read(tmp_path, 'cell = "sweep_cells:area"')


@pytest.mark.parametrize(("flag", "name"), [("--csv", "table.csv"), ("--parquet", "table.parquet")])
def test_a_table_takes_the_place_of_a_table_and_of_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, name: str
) -> None:
    store.write(tmp_path / "swept" / "one", {"width": 1}, {"loss": 2.0})
    line = ["sweep", "table", str(tmp_path / "swept"), flag, str(tmp_path / name)]
    main(line)
    main(line)
    for theirs in (b"mine", b"a,b\n1,2\n", b""):
        (tmp_path / name).write_bytes(theirs)
        with pytest.raises(SystemExit) as end:
            main(line)
        assert (end.value.code, "is no table of a sweep" in capsys.readouterr().err) == (2, True)
        assert (tmp_path / name).read_bytes() == theirs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["swept", name]
