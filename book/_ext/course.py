"""Sphinx extension of this book: its own plotly.js, and launch buttons that follow a fork."""

from pathlib import Path

import address
import plotly
from sphinx.util.fileutil import copy_asset

# What a page with a figure holds: ours (helpers.viewers) and plotly's own `to_html`.
FIGURES = ("helpers-figure", "plotly-graph-div")
PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def follow_fork(app, config):
    """Point the launch buttons at the repository that this checkout came from."""
    here = address.of_checkout(Path(app.srcdir))
    if here is not None:
        config.html_theme_options["repository_url"] = f"https://github.com/{here}"


def silence_thebe(app, config):
    """Leave out the scripts of live cells, which this book does not use.

    Jupyter Book always loads sphinx-thebe, and that declares a constant twice on every page: an
    error in the browser's console.
    """
    for listener in list(app.events.listeners["env-before-read-docs"]):
        if listener.handler.__name__ == "init_thebe_core":
            app.disconnect(listener.id)


def load_plotly(app, pagename, templatename, context, doctree):
    """Load plotly.js once on the pages that hold a figure (4.8 MB, kept by the browser)."""
    if any(mark in context.get("body", "") for mark in FIGURES):
        # Before everything else: the figures' own scripts run while the page is being read.
        app.add_js_file("plotly.min.js", priority=100)


def copy_plotly(app, error):
    """Put plotly.js beside the pages: a workshop room without internet sees the figures too."""
    if error is None and app.builder.format == "html":
        copy_asset(str(PLOTLY_JS), str(Path(app.outdir) / "_static"))


def setup(app):
    """Connect the steps."""
    app.connect("config-inited", follow_fork)
    app.connect("config-inited", silence_thebe)
    app.connect("html-page-context", load_plotly)
    app.connect("build-finished", copy_plotly)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
