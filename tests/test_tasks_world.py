import json

import pytest

from skilloc.study.world import open_world, save_world
from skilloc.tasks.parity import parity_subtasks

WORLD = parity_subtasks(12, atoms=[(0, 5), (3, 4, 7), (9,)], composites=[(0, 2), (2, 1)])


def test_a_world_comes_back_with_the_same_examples(tmp_path):
    save_world(WORLD.values(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["world.json"]
    again = open_world(tmp_path)
    assert list(again) == list(WORLD) == ["parity_0", "parity_1", "parity_2", "composite_02", "composite_12"]
    for name, subtask in again.items():
        assert subtask.draw(9).digest == WORLD[name].draw(9).digest
        assert (subtask.atoms, subtask.made) == (WORLD[name].atoms, WORLD[name].made)


def test_some_subtasks_stand_for_all_atoms(tmp_path):
    save_world([WORLD["composite_12"]], tmp_path)
    assert list(open_world(tmp_path)) == ["parity_0", "parity_1", "parity_2", "composite_12"]


def test_what_cannot_be_saved(tmp_path):
    other = parity_subtasks(12, atoms=2, k=2)["parity_0"]
    with pytest.raises(ValueError, match="one call of parity_subtasks"):
        save_world([WORLD["parity_0"], other], tmp_path)
    with pytest.raises(ValueError, match="pass those of parity_subtasks"):
        save_world([], tmp_path)
    with pytest.raises(FileNotFoundError):
        save_world([other], tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"n": 3}, {"family": "digits"}, {"sets": None}, {"composites": [[0, 9]]}, None])
def test_damage_is_named(tmp_path, change):
    save_world(WORLD.values(), tmp_path)
    path = tmp_path / "world.json"
    path.write_text("{" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"world.json is damaged .*write it again"):
        open_world(tmp_path)


def test_a_folder_without_a_world_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_world"):
        open_world(tmp_path)
