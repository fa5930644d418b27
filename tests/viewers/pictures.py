"""What a figure shows, decoded from its pictures."""

import base64
import io

import numpy as np
from PIL import Image


def picture(source: str) -> np.ndarray:
    """Decode a data URI."""
    kind, encoded = source.split(",", 1)
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(float)


def tile(figure, layer: int, panel: int) -> np.ndarray:
    """Cut out of a sprite what the axis window of a panel shows, as plotly.js would."""
    image = figure.layout.images[layer * 3 + panel]
    sprite = picture(image.source)
    suffix = panel + 1 if panel else ""
    x, y = figure.layout[f"xaxis{suffix}"].range, figure.layout[f"yaxis{suffix}"].range
    assert image.xref == f"x{suffix}"
    assert image.yref == f"y{suffix}"
    columns, rows = sprite.shape[1] / image.sizex, sprite.shape[0] / image.sizey
    left, top = round((x[0] - image.x) * columns), round((image.y - y[1]) * rows)
    shown = np.zeros((round(rows), round(columns), *sprite.shape[2:]))
    # A window may reach beyond the sprite by the fraction of a pixel that aligns the layers.
    part = sprite[max(top, 0) : top + len(shown), max(left, 0) : left + shown.shape[1]]
    shown[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]] = part
    return shown


def center(weights: np.ndarray) -> tuple[float, float]:
    """Return the centre of weight as shares from the left and from below."""
    rows, columns = np.indices(weights.shape)
    across = ((columns + 0.5) * weights).sum() / weights.sum() / weights.shape[1]
    down = ((rows + 0.5) * weights).sum() / weights.sum() / weights.shape[0]
    return across, 1 - down
