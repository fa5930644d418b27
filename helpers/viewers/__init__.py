"""Pictures of brains that move on a static page, and the look that all figures share.

Importing this package sets the shared plotly style, and on a page without a kernel (where the
environment variable ``HELPERS_STATIC_SITE`` is 1) makes every plotly figure show as HTML.
"""

from helpers.viewers import display, style
from helpers.viewers.display import describe
from helpers.viewers.explorer import explore
from helpers.viewers.montages import montage
from helpers.viewers.planes import slices
from helpers.viewers.sequences import sequence, tune
from helpers.viewers.tables import sortable

__all__ = [
    "describe",
    "display",
    "explore",
    "montage",
    "sequence",
    "slices",
    "sortable",
    "style",
    "tune",
]

style.use()
display.use()
