"""Alarms: what a number may owe to the way it was measured, and not to the model.

An alarm is data: kept in the record of a result and said wherever the result is shown. It refuses nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from skilloc.locality.intervals import t_quantile

INJECTION, COMPLETENESS, EDGE, SIGN = "injection", "completeness", "edge", "sign"
FAITHFULNESS = "faithfulness"

_SENTENCES = {
    INJECTION: "{about}: held up to {value:.3g} from what it does at the same position, where it stays within "
    "{limit:.3g}; its effect is that of the injected value: measure with another reference",
    COMPLETENESS: "{about}: completeness {value:.3g} is above 1: without the circuit the model is worse than with "
    "nothing, so the reference does harm of its own: compare references",
    FAITHFULNESS: "{about}: alone it has {value:.3g} times the skill of the whole model: that is what these units can "
    "do without the others, and not how the model does it",
    EDGE: "{about}: an edge of {value:.3g} is above the floor, {limit:.3g}, all that there is to lose: the reference "
    "puts the source far outside what it does",
    SIGN: "{about}: estimated at {value:.3g} but measured at {limit:.3g}: the estimate has the wrong sign",
}


class Alarm(NamedTuple):
    """One thing that went wrong.

    Attributes:
        kind: "injection", "completeness", "faithfulness", "edge" or "sign".
        about: whose: a unit, an edge, a circuit.
        value: what was seen.
        limit: what it should have kept to, or been.
    """

    kind: str
    about: str
    value: float
    limit: float

    def __str__(self) -> str:
        return _SENTENCES[self.kind].format(**self._asdict())

    def record(self) -> dict[str, Any]:
        """Return a JSON form."""
        return {**self._asdict(), "says": str(self)}


def read_alarms(made: Mapping[str, Any]) -> tuple[Alarm, ...]:
    """Return the alarms that a record holds."""
    return tuple(Alarm(**{name: one[name] for name in Alarm._fields}) for one in made.get("alarms", ()))


def alarm_records(alarms: Iterable[Alarm], *, most: int = 20) -> list[dict[str, Any]]:
    """Return the alarms as a record holds them: of each kind, the `most` that exceed their limit furthest."""
    alarms, found = list(alarms), list[dict[str, Any]]()
    for kind in (INJECTION, COMPLETENESS, FAITHFULNESS, EDGE, SIGN):
        own = [alarm for alarm in alarms if alarm.kind == kind]
        own.sort(key=lambda alarm: -abs(alarm.value) / max(abs(alarm.limit), 1e-30))
        found += [alarm.record() for alarm in own[:most]]
    return found


def sign_alarms(
    estimate: Float[np.ndarray, "fold unit"],
    exact: Float[np.ndarray, "fold unit"],
    names: Sequence[str],
    *,
    subtask: str,
) -> tuple[Alarm, ...]:
    """Return an alarm for every unit whose estimate has the other sign than its measured effect.

    Both must be clear of 0 by their 95 % intervals over folds. Units that were not measured (NaN) have none.
    """
    folds = len(exact)
    if folds < 3:
        return ()
    t = float(t_quantile(folds - 1)) / np.sqrt(folds)
    means = estimate.mean(axis=0), exact.mean(axis=0)
    clear = [
        np.abs(mean) > t * values.std(axis=0, ddof=1) for mean, values in zip(means, (estimate, exact), strict=True)
    ]
    wrong = np.flatnonzero(clear[0] & clear[1] & (means[0] * means[1] < 0))
    return tuple(Alarm(SIGN, f"{names[int(u)]} on {subtask}", float(means[0][u]), float(means[1][u])) for u in wrong)
