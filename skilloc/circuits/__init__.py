"""Circuits: the units that carry a subtask, how they feed each other, and whether they are the skill.

graph           the documented graph and its files; all that plots and pages need to know
edges           how much of a unit's effect passes through a later unit
faithfulness    the loss with only the circuit, and with only the rest, beside random circuits
gates           circuits that are learned: a gate on every unit, all together
edge_gates      edges that are learned: a gate on every edge of a circuit
wires, wired    the circuit with only some of its edges, and what it keeps then
overlap         what circuits of several subtasks, seeds or references share
trace           all of this together: from effects to a graph
patching        edges between heads and whole MLPs, by transformer-lens' own tools
"""

from skilloc.circuits.edges import edge_effects
from skilloc.circuits.faithfulness import faithfulness
from skilloc.circuits.overlap import consensus
from skilloc.circuits.patching import attribution_circuit
from skilloc.circuits.trace import Tracing, trace_circuit

__all__ = ["Tracing", "attribution_circuit", "consensus", "edge_effects", "faithfulness", "trace_circuit"]
