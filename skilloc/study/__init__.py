"""Studies: the effects of a model's units on some subtasks, measured into a folder.

A study can be stopped at any moment and goes on where it was; it knows what it is about, and refuses to mix with
another. Its folder holds

    request/       what is measured: model, tokens, units, reference, settings
    items/         finished pieces of an exact sweep, until all are there
    estimate/      effects by attribution, where the method has them
    exact/         exact effects of some units, beside an estimate
    effects/       the effects: the result
    calibration/   how far the estimate can be trusted

each but `items/` a result folder of `skilloc.store`. What is made from the effects later (`removal/`, `pictures/`) goes
beside them.
"""
