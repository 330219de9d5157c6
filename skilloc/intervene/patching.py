"""Edge attribution patching between heads and whole MLPs: transformer-lens' own tool, per example."""

import warnings
from typing import Any

from jaxtyping import Int
from torch import Tensor

from skilloc.intervene.losses import check_model, example_losses
from skilloc.tasks import Examples

Part = tuple[str, int | None, int | None]
"""A part of a transformer: "embed", "attn", "mlp" or "logits", with its layer and head where it has them."""

_PARTS = {
    "embed": "embed", "attn_head_out": "attn", "q_input": "attn", "k_input": "attn", "v_input": "attn",
    "mlp_out": "mlp", "mlp_in": "mlp", "logits": "logits",
}  # fmt: skip


def attribution_edges(
    model: Any, batch: Examples, others: Int[Tensor, "example pos"]
) -> list[dict[tuple[Part, Part], float]]:
    """Return, for each example, the edges between the parts of a transformer, in nats.

        edge[A, B] = sum over positions of (A on the other tokens - A) times the gradient of the loss in B's input

    with the gradient in the run on the other tokens [Syed et al. 2310.10348]. Positive: what A says about this example
    lowers its loss through B. The inputs to a head's queries, keys and values count together.

    Args:
        model: a bridge in evaluation mode; it is left as it was.
        batch: the examples.
        others: other tokens for each example, of the same length.

    Raises:
        ValueError: if the model is not one that transformer-lens can do this for: heads that share keys and values,
            norms or scales between a head and the residual stream, an `MLP`.
    """
    check_model(model, batch)
    if others.shape != batch.inputs.shape:
        raise ValueError(
            f"`others` has shape {tuple(others.shape)} but `batch` has {tuple(batch.inputs.shape)}; "
            "give each example tokens of its own length"
        )
    with warnings.catch_warnings():  # importing transformer-lens turns warnings off for good
        from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch
    found = []
    for e in range(len(batch)):
        targets = batch.targets[e : e + 1]

        def loss(logits: Tensor, targets: Tensor = targets) -> Tensor:
            return example_losses(logits, targets).sum()

        try:
            result = attribution_patch(
                model, batch.inputs[e : e + 1], others[e : e + 1], loss, EdgeAttributionConfig(granularity="edge")
            )
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise ValueError(
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


def _part(node: Any) -> Part:
    kind = _PARTS[node.kind]
    return kind, None if kind in ("embed", "logits") else node.layer, node.head
