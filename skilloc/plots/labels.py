"""Names beside nodes that never lie on each other: which have room is known only when the picture is drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox


class Labels(Artist):
    """Names beside nodes, the most important first; one that would touch another name or a node is left out.

    Attributes:
        texts: the names, beside their nodes.
        shown: those that had room when it was last drawn.
    """

    def __init__(self, texts: Sequence[Annotation], places: np.ndarray, areas: np.ndarray, ends: np.ndarray) -> None:
        super().__init__()
        self.texts, self.places, self.areas = texts, places, areas
        self.shown: list[Annotation] = []
        self.outside = [text for text, edge in zip(texts, ends, strict=True) if edge]
        self.left = [text for text in self.outside if text.xyann[0] < 0]
        self.set_zorder(5)
        self.set_clip_on(False)

    def get_tightbbox(self, renderer: Any = None) -> Bbox | None:
        """Return the box of the inputs' and outputs' names, which stand outside the columns and need room."""
        boxes = [text.get_window_extent(renderer) for text in self.outside]
        return Bbox.union(boxes) if boxes else None

    def draw(self, renderer: Any) -> None:
        """Draw those that have room."""
        self.shown = []
        points = self.axes.transData.transform(self.places)  # type: ignore[union-attr]
        radii = np.sqrt(self.areas) / 2 * renderer.points_to_pixels(1.0)
        taken: list[Any] = []
        for text in self.texts:
            for side in ("left",) if text in self.left else ("right",) if text in self.outside else ("right", "left"):
                put(text, side)
                box = text.get_window_extent(renderer)
                nearest = np.clip(points, [box.x0, box.y0], [box.x1, box.y1])
                blocked = (np.hypot(*(points - nearest).T) < radii).any()
                if not blocked and not any(box.overlaps(other) for other in taken):
                    taken.append(box)
                    self.shown.append(text)
                    text.draw(renderer)
                    break


def put(text: Annotation, side: str) -> None:
    """Put a label to the left or the right of its node."""
    text.set(ha="right" if side == "left" else "left")
    text.xyann = (-abs(text.xyann[0]) if side == "left" else abs(text.xyann[0]), 0)
