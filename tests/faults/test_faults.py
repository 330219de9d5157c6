"""The ten kinds of fault, over commands that are run in forked children: see docs/reliability.md."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from faults import grammar, ground
from faults.driver import Fault, Running, copied, files, ran
from faults.kills import killed, left, sampled, undisturbed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skilloc.tasks.reading import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return ground.make_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture
def home(homes: dict[str, Path], tmp_path: Path) -> Path:
    """A network, studies of it, circuits, and a pruned model."""
    return copied(homes["report"], tmp_path / "home")


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def ended_otherwise(before: Path, place: Path, name: str, most: int) -> str:
    """Kill a command before at most so many of its changes on disk; say how it ended then, where it ended otherwise."""
    command = ground.EVERY[name]
    wanted, changes = undisturbed(place / "whole", before, command)
    said = (killed(place / "killed", before, command, at, wanted) for at in sampled(len(changes), most))
    return "\n".join(one for one in said if one)


def refused(home: Path, *line: str) -> str:
    done = ran(home, line)
    assert done.status == 2, (done.status, done.error)
    said = [one for one in done.error.splitlines() if one.startswith("skilloc: ")]
    assert len(said) == 1, done.error
    return said[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"), [("two-stage", 3), ("prune", 3), ("removal", 8), ("sweep", 8), ("table", 4), ("fetch", 5)]
)
def test_killed_at_some_changes_on_disk_it_ends_the_same(
    homes: dict[str, Path], tmp_path: Path, name: str, most: int
) -> None:
    assert not ended_otherwise(homes[name], tmp_path, name, most)


@pytest.mark.slow
def test_killed_at_its_very_end_an_export_is_there(homes: dict[str, Path], tmp_path: Path) -> None:
    wanted, changes = undisturbed(tmp_path / "whole", homes["export"], ground.EVERY["export"])
    assert not killed(tmp_path / "killed", homes["export"], ground.EVERY["export"], len(changes), wanted)


@pytest.mark.long
@pytest.mark.parametrize("name", ground.EVERY)
def test_killed_at_any_change_on_disk_it_ends_the_same(homes: dict[str, Path], tmp_path: Path, name: str) -> None:
    assert not ended_otherwise(homes[name], tmp_path, name, 6 if name in ground.SAMPLED else 10**9)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(one=st.sampled_from(grammar.every()))
def test_a_bad_input_is_refused_by_name(
    homes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, one: grammar.Try
) -> None:
    said, done = grammar.tried(one, homes, tmp_path_factory.mktemp("tried") / "home")
    assert not said, (one, said, done.error)


@pytest.mark.long
def test_every_bad_input_is_refused_by_name(homes: dict[str, Path], tmp_path: Path) -> None:
    every = grammar.every()
    assert len(every) >= 500
    wrong = [(one, said) for one in every if (said := grammar.tried(one, homes, tmp_path / "home")[0])]
    assert not wrong, wrong


@pytest.mark.parametrize("name", ["effects", "removal", "report"])
def test_of_two_at_once_one_works_and_the_other_says_so(homes: dict[str, Path], tmp_path: Path, name: str) -> None:
    wanted, _ = undisturbed(tmp_path / "whole", homes[name], ground.COMMANDS[name])
    home = copied(homes[name], tmp_path / "home")
    both = [Running(home, ground.COMMANDS[name]) for _ in range(2)]
    ended = [one.ended() for one in both]
    assert 0 in [one.status for one in ended]
    for one in ended:
        assert one.status == 0 or (one.status == 2 and "another command is at work" in one.error), one.error
    assert left(home) == wanted


@pytest.mark.parametrize("name", ["effects", "prune"])
def test_a_disk_that_fills_loses_nothing_and_the_same_command_goes_on(
    homes: dict[str, Path], tmp_path: Path, name: str
) -> None:
    wanted, _ = undisturbed(tmp_path / "whole", homes[name], ground.COMMANDS[name])
    home = copied(homes[name], tmp_path / "home")
    full = ran(home, ground.COMMANDS[name], Fault(largest_file=700))
    assert full.status == 2, full.error
    assert not full.traced
    assert ran(home, ground.COMMANDS[name]).status == 0
    assert left(home) == wanted


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("study/effects/tensors.safetensors", ("locality", "study")),
        ("study/effects/spec.json", ("show", "study")),
        ("study/removal/spec.json", ("show", "study")),
        ("study/circuits/parity_0.json", ("report", "study")),
        ("study/circuits/examples.json", ("report", "study")),
        ("stage/calibration/metrics.json", ("show", "stage")),
        ("small/model/model.safetensors", ("effects", "small/model", "--out", "new")),
        ("small/model/config.json", ("effects", "small/model", "--out", "new")),
        ("small/model/world.json", ("effects", "small/model", "--out", "new")),
        ("small/report/metrics.json", ground.COMMANDS["prune"]),
    ],
)
def test_a_flipped_bit_is_refused_by_the_name_of_its_file(home: Path, part: str, line: tuple[str, ...]) -> None:
    path = home / part
    data = path.read_bytes()
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()] if path.suffix == ".json" else [len(data) - 3]
    middle = len(digits) // 2
    # The last digit of a long number may be another and the number the same: then nothing was altered.
    flipped = (flip(data, place) for place in digits[middle:])
    path.write_bytes(next(one for one in flipped if path.suffix != ".json" or json.loads(one) != json.loads(data)))
    said = refused(home, *line)
    assert path.name in said or path.parent.name in said


@pytest.mark.parametrize("part", ["effects", "removal", "circuits"])
def test_a_part_of_another_study_is_refused(home: Path, part: str) -> None:
    other = tuple("24" if one == "24" else "other" if one == "study" else one for one in ground.COMMANDS["effects"])
    assert ran(home, (*other, "--seed", "5")).status == 0
    for name in ("removal", "circuits"):
        shutil.copytree(home / "study" / name, home / "other" / name)
    if part == "effects":
        shutil.rmtree(home / "study" / part)
        shutil.copytree(home / "other" / part, home / "study" / part)
        assert "another study" in refused(home, "show", "study")
        return
    for name in {"removal", "circuits"} - {part}:
        shutil.rmtree(home / "other" / name)
    assert "another study" in refused(home, "report", "other")


@pytest.mark.parametrize("name", ["effects", "circuit", "localize", "prune", "relearn", "compare"])
def test_a_folder_of_somebody_else_stays_as_it_is(home: Path, name: str) -> None:
    foreign = home / "theirs"
    foreign.mkdir()
    for file in ("parity_0.json", "parity_0.png", "circuit.html", "compare.md", "model", "thesis.tex"):
        (foreign / file).write_text("mine")
    before = files(foreign)
    line = ground.COMMANDS[name]
    at = line.index("--out") + 1
    said = refused(home, *line[:at], "theirs", *line[at + 1 :])
    assert "delete" not in said
    assert {file: one for file, one in files(foreign).items() if file in before} == before


@pytest.mark.parametrize("command", ["circuit", "removal"])
def test_a_folder_of_others_is_refused_before_the_work(home: Path, command: str) -> None:
    (home / "foreign" / "effects").mkdir(parents=True)
    for name in ("thesis.txt", "parity_0.png", "effects/metrics.json"):
        (home / "foreign" / name).write_text("{}")
    before = files(home)
    line = (command, "study", "--count", "4", "--draws", "3", "--out", "foreign")
    assert '"foreign" holds other files' in refused(home, *line)
    assert files(home) == before


def test_a_page_of_somebody_else_is_not_replaced(home: Path) -> None:
    (home / "thesis.html").write_text("mine")
    assert "did not write it" in refused(home, "report", "study", "--out", "thesis.html")
    assert (home / "thesis.html").read_text() == "mine"


def test_nothing_is_written_outside(home: Path) -> None:
    before = files(home)
    assert "slashes" in refused(home, "relearn", "net", "../../evil=small/model", *ground.COMMANDS["relearn"][3:])
    assert files(home) == before


@pytest.mark.parametrize("name", ["bomb.txt.gz", "bomb.csv.gz", "bomb.jsonl.gz"])
def test_a_gz_bomb_is_refused(tmp_path: Path, name: str) -> None:
    with gzip.open(tmp_path / name, "wb") as file:
        for _ in range(110):
            file.write(bytes(1_000_000))
    with pytest.raises(ValueError, match="unpack it yourself"):
        read_rows(str(tmp_path / name), ["text"])


def test_a_link_that_leads_out_of_a_folder_of_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "texts" / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="leads out of folder"):
        read_rows(str(tmp_path / "texts"), ["text"])


def test_a_folder_that_is_linked_into_a_folder_of_texts_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("mine")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "b.txt").write_text("secret")
    (tmp_path / "texts" / "more").symlink_to(tmp_path / "secrets", target_is_directory=True)
    assert "secret" not in str(read_rows(str(tmp_path / "texts"), ["text"]))


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not JSON"):
        read_rows(str(tmp_path / "deep.json"), ["text"])
