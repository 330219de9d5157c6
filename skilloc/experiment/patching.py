"""Edge attribution patching between heads and whole MLPs: transformer-lens' own tool, per example."""

import warnings
from functools import partial
from typing import Any

from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.models.face import Face
from skilloc.tasks import Examples, Inputs
from skilloc.tasks.losses import Loss, cross_entropy

Part = tuple[str, int | None, int | None]
"""A part of a transformer: "embed", "attn", "mlp" or "logits", with its layer and head where it has them."""

_PARTS = {
    "embed": "embed", "attn_head_out": "attn", "q_input": "attn", "k_input": "attn", "v_input": "attn",
    "mlp_out": "mlp", "mlp_in": "mlp", "logits": "logits",
}  # fmt: skip


def attribution_edges(
    face: Face, examples: Examples, others: Inputs, loss: Loss = cross_entropy, prepared: Tensor | None = None
) -> list[dict[tuple[Part, Part], float]]:
    """Return, for each example, the edges between the parts of a transformer, in the loss's unit.

        edge[A, B] = sum over positions of (A on the other tokens - A) times the gradient of the loss in B's input

    with the gradient in the run on the other tokens [Syed et al. 2310.10348]. Positive: what A says about this example
    lowers its loss through B. The inputs to a head's queries, keys and values count together.

    Args:
        face: of a bridge in evaluation mode; it is left as it was.
        examples: those that are measured, checked.
        others: other tokens for each example, of the same length.
        loss: any with a gradient.
        prepared: what the loss knows of the untouched model.

    Raises:
        ValueError: if the model is not one that transformer-lens can do this for (heads that share keys and values,
            norms or scales between a head and the residual stream, no decoder), or examples are padded or of several
            rows.
    """
    tokens = _tokens(face, examples)
    if not isinstance(others, Tensor) or others.shape != tokens.shape:
        shape = tuple(others.shape) if isinstance(others, Tensor) else "several inputs"
        raise WrongValue(
            f"`others` has shape {shape} but the examples have {tuple(tokens.shape)}; "
            "give each example tokens of its own length"
        )
    with warnings.catch_warnings():  # importing transformer-lens turns warnings off for good
        from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch
    found = []
    for e in range(len(examples)):
        one = slice(e, e + 1)
        known = None if prepared is None else prepared[one]
        metric = partial(_summed, loss=loss, examples=examples.part(one), prepared=known)
        try:
            result = attribution_patch(
                face.module, tokens[one], others[one], metric, EdgeAttributionConfig(granularity="edge")
            )
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise WrongValue(
                f"`model` is none that transformer-lens attributes edges of ({str(error).splitlines()[0]}); measure "
                "edges between its units instead, with edge_effects"
            ) from error
        edges: dict[tuple[Part, Part], float] = {}
        for (writer, reader), score in result.edge_scores.items():
            # Theirs is the change of the loss towards this example, ours the one away from it.
            ends = _part(writer), _part(reader)
            edges[ends] = edges.get(ends, 0.0) - score
        found.append(edges)
    return found


def _summed(logits: Tensor, loss: Loss, examples: Examples, prepared: Tensor | None) -> Tensor:
    return loss(logits, examples, prepared).sum()


def _tokens(face: Face, examples: Examples) -> Tensor:
    """Return the tokens of the examples, one row each."""
    why = None
    if not face.stream:
        why = f"`model` is a {face.architecture}, and transformer-lens attributes edges of decoders only"
    elif not isinstance(examples.inputs, Tensor):
        why = "the examples are padded, which transformer-lens' edges do not know of"
    elif examples.owner is not None:
        why = "an example has several rows, which transformer-lens' edges do not know of"
    if why is not None or not isinstance(examples.inputs, Tensor):
        raise WrongValue(f"{why}; measure edges between units instead, with edge_effects")
    return examples.inputs


def _part(node: Any) -> Part:
    kind = _PARTS[node.kind]
    return kind, None if kind in ("embed", "logits") else node.layer, node.head
