"""What a study says of its effects: curves without luck, noise, spread, pictures and a page that hold together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from skilloc import store
from skilloc.ablation.removal import Removal
from skilloc.cli.printed import print_sections
from skilloc.effects import Effects
from skilloc.locality.intervals import Interval
from skilloc.report import markdown, pictures, report_page
from skilloc.report.about import about, noise_of, sorted_effects, top_units
from skilloc.report.findings import Findings, read_findings, sections_of
from skilloc.report.locality import references_section
from skilloc.report.record import as_json
from skilloc.report.scored import references_of
from skilloc.report.section import compared
from skilloc.report.words import WORDS
from skilloc.study.folder import claim
from skilloc.study.settings import Settings
from skilloc.tasks.losses import cross_entropy, logit_difference
from skilloc.units import Units, heads, neurons

NAMES = ("python", "cpp", "english")
UNITS = Units(
    (
        heads("blocks.0.attn.hook_z", 4, 0),
        neurons("blocks.0.mlp.hook_post", 200, 0),
        heads("blocks.1.attn.hook_z", 4, 1),
        neurons("blocks.1.mlp.hook_post", 200, 1),
    )
)
DRAWN = {"sequences": 8, "length": 16, "split": "report", "seed": 0}


def made(true: np.ndarray, noise: float, *, folds: int = 8, reference: str = "zero", seed: int = 0) -> Effects:
    values = true + noise * np.random.default_rng(seed).normal(size=(folds, *true.shape))
    record = {"method": "ablation", "name": "planted", "reference": {"name": reference}, "drawn": DRAWN}
    return Effects(values, np.full((folds, 3), 3.0), NAMES, UNITS, np.ones(len(UNITS), bool), record)


@pytest.fixture
def planted() -> Effects:
    true = np.zeros((3, len(UNITS)))
    true[:, 3] = 0.5  # a head that all need
    for s in range(3):
        true[s, 20 * (s + 1)] = 1.0  # a neuron of its own each
    return made(true, 0.01)


def removed(own: float, other: float) -> Removal:
    matrix = np.full((3, 3), other) + (own - other) * np.eye(3)
    noise = 0.01 * np.random.default_rng(1).normal(size=(3, 8, 3, 3))
    values = matrix * np.array([0.3, 0.6, 1.0])[:, None, None, None] + noise
    random = 0.01 * np.random.default_rng(2).normal(size=(4, 3, 8, 3, 3))
    return Removal(values, random, np.full((8, 3), 3.0), NAMES, (10, 30, 100), {"reference": {"name": "zero"}})


def findings(folder: Path, effects: Effects, removal: Removal) -> Findings:
    """What a folder says that holds both."""
    store.save(effects, folder / "effects")
    store.save(removal, folder / "removal")
    return read_findings(folder)


def test_sorted_effects_of_pure_noise_are_zero():
    curves = sorted_effects(made(np.zeros((3, len(UNITS))), 1.0, folds=16))
    assert abs(curves.value[:, :5].mean()) < 0.2  # the largest of 408 noisy means are near 3 / sqrt(16)
    inside = (curves.low < 0) & (curves.high > 0)
    assert 0.85 < inside.mean() < 1


def test_sorted_effects_find_planted_ones_at_their_rank(planted):
    curves = sorted_effects(planted)
    assert curves.ranks[0] == 1
    np.testing.assert_allclose(curves.value[:, 0], 1.0, atol=0.05)
    np.testing.assert_allclose(curves.value[:, 1], 0.5, atol=0.05)
    assert np.abs(curves.value[:, 3:]).max() < 0.05
    assert (np.diff(curves.ranks) > 0).all()
    assert curves.ranks[-1] <= len(UNITS)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_sorted_effects_of_few_units_keep_them_all(n):
    effects = made(np.zeros((3, len(UNITS))), 1.0)
    values = effects.values.copy()
    values[..., n:] = np.nan
    curves = sorted_effects(Effects(values, effects.baseline, NAMES, UNITS, effects.exact))
    np.testing.assert_array_equal(curves.ranks, np.arange(1, n + 1))
    np.testing.assert_allclose(curves.value.mean(axis=1), values[..., :n].mean(axis=(0, 2)), atol=1e-12)


def test_noise_is_the_interval_of_a_typical_unit():
    found = noise_of(made(np.zeros((3, len(UNITS))), 0.02, folds=8))
    np.testing.assert_allclose(found, 2.365 * 0.02 / np.sqrt(8), rtol=0.15)


def test_the_units_needed_most_are_the_planted_ones(planted):
    found = top_units(planted, n=2)
    for s, name in enumerate(NAMES):
        assert [unit.unit for unit in found[name]] == [UNITS.names[20 * (s + 1)], "L0H3"]
        assert found[name][0].low < found[name][0].value < found[name][0].high
        assert found[name][0].value == pytest.approx(1.0, abs=0.02)


def test_spread_is_between_references_of_the_same_measurement_only(planted):
    mean = replace(planted, made={**planted.made, "reference": {"name": "resample"}})
    found = references_of([planted, mean])
    assert found.references == ("zero", "resample")
    assert not any(one.range("locality") > 0 or one.moved for one in found.subtasks.values())
    assert references_of([planted]) is None
    assert references_of([planted, planted]) is None
    assert references_of([planted, replace(mean, made={**mean.made, "model": "another", "name": "another"})]) is None


def test_units_whose_ranks_depend_on_the_reference_are_named(planted):
    values = planted.values.copy()
    first = planted.mean(planted.subtasks[0]).argmax()
    values[:, 0, first] = -values[:, 0, first]
    turned = replace(planted, values=values, made={**planted.made, "reference": {"name": "resample"}})
    section = references_section(references_of([planted, turned], top=3))
    assert "share of top 3" in [row[0] for row in section.tables[0].rows]
    said = " ".join(section.sentences)
    assert f"{planted.units.names[first]} (rank 1 to" in said


def test_results_become_json():
    assert as_json({"a": [float("nan"), (1.0, float("inf"))], "b": None}) == {"a": [None, [1.0, None]], "b": None}
    assert as_json(Interval(np.float64(1.0), float("nan"), np.arange(2))) == {"value": 1.0, "low": None, "high": [0, 1]}


def titles_and_labels(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [t for ax in figure.axes for t in (ax.title, ax._left_title, ax._right_title)]
    for ax in figure.axes:
        low, high = sorted(ax.get_xlim())
        texts += [t.label1 for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
    legends = [legend for ax in figure.axes if (legend := ax.get_legend())] + figure.legends
    boxes = [t.get_window_extent(renderer) for t in texts if t.get_text()]
    return boxes + [legend.get_window_extent(renderer) for legend in legends]


def test_titles_ticks_and_legends_of_the_pictures_do_not_overlap_and_lie_inside(planted, tmp_path, monkeypatch):
    kept = []
    original = pictures.plots.figure

    def keep(*args, **settings):
        kept.append(original(*args, **settings))
        return kept[-1]

    monkeypatch.setattr(pictures.plots, "figure", keep)
    sections = sections_of(findings(tmp_path / "study", planted, removed(1.0, 0.4)))
    paths = pictures.save_pictures([picture for section in sections for picture in section.pictures], tmp_path)
    assert [path.stem for path in paths] == ["locality", "entanglement", "removal", "units", "sorted"]
    for path, (figure, _) in zip(paths, kept, strict=True):
        with pictures.plots.style():
            figure.canvas.draw()
            boxes = titles_and_labels(figure)
        for i, box in enumerate(boxes):
            assert box.x1 <= figure.bbox.x1 + 1, path.stem
            assert box.x0 >= -1, path.stem
            for other in boxes[i + 1 :]:
                assert not box.overlaps(other), path.stem


def test_the_page_tells_planted_structure_from_none(planted, tmp_path):
    def page(effects, removal, folder):
        return markdown.page("a page", sections_of(findings(tmp_path / folder, effects, removal)))

    local = page(planted, removed(1.0, 0.1), "local")
    for s, name in enumerate(NAMES):
        assert f"- {name} is more local than chance (effective number of units " in local
        assert f". It needs most: {UNITS.names[20 * (s + 1)]} (1.0)" in local
        assert f"neurons of {name}" not in local
        assert f"removing those of {name} hits {name} most" in local
    assert "python and cpp: share units beyond chance" in local
    nothing = page(made(np.zeros((3, len(UNITS))), 1.0), removed(0.5, 0.5), "nothing")
    opening = nothing.split("\n## ")[1]
    assert opening.count("too noisy to tell") == 6  # three subtasks, three pairs
    assert "removing those of cpp hits all alike, as far as can be told" in nothing


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.2, 0.3, "above"), (0.0, 0.05, "below"), (0.05, 0.2, "not told from chance")]
)
def test_an_interval_is_compared_with_its_chance(low, high, said):
    score = Interval((low + high) / 2, low, high, 0.1)
    assert compared(score, below="below", above="above") == said
    assert compared(score._replace(value=float("nan")), below="below", above="above").startswith("too noisy")


def test_a_folder_is_claimed_once_and_tells_what_differs(tmp_path):
    request = {
        "what": "study",
        "model": "a",
        "units": {},
        "settings": {"seed": 0},
        "tokens": {"x": "1"},
        "reference": {},
        "loss": {},
    }
    claim(tmp_path / "s", request)
    claim(tmp_path / "s", request)
    assert store.read(tmp_path / "s" / "request").spec == request
    (tmp_path / "s" / "effects").mkdir()
    for key, value, said in (
        ("model", "b", "of another model"),
        ("settings", {"seed": 1}, "`seed` 0 and not 1"),
        ("tokens", {"x": "2"}, "of other tokens"),
        ("loss", {"name": "error"}, "with another loss"),
        ("tokens", {"y": "1"}, "of subtasks x and not y"),
    ):
        with pytest.raises(ValueError, match=said):
            claim(tmp_path / "s", {**request, key: value})
    (tmp_path / "s" / "effects").rmdir()
    claim(tmp_path / "s", {**request, "model": "b"})  # nothing was measured for the first
    assert store.read(tmp_path / "s" / "request").spec["model"] == "b"


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "x"},
        {"reference": "x"},
        {"split": "x"},
        {"length": 0},
        {"folds": 9},
        {"top": -1},
        {"top": 3},
        {"curvature": -1},
    ],
)
def test_settings_that_contradict_are_refused(wrong):
    with pytest.raises(ValueError, match=r"use|needs|`of`"):
        Settings(**wrong)


def test_a_folder_of_the_first_version_is_claimed_by_the_same_request_of_today(tmp_path):
    old = {
        "what": "study",
        "model": "a",
        "units": {"hooks": list(UNITS.hooks), "widths": list(UNITS.widths)},
        "settings": {"seed": 0, "reference": "mean"},
        "tokens": {"x": "1"},
        "reference": {"name": "mean", "made": {}, "digest": "d"},
    }
    today = {
        **old,
        "units": UNITS.record(),
        "settings": {"seed": 0, "reference": "flat mean", "loss": "cross_entropy", "at": "all"},
        "reference": {**old["reference"], "name": "flat mean"},
        "loss": cross_entropy.record(),
    }
    claim(tmp_path, old)
    (tmp_path / "effects").mkdir()
    claim(tmp_path, today)
    with pytest.raises(ValueError, match="`reference` flat mean and not mean"):
        claim(tmp_path, {**today, "settings": {**today["settings"], "reference": "mean"}})
    with pytest.raises(ValueError, match="`at` all and not last"):
        claim(tmp_path, {**today, "settings": {**today["settings"], "at": "last"}})


def test_a_mean_of_the_first_version_is_told_as_the_flat_mean_that_it_is(planted):
    old = replace(planted, made={**planted.made, "reference": {"name": "mean"}})
    new = replace(old, made={**old.made, "loss": cross_entropy.record()})
    assert (about(old).reference, about(new).reference) == ("flat mean", "mean")


@pytest.mark.slow
def test_tables_pictures_and_page_name_the_unit_of_the_loss_and_never_nats_by_habit(planted, tmp_path, capsys):
    margins = {**planted.made, "loss": logit_difference.record(), "at": "last"}
    effects = replace(planted, made=margins, unit="logits")
    removal = replace(removed(1.0, 0.4), made={**margins, "effects": margins})
    sections = sections_of(findings(tmp_path / "study", effects, removal))
    print_sections(*sections)
    printed = capsys.readouterr().out
    pictures.save_pictures([picture for section in sections for picture in section.pictures], tmp_path)
    drawn = "".join(path.read_text() for path in tmp_path.glob("*.svg"))
    for said in (
        printed,
        markdown.page("a page", sections),
        report_page(tmp_path / "study").replace(WORDS["nats"], ""),
    ):
        assert "logits" in said
        assert "nats" not in said
    assert "logit difference in logits" in printed
    assert ", at last positions" in printed
    assert "(logits)" in drawn
    assert "(nats)" not in drawn
