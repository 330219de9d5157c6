"""Two models on the same examples: paired intervals that cover, what is refused, and what is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_report import circuit

from skilloc import locality, store
from skilloc.circuits.comparison import Comparison, compare
from skilloc.cli import main
from skilloc.effects import Effects
from skilloc.locality.intervals import t_quantile
from skilloc.report.comparison import comparison_sections
from skilloc.units import Units, neurons

UNITS = Units((neurons("layers.0", 20, 0), neurons("layers.1", 20, 1)))
NAMES = ("python", "cpp")
MADE = {"method": "ablation", "name": "first", "tokens": {"python": "a", "cpp": "b"}, "reference": {"name": "zero"}}


def effects(change: float = 0.0, *, seed: int = 0, own: float = 0.002, **made) -> Effects:
    """Planted units, noise that both models share, and noise of its own."""
    shared = 0.05 * np.random.default_rng(99).normal(size=(8, 2, 40))
    values = shared + own * np.random.default_rng(seed).normal(size=shared.shape)
    values[:, 0, 3] += 1.0 + change
    values[:, 1, 7:11] += 0.7
    return Effects(values, np.full((8, 2), 3.0), NAMES, UNITS, np.ones(40, bool), {**MADE, **made})


def test_differences_are_those_of_each_fold():
    first, second = effects(), effects(0.4, seed=1, name="second")
    found = compare(first, second)
    difference = second.values - first.values
    np.testing.assert_array_equal(found.values, difference)
    for s, name in enumerate(NAMES):
        told = found.effects(name)
        half = t_quantile(7) * difference[:, s].std(axis=0, ddof=1) / np.sqrt(8)
        np.testing.assert_allclose(told.value, difference[:, s].mean(axis=0))
        np.testing.assert_allclose(told.high - told.value, half)
    moved = found.effects("python").at(3)
    assert moved.low < 0.4 < moved.high
    assert moved.high - moved.low < 0.01  # the noise that both share is not in it
    assert found.models == ("first", "second")


def test_scores_differ_by_the_jackknife_of_both_without_a_fold():
    first, second = effects(), effects(0.4, seed=1)
    found = compare(first, second)
    whole = [locality.scores(one.of("python"))["locality"].value for one in (first, second)]
    without = [
        [locality.scores(np.delete(one.of("python"), fold, axis=0))["locality"].value for fold in range(8)]
        for one in (first, second)
    ]
    told, change = found.score("python", "locality"), np.subtract(without[1], without[0])
    assert told.value == pytest.approx(whole[1] - whole[0])
    error = np.sqrt(7 / 8 * ((change - change.mean()) ** 2).sum())
    assert told.high - told.value == pytest.approx(float(t_quantile(7)) * error)


@pytest.mark.slow
def test_intervals_of_equal_models_hold_zero_as_often_as_they_say():
    inside = []
    for seed in range(25):
        found = compare(effects(seed=2 * seed), effects(seed=2 * seed + 1))
        inside += [np.mean((end.low < 0) & (end.high > 0)) for end in map(found.effects, NAMES)]
    assert 0.93 < np.mean(inside) < 0.97


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"tokens": {"python": "x", "cpp": "b"}}, "not on the same examples"),
        ({"tokens": {}}, "not on the same examples"),
        ({"reference": {"name": "mean"}}, "different references, zero and mean"),
        ({"at": "last"}, "different positions, all and last"),
    ],
)
def test_what_was_not_measured_alike_is_refused(other, said):
    with pytest.raises(ValueError, match=said):
        compare(effects(), effects(**other))


def test_other_folds_subtasks_and_units_of_the_loss_are_refused():
    first = effects()
    few = replace(first, values=first.values[:4], baseline=first.baseline[:4])
    with pytest.raises(ValueError, match="different numbers of folds, 8 and 4"):
        compare(first, few)
    with pytest.raises(ValueError, match="different subtasks"):
        compare(first, replace(first, subtasks=("python", "rust")))
    with pytest.raises(ValueError, match="different units of the loss, nats and logits"):
        compare(first, replace(first, unit="logits"))


def test_models_with_other_units_are_compared_by_their_scores():
    other = Units((neurons("layers.0", 40, 0),))
    found = compare(effects(), replace(effects(seed=1), units=other))
    assert not found.same_units
    assert np.isfinite(found.score("python", "locality").value)
    assert "single units cannot be compared" in comparison_sections(found)[1].sentences[0]


def test_only_what_was_measured_in_both_is_compared():
    whole, part = effects(), effects(name="second")
    some = np.arange(40) < 12
    part = replace(part, values=np.where(some, part.values, np.nan))
    found = compare(whole, part)
    told = found.score("python", "mass")
    assert (told.value, told.low, told.high) == (0, 0, 0)  # the same weights: a sum over other units is no difference
    found = compare(whole, replace(part, values=2 * part.values))
    assert "12 of 40 units were measured in both" in comparison_sections(found)[0].sentences[1]
    with pytest.raises(ValueError, match="`top` is 12, but 12 units were measured"):
        compare(whole, part, top=12)
    with pytest.raises(ValueError, match="no unit that was measured in both"):
        compare(replace(whole, values=np.where(some, np.nan, whole.values)), part)


def test_a_study_beside_itself_differs_in_nothing():
    (section,) = comparison_sections(compare(effects(), effects()))
    assert section.sentences[0].startswith("No loss, and no effect")
    assert not section.tables


def test_circuits_are_compared_and_all_of_it_is_kept(tmp_path):
    graphs = [{"python": circuit(units)} for units in (6, 4)]
    first, second = effects(), effects(0.4, seed=1, name="second")
    found = compare(first, second, circuits=(graphs[0], graphs[1]))
    assert found.traced == ("python",)
    assert found.circuits[0, 0] == pytest.approx(4 / 6)
    assert found.only == ((("L0N4", "L1N5"), ()),)
    units = [UNITS.names.index(name) for name in graphs[0]["python"]]
    np.testing.assert_allclose(found.carried[:, 0], (second.values - first.values)[:, 0, units].sum(axis=-1))
    store.save(found, tmp_path / "comparison")
    again = store.load(Comparison, tmp_path / "comparison")
    np.testing.assert_equal(
        {**vars(again), "made": None, "units": again.units.record(), "only": None},
        {**vars(found), "made": None, "units": found.units.record(), "only": None},
    )
    assert again.only == found.only


def test_the_command_says_it_in_words_json_and_pages(tmp_path, capsys):
    for name, one in (("a", effects()), ("b", effects(0.4, seed=1, name="second"))):
        store.save(one, tmp_path / name / "effects")
    asked = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    main([*asked, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    for words in ("second minus first", "python: its locality is", "L0N3 0."):
        assert words in said
    for page in ("compare.html", "compare.md"):
        assert "Which units changed?" in (tmp_path / "out" / page).read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main([*asked, "--out", str(tmp_path / "mine")])
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    main([*asked, "--json"])
    assert json.loads(capsys.readouterr().out)["models"] == ["first", "second"]
    store.save(effects(tokens={"python": "x", "cpp": "y"}), tmp_path / "c" / "effects")
    with pytest.raises(SystemExit):
        main([*asked[:2], str(tmp_path / "c")])
    assert "the same texts" in capsys.readouterr().err
