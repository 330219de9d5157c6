"""Circuits: the units that carry a subtask, how they feed each other, and whether they are the skill.

graph           the documented graph and its files; all that plots and pages need to know
choice          which units: a mask, the top n, or enough to keep a stated share of the skill
edges           how much of a unit's effect passes through a later unit
faithfulness    the loss with only the circuit, and with only the rest, beside random circuits
overlap         what circuits of several subtasks, seeds or references share
trace           all of this together: from effects to a graph
patching        edges between heads and whole MLPs, by transformer-lens' own tools
"""
