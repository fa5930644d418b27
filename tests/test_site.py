"""The build of the website: it fails when a chapter does, and carries what its pages need.

Each test builds a book of one page with the real `_config.yml`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FIGURE = """
import plotly.graph_objects as go
from IPython.display import HTML

HTML(go.Figure(go.Bar(y=[1, 2])).to_html(include_plotlyjs=False, full_html=False))
"""


def build(folder, *, cell, text="# A page\n"):
    """Build a book with one notebook of one text and one code cell; return the finished process."""
    book = folder / "book"
    shutil.copytree(ROOT / "book/_ext", book / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book/_static", book / "_static")
    shutil.copy(ROOT / "book/references.bib", book)
    shutil.copy(ROOT / "_config.yml", folder)
    (book / "_toc.yml").write_text("format: jb-book\nroot: page\n", encoding="utf-8")
    code = {"outputs": [], "execution_count": None}
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            {"cell_type": "markdown", "id": "text", "metadata": {}, "source": text},
            {"cell_type": "code", "id": "code", "metadata": {}, "source": cell.strip(), **code},
        ],
    }
    (book / "page.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = "from jupyter_book.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", command, "build", "--warningiserror", "--keep-going", str(book)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "REPOSITORY_URL": "https://github.com/you/fork", "NO_COLOR": "1"},
    )


def test_page_with_a_figure(tmp_path):
    done = build(tmp_path, cell=FIGURE, text="# A page\n\nMaths: $\\log J$.\n")
    assert done.returncode == 0, done.stdout + done.stderr
    html = tmp_path / "_build/html"
    page = (html / "page.html").read_text(encoding="utf-8")
    assert page.index("_static/plotly.min.js") < page.index("Plotly.newPlot")
    assert page.count("_static/plotly.min.js") == 1
    assert (html / "_static/plotly.min.js").stat().st_size > 1_000_000
    assert "_static/mathjax/" in page
    assert (html / "_static/mathjax/tex-chtml.js").exists()
    # The buttons lead to the fork that the page was built in.
    assert "colab.research.google.com/github/you/fork/blob/main/book/page.ipynb" in page
    assert "mybinder.org/v2/gh/you/fork/main" in page
    assert "plotly.min.js" not in (html / "search.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cell", "text", "reason"),
    [
        ("raise RuntimeError('this chapter is broken')", "# A page\n", "this chapter is broken"),
        ("import sys; print('stray', file=sys.stderr)", "# A page\n", "stderr"),
        ("1 + 1", "# A page\n\nSee {doc}`nowhere`.\n", "nowhere"),
        ("1 + 1", "# A page\n\nSee {cite:p}`nobody1999`.\n", "nobody1999"),
    ],
    ids=["raises", "writes to stderr", "broken link", "unknown citation"],
)
def test_broken_page_fails_the_build(tmp_path, cell, text, reason):
    done = build(tmp_path, cell=cell, text=text)
    assert done.returncode != 0, done.stdout
    assert reason in done.stdout + done.stderr
