"""Tables that a reader can sort, also on a page without a kernel."""

import html
from importlib import resources

import pandas as pd
from IPython.display import HTML

_SCRIPT = resources.files("helpers.viewers").joinpath("table.js").read_text(encoding="utf-8")
_STYLE = """
.helpers-table { overflow-x: auto; }
.helpers-table th, .helpers-table td { white-space: nowrap; padding: 0.2em 0.6em; }
.helpers-table caption { text-align: left; font-weight: bold; caption-side: top; }
.helpers-table th button { all: unset; cursor: pointer; font-weight: bold; }
.helpers-table th button:focus-visible { outline: 2px solid; }
.helpers-table th button::after { content: " \\2195"; opacity: 0.5; }
.helpers-table th[aria-sort="descending"] button::after { content: " \\2193"; opacity: 1; }
.helpers-table th[aria-sort="ascending"] button::after { content: " \\2191"; opacity: 1; }
"""


def sortable(frame: pd.DataFrame, caption: str) -> HTML:
    """Return a table whose heads sort it at a click, or with Tab and Enter.

    Parameters
    ----------
    frame : DataFrame
        With one level of columns. Its index is not shown; missing values are left empty. Numbers
        with a unit or an interval behind them are sorted by the number in front.
    caption : str
        What the table shows; stands above it.

    Raises
    ------
    ValueError
        If there is more than one level of columns.

    Examples
    --------
    >>> import pandas as pd
    >>> from helpers import viewers
    >>> table = viewers.sortable(pd.DataFrame({"method": ["lrp"], "score": [0.7]}), "Scores")
    >>> "<caption>Scores</caption>" in table.data
    True
    """
    if frame.columns.nlevels != 1:
        raise ValueError(f"expected one level of columns, got {frame.columns.nlevels}")
    shown = frame.astype(object).where(frame.notna(), "")
    table = shown.to_html(index=False, border=0)
    head, rows = table.split(">", 1)
    return HTML(
        f'<div class="helpers-table" tabindex="0"><style>{_STYLE}</style>'
        f"{head}><caption>{html.escape(caption)}</caption>{rows}"
        f"<script>{{{_SCRIPT}_sortable(document.currentScript.parentElement"
        '.querySelector("table"));}</script></div>'
    )
