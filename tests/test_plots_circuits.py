"""Circuit diagrams: nodes where they belong, sizes and colours that say the effect, labels that do not collide."""

import networkx as nx
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba

from skilloc import plots
from skilloc.circuits.diagram import diagram_of, joint_diagram
from skilloc.plots.circuits import FAINT, NEGATIVE, POSITIVE
from skilloc.plots.diagram import place
from skilloc.plots.labels import Labels
from skilloc.plots.style import CONTROL, colour_of
from skilloc.report.diagrams import _circuits

NAMES = ("python", "cpp")


def effect(value, *, second=0.0, half=0.0):
    return {
        "python": {"value": value, "low": value - half, "high": value + half},
        "cpp": {"value": second, "low": None, "high": None},
    }


def small():
    """tokens -> L0H0 -> L1N0, L1N1 -> logits; L1N1 is harmful, and uncertain."""
    graph = nx.DiGraph(version=1, subtask="python", subtasks=list(NAMES))
    graph.add_node("tokens", kind="input", layer=-1, column=0, position=0, effect=effect(9.0))
    graph.add_node("L0H0", kind="head", layer=0, column=1, position=0, effect=effect(1.0, second=0.1))
    graph.add_node("L1N0", kind="neuron", layer=1, column=4, position=0, effect=effect(0.25, second=0.3))
    graph.add_node("L1N1", kind="neuron", layer=1, column=4, position=1, effect=effect(-0.04, half=0.1))
    graph.add_node("logits", kind="output", layer=2, column=5, position=0, effect={})
    graph.add_edge("tokens", "L0H0", effect=effect(0.5))
    graph.add_edge("L0H0", "L1N0", effect=effect(0.2))
    graph.add_edge("L0H0", "L1N1", effect=effect(-0.1))
    graph.add_edge("L1N0", "logits", effect=effect(0.05, half=0.1))
    return graph


def large(units, edges, *, layers=4):
    random = np.random.default_rng(0)
    graph = nx.DiGraph(version=1, subtask="python", subtasks=list(NAMES))
    for u in range(units):
        layer = u % layers
        graph.add_node(
            f"L{layer}N{u}", kind="neuron", layer=layer, column=layer, position=u, effect=effect(random.normal())
        )
    pairs = [(a, b) for a in graph for b in graph if graph.nodes[a]["layer"] < graph.nodes[b]["layer"]]
    for i in random.choice(len(pairs), edges, replace=False):
        graph.add_edge(*pairs[i], effect=effect(random.normal()))
    return graph


def drawn(graph, **options):
    with plots.style():
        figure, ax = plots.figure(height=4.0)
        plots.circuit_diagram(ax, diagram_of(graph), **options)
        figure.savefig("/dev/null", format="png")
    return figure, ax


def test_a_graph_becomes_arrays_in_forward_order_with_unknown_ends_as_nan():
    diagram = diagram_of(small())
    assert diagram.names == ("tokens", "L0H0", "L1N0", "L1N1", "logits")
    np.testing.assert_array_equal(diagram.edges, [[0, 1], [1, 2], [1, 3], [2, 4]])
    np.testing.assert_array_equal(diagram.effects[0], [9.0, 1.0, 0.25, -0.04, np.nan])
    assert np.isnan(diagram.low[1]).all()
    np.testing.assert_array_equal(diagram.flows[0], [0.5, 0.2, -0.1, 0.05])


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="pass a circuit with at least 1"):
        diagram_of(nx.DiGraph(subtasks=["python"]))
    with pytest.raises(ValueError, match="this circuit has python, cpp"):
        drawn(small(), subtask="rust")


@pytest.mark.parametrize("units", [10, 300])
def test_every_node_has_a_place_of_its_own_and_columns_go_forward(units):
    diagram = diagram_of(large(units, 3 * units))
    places = place(diagram)
    assert len(np.unique(places.round(9), axis=0)) == units
    assert ((places[:, 1] > 0) & (places[:, 1] < 1)).all()
    a, b = diagram.edges.T
    assert (places[a, 0] < places[b, 0]).all()


def test_units_stand_opposite_what_they_are_connected_to():
    graph = nx.DiGraph(subtasks=["python"])
    for u in range(20):
        graph.add_node(f"L0N{u}", kind="neuron", layer=0, column=0, position=u, effect={})
        graph.add_node(f"L1N{u}", kind="neuron", layer=1, column=1, position=u, effect={})
    for u, v in enumerate(np.random.default_rng(0).permutation(20)):
        graph.add_edge(f"L0N{u}", f"L1N{v}", effect={"python": {"value": 1.0}})
    diagram = diagram_of(graph)
    a, b = place(diagram)[diagram.edges, 1].T
    assert (np.argsort(a) == np.argsort(b)).all()  # no two edges cross


