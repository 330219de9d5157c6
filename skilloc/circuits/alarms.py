"""What a circuit owes to the way it was measured: completeness or faithfulness above 1, edges above the floor."""

import numpy as np

from skilloc.circuits.edges import Edges
from skilloc.circuits.faithfulness import Curve
from skilloc.effects.alarms import COMPLETENESS, EDGE, FAITHFULNESS, Alarm

MORE = 1.25
"""Times the model's skill, above which a circuit does something else than the model does."""


def completeness_alarms(curve: Curve) -> list[Alarm]:
    """Return an alarm for every size whose completeness is above 1 with its whole interval."""
    found = [(size, curve.completeness(place)) for place, size in enumerate(curve.sizes)]
    return [
        Alarm(COMPLETENESS, f"circuit of {size} units", float(one.value), 1.0) for size, one in found if one.low > 1
    ]


def faithfulness_alarms(curve: Curve) -> list[Alarm]:
    """Return an alarm for every size whose circuit has more than `MORE` of the model's skill, interval and all."""
    found = [(size, curve.faithfulness(place)) for place, size in enumerate(curve.sizes)]
    return [
        Alarm(FAITHFULNESS, f"circuit of {size} units", float(one.value), MORE) for size, one in found if one.low > MORE
    ]


def edge_alarms(found: Edges | None, curve: Curve, subtask: str) -> list[Alarm]:
    """Return an alarm for every edge that is larger than all that there is to lose: the floor minus the loss."""
    if found is None or subtask not in found.subtasks:
        return []
    floor = float(curve.floor.mean())
    mean = found.values[:, found.subtasks.index(subtask)].mean(axis=0)
    names = [node.name for node in found.nodes]
    return [
        Alarm(EDGE, f"{names[a]} to {names[b]}", float(mean[a, b]), floor) for a, b in np.argwhere(np.abs(mean) > floor)
    ]
