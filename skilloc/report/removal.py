"""What is lost when the units that a subtask needs most are taken away together."""

from skilloc.locality.intervals import number
from skilloc.report import pictures
from skilloc.report.scored import Removed
from skilloc.report.section import Cell, Picture, Section, Table, compared, grouped

CHOSEN = "The units were chosen on other folds than those reported; random ones lie in the same layers."


def removal_section(found: Removed) -> Section:
    """Return what is lost without the top units of each subtask, beside random ones."""
    names, tables = found.subtasks, []
    for size, scores in found.sizes.items():
        rows: list[tuple[Cell, ...]] = []
        several = "specificity" in scores
        for a, name in enumerate(names):
            cells: list[Cell] = [scores["loss_increase"].at(a, b) for b in range(len(names))]
            rows.append((name, *cells, *([scores["specificity"].at(a)] if several else [])))
        if several:
            rows.append(("asymmetry", *[""] * len(names), scores["asymmetry"].at()))
        columns = ("those of", *(f"loss of {name}" for name in names), *(["specificity"] if several else []))
        caption = (
            f"top {size:,} {found.units} removed: loss increase in {found.unit} (random {found.units} in brackets)"
        )
        tables.append(Table(caption, columns, tuple(rows), beside="random"))
    alt = "loss increases when the top units of a subtask are removed together"
    return Section(
        "What is lost without them?",
        tuple(filter(None, (removal_words(found), CHOSEN))),
        tuple(tables),
        (Picture("removal", alt, lambda: pictures.removal(found)),),
    )


def removal_words(found: Removed) -> str:
    """Say of each subtask whether the removal of its units hits it most."""
    size = found.middle
    scores, words = found.sizes[size], []
    for a, name in enumerate(found.subtasks):
        own = scores["loss_increase"].at(a, a)
        if "specificity" not in scores:
            beside = compared(own, below="less than random ones", above="more than random ones")
            words.append((name, f"lose {number(float(own.value))} {found.unit}, {beside}"))
            continue
        score = scores["specificity"].at(a)._replace(chance=1.0)
        hit = compared(score, below="the others most", above=f"{name} most", between="all alike, as far as can be told")
        words.append((name, f"removing those of {name} hits {hit}".replace("hits too noisy", "is too noisy")))
    if "specificity" not in scores:
        return f"Without its top {size:,} {found.units}: {grouped(words)}."
    told = [text for _, text in words]
    if len(told) > 6:
        most = sum(text.endswith(" most") and "the others" not in text for text in told)
        return f"Without the top {size:,} {found.units} of one subtask, {most} of {len(told)} lose most by their own."
    return f"Of the top {size:,} {found.units} of each, {'; '.join(told)}."