def markers(ax):
    """Marker collections with what they say, by position."""
    found = {}
    for collection in ax.collections:
        if isinstance(collection, PathCollection) and len(collection.get_offsets()) and collection.get_zorder() == 3:
            for i, at in enumerate(np.asarray(collection.get_offsets())):
                colours, areas = collection.get_facecolors(), collection.get_sizes()
                found[tuple(at.round(6))] = colours[i], areas[i], collection.get_edgecolors()[i]
    return found


def at(graph, ax):
    diagram = diagram_of(graph)
    found = markers(ax)
    return {name: found[tuple(point.round(6))] for name, point in zip(diagram.names, place(diagram), strict=True)}


def test_sign_size_and_certainty_show():
    graph = small()
    _, ax = drawn(graph, subtask="python")
    found = at(graph, ax)
    assert tuple(found["L0H0"][0]) == to_rgba(POSITIVE)
    assert tuple(found["L1N1"][0]) == to_rgba(NEGATIVE, FAINT)
    # Areas grow with the square root: 1, 0.25 and 0.04 nats are 1, 1/2 and 1/5 of the way from least to most.
    head, first, second = (found[name][1] for name in ("L0H0", "L1N0", "L1N1"))
    least = (first - head / 2) * 2
    assert second == pytest.approx(least + (head - least) / 5)
    assert found["tokens"][1] == pytest.approx(head)  # an input is no unit: it does not set the scale


def test_edges_are_as_wide_as_strong_and_faint_where_uncertain():
    _, ax = drawn(small(), subtask="python")
    (edges,) = [c for c in ax.collections if c.get_zorder() == 1]
    weakest, second, third, strongest = edges.get_linewidths()
    assert weakest < second < third < strongest
    colours = edges.get_edgecolors()
    assert tuple(colours[1][:3]) == to_rgba(NEGATIVE)[:3]
    assert colours[0][3] < colours[1][3] == colours[3][3]


def test_without_a_subtask_colours_say_who_needs_it_most_and_rings_who_next():
    graph = small()
    _, ax = drawn(graph)
    found = at(graph, ax)
    assert tuple(found["L0H0"][0]) == to_rgba(colour_of(0))
    assert tuple(found["L0H0"][2]) == to_rgba("white")  # cpp needs it a tenth as much
    assert tuple(found["L1N0"][0]) == to_rgba(colour_of(1))
    assert tuple(found["L1N0"][2]) == to_rgba(colour_of(0))


def test_panels_of_one_diagram_share_layout_and_scale():
    graph = small()
    python, cpp = (at(graph, drawn(graph, subtask=name)[1]) for name in NAMES)
    assert python.keys() == cpp.keys()
    assert cpp["L1N0"][1] > python["L1N0"][1]  # 0.3 against 0.25 nats


def two_circuits():
    """L1N1 is only in python's circuit, and L1N2 only in that of cpp."""
    python, cpp = small(), nx.relabel_nodes(small(), {"L1N1": "L1N2"})
    cpp.nodes["L1N2"]["position"] = 2
    cpp.graph["subtask"] = "cpp"
    return {"python": python, "cpp": cpp}


def test_several_circuits_share_a_layout_and_each_states_its_own_effects():
    diagram = joint_diagram(two_circuits())
    assert diagram.names == ("tokens", "L0H0", "L1N0", "L1N1", "L1N2", "logits")
    assert diagram.subtasks == ("python", "cpp")
    np.testing.assert_array_equal(diagram.effects[0], [9.0, 1.0, 0.25, -0.04, np.nan, np.nan])
    np.testing.assert_array_equal(diagram.effects[1], [0.0, 0.1, 0.3, np.nan, 0.0, np.nan])
    pairs = [(diagram.names[a], diagram.names[b]) for a, b in diagram.edges]
    flows = dict(zip(pairs, diagram.flows.T, strict=True))
    np.testing.assert_array_equal(flows["L0H0", "L1N1"], [-0.1, np.nan])
    np.testing.assert_array_equal(flows["L0H0", "L1N2"], [np.nan, 0.0])
    with pytest.raises(ValueError, match="pass a circuit with at least 1"):
        joint_diagram({})


def test_what_is_in_another_circuit_is_a_grey_dot_without_a_name():
    diagram = joint_diagram(two_circuits())
    with plots.style():
        figure, ax = plots.figure(height=4.0)
        plots.circuit_diagram(ax, diagram, subtask="python")
        plots.circuit_legend(figure, diagram, subtask="python")
        figure.savefig("/dev/null", format="png")
    found = markers(ax)
    own, other = (found[tuple(place(diagram)[diagram.names.index(name)].round(6))] for name in ("L1N1", "L1N2"))
    assert tuple(own[0]) == to_rgba(NEGATIVE, FAINT)
    assert tuple(other[0]) == to_rgba(CONTROL, FAINT)
    assert other[1] < own[1]
    (labels,) = [artist for artist in ax.get_children() if isinstance(artist, Labels)]
    assert {text.get_text() for text in labels.texts} == {"tokens", "L0H0", "L1N0", "L1N1", "logits"}
    assert any("in another circuit" in text.get_text() for text in figure.legends[0].get_texts())


