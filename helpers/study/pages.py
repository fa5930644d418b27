"""A page that stands alone: one HTML file with its pictures, tables and figures in it.

It asks nobody on the network for anything, so it can be mailed, and opened in ten years.
"""

import html
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from helpers import runtime
from helpers.viewers import display, rendering, tables

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --paper: #ffffff; --faint: #5c636d;
  --line: #d9dde3; --warm: #fff3dc; --edge: #c77700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --paper: #14171a; --faint: #a2a9b3;
  --line: #353b43; --warm: #33270f; --edge: #ffb340; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 1rem 0 0.5rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 0.6rem; padding-top: 0.8rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: 0.5rem 0; }
.warning { background: var(--warm); border-left: 4px solid var(--edge); padding: 0.6rem 1rem;
  border-radius: 4px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.93rem; }
caption { color: var(--faint); padding-bottom: 0.4rem; }
th, td { text-align: left; border-bottom: 1px solid var(--line); }
.helpers-table { margin: 1rem 0; }
.pictures { display: grid; gap: 1.4rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; }
figure img { width: 100%; height: auto; border-radius: 6px; background: #000; display: block; }
figcaption { font-size: 0.88rem; color: var(--faint); padding-top: 0.35rem;
  overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
footer { color: var(--faint); font-size: 0.85rem; margin-top: 3rem;
  border-top: 1px solid var(--line); padding-top: 0.8rem; }
"""
_PICTURE_PIXELS = 760  # wide; a phone and half a screen need no more


class Page:
    """A page that is put together from its top to its end.

    Parameters
    ----------
    title : str
    lead : str
        What the page is about, in a sentence or two.

    Examples
    --------
    >>> from helpers.study import pages
    >>> page = pages.Page("Two scans", "Both are fine.")
    >>> page.section("More", "There is no more.")
    >>> "<h2>More</h2>" in page.html()
    True
    """

    def __init__(self, title: str, lead: str):
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(lead)}</p>"]
        self._pictures: list[str] = []
        self._has_figures = False

    def section(self, title: str, text: str = "") -> None:
        """Begin a section."""
        self._add(f"<h2>{html.escape(title)}</h2>")
        if text:
            self.text(text)

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._add(f"<p>{html.escape(text)}</p>")

    def warn(self, text: str) -> None:
        """Add what nobody should overlook."""
        self._add(f'<p class="warning" role="note"><b>Mind:</b> {html.escape(text)}</p>')

    def table(self, frame: pd.DataFrame, caption: str, *, decimals: int = 2) -> None:
        """Add a table that a reader can sort; columns with nothing in them are left out."""
        frame = frame.loc[:, [not frame[name].isin(["", None]).all() for name in frame]]
        frame = frame.dropna(axis=1, how="all")
        numbers = {
            name: [f"{value:.{decimals}f}" if pd.notna(value) else "" for value in frame[name]]
            for name in frame.select_dtypes("float")
        }
        shown = frame.assign(**numbers).rename(columns=lambda name: name.replace("_", " "))
        self._add(tables.sortable(shown, caption).data)

    def figure(self, figure: go.Figure) -> None:
        """Add a plotly figure, such as a viewer's."""
        self._has_figures = True
        self._add(display.to_html(figure))

    def picture(self, path: Path, title: str, text: str = "") -> None:
        """Add a picture file with its caption; pictures that follow each other stand in columns."""
        with Image.open(path) as picture:
            picture.thumbnail((_PICTURE_PIXELS, 4 * _PICTURE_PIXELS))
            source = rendering.data_uri(np.asarray(picture.convert("RGB")), quality=70)
        self._pictures.append(
            f'<figure><img decoding="async" src="{source}" alt="{html.escape(f"{title}: {text}")}">'
            f"<figcaption><b>{html.escape(title)}</b> {html.escape(text)}</figcaption></figure>"
        )

    def html(self) -> str:
        """Return the whole page."""
        self._flush()
        script = f"<script>{get_plotlyjs()}</script>" if self._has_figures else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style>{script}</head>"
            f"<body><main>\n{chr(10).join(self._parts)}\n</main>"
            "<footer>Made by brain-cnns. A network's maps say what the network used, not what is "
            "wrong with anybody; nothing here is for clinical use.</footer></body></html>\n"
        )

    def _add(self, part: str) -> None:
        self._flush()
        self._parts.append(part)

    def _flush(self) -> None:
        if self._pictures:
            self._parts.append(f'<div class="pictures">{"".join(self._pictures)}</div>')
            self._pictures = []


def write(path: Path, page: Page) -> None:
    """Write a page, completely or not at all."""
    with runtime.replacing(path) as unfinished:
        unfinished.write_text(page.html(), encoding="utf-8")
