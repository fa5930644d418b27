"""Pictures of brains that move on a static page, and the look that all figures share.

Importing this package sets the shared plotly style, and on a page without a kernel (where the
environment variable ``HELPERS_STATIC_SITE`` is 1) makes every plotly figure show as HTML.
"""

from helpers.viewers import display, style
from helpers.viewers.display import describe
from helpers.viewers.explore import explore
from helpers.viewers.montage import montage
from helpers.viewers.sequence import sequence, tune
from helpers.viewers.slices import slices

__all__ = ["describe", "display", "explore", "montage", "sequence", "slices", "style", "tune"]

style.use()
display.use()