def test_titles_of_panels_are_equally_high_and_not_cut():
    circuits = two_circuits()
    for graph in circuits.values():
        graph.graph |= {"chosen": "top 12", "reference": "zero"}
    circuits["cpp"].graph["faithfulness"] = [{"size": 3, "low": 0.4, "random_high": 0.3}]  # so that it is a circuit
    with plots.style():
        figure = _circuits(circuits)
        figure.canvas.draw()
    titles = [ax.title if ax.title.get_text() else ax._left_title for ax in figure.axes]
    boxes = [title.get_window_extent() for title in titles]
    assert len({title.get_text().count("\n") for title in titles}) == 1
    for ax, box, right in zip(figure.axes, boxes, [boxes[1].x0, figure.bbox.x1], strict=True):
        assert box.x1 < right, ax


@pytest.mark.parametrize("columns", [1, 3])
def test_names_of_layers_do_not_touch(columns):
    graph = large(60, 100, layers=30)
    with plots.style():
        figure, axes = plots.figure(1, columns, squeeze=False)
        for ax in axes[0]:
            plots.circuit_diagram(ax, diagram_of(graph), subtask="python")
        figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes[0, 0].get_xticklabels()]
    assert len(boxes) >= 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


@pytest.mark.parametrize(("units", "least"), [(10, 10), (60, 30), (300, 100)])
def test_labels_do_not_collide_and_the_important_ones_stay(units, least):
    graph = large(units, 3 * units)
    figure, ax = drawn(graph, subtask="python")
    (labels,) = [artist for artist in ax.get_children() if isinstance(artist, Labels)]
    with plots.style():
        figure.canvas.draw()
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in labels.shown]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    points = ax.transData.transform(place(diagram_of(graph)))
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert len(labels.shown) >= least
    ranks = [labels.texts.index(text) for text in labels.shown]
    assert np.mean(ranks) <= np.mean(range(units))


def test_names_with_markup_are_drawn_as_they_are():
    graph = nx.relabel_nodes(small(), {"L1N0": r"$\broken{ <b>"})
    drawn(graph)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_diagrams_with_their_legend_are_saved_alike_each_time(kind, tmp_path):
    files = []
    for i in range(2):
        with plots.style():
            figure, axes = plots.figure(1, 2, height=3.0)
            diagram = diagram_of(small())
            for ax, name in zip(axes, NAMES, strict=True):
                plots.circuit_diagram(ax, diagram, subtask=name)
            plots.circuit_legend(figure, diagram, subtask="python")
            dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
            figure.savefig(tmp_path / f"{i}.{kind}", metadata=dated)
        files.append((tmp_path / f"{i}.{kind}").read_bytes())
    assert files[0] == files[1]


def test_a_legend_says_how_many_edges_are_left_out():
    diagram = diagram_of(large(20, 100))
    with plots.style():
        figure, ax = plots.figure()
        plots.circuit_diagram(ax, diagram, most_edges=30)
        plots.circuit_legend(figure, diagram, most_edges=30)
    (edges,) = [c for c in ax.collections if c.get_zorder() == 1]
    assert len(edges.get_paths()) == 30
    assert any("30 of 100 edges" in text.get_text() for text in figure.legends[0].get_texts())


WEIGHTS = [np.array([[1.0, 0.0], [0.2, -0.5], [0.0, 0.0]]), np.array([[0.0, 2.0, 0.3]])]


def test_an_mlp_drawing_has_a_line_per_weight_above_the_threshold_and_hollow_dead_units():
    with plots.style():
        figure, ax = plots.figure()
        plots.mlp_network(ax, WEIGHTS, threshold=0.25, ends=(("bit 0", "bit 1"), ()))
        figure.canvas.draw()
    first, second = (c.get_linewidths() for c in ax.collections)
    assert (len(first), len(second)) == (2, 2)  # 1.0 and -0.5; 2.0 and 0.3
    assert max(second) > max(first)
    hollow = [tuple(xy) for line in ax.lines if line.get_markerfacecolor() == "white" for xy in line.get_xydata()]
    # Unit 0 has no way out, and unit 2 no way in.
    assert hollow == [(1.0, pytest.approx(5 / 6)), (1.0, pytest.approx(1 / 6))]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2 inputs", "1 of 3", "1 outputs"]


def test_an_mlp_drawing_refuses_what_does_not_fit():
    with plots.style():
        _, ax = plots.figure()
        with pytest.raises(ValueError, match="in forward order"):
            plots.mlp_network(ax, WEIGHTS[::-1], threshold=0.0)
        with pytest.raises(ValueError, match=r"the hidden layers have \[3\]"):
            plots.mlp_network(ax, WEIGHTS, threshold=0.0, alive=[np.ones(2, bool)])
