"""A phantom whose left, right, front, back, top and bottom all differ, and a browser."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly
import pytest
import torch
from playwright.sync_api import sync_playwright

from helpers.grids import Grid

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Phantom:
    grid: Grid
    volume: torch.Tensor  # dim everywhere, one bright voxel
    overlay: torch.Tensor  # one at the bright voxel, minus one at another
    mask: torch.Tensor  # 3x3x3 around the bright voxel
    bright: tuple[int, int, int]
    cold: tuple[int, int, int]


@pytest.fixture
def phantom():
    """Unequal sides and unequal spacings; the bright voxel is right, front, top."""
    shape, spacing = (16, 20, 24), np.array([3.0, 4.0, 2.5])
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    bright, cold = (12, 13, 19), (3, 5, 6)
    volume = torch.full((1, *shape), 0.2)
    volume[(0, *bright)] = 1.0
    overlay = torch.zeros(1, *shape)
    overlay[(0, *bright)], overlay[(0, *cold)] = 1.0, -1.0
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[0, 11:14, 12:15, 18:21] = True
    return Phantom(Grid(shape, affine), volume, overlay, mask, bright, cold)


@pytest.fixture(scope="session")
def browser():
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail(f"no browser found: install one of {', '.join(BROWSERS)} (apt: chromium)")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open HTML on a page that loads plotly.js as the site does, and wait for its figures."""
    script = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").as_uri()
    pages = []

    def open_page(body: str, width: int = 1280, *, theme: str = "light", script_last=False):
        tag = f'<script src="{script}"></script>'
        head, tail = ("", tag) if script_last else (tag, "")
        color = "#ced6dd" if theme == "dark" else "#222222"
        file = tmp_path / "page.html"
        file.write_text(
            f'<!doctype html><html data-theme="{theme}"><head><meta charset="utf-8">{head}'
            f'</head><body style="margin:16px;color:{color}">{body}{tail}</body></html>',
            encoding="utf-8",
        )
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(file.as_uri(), timeout=120_000)
        page.wait_for_selector('.helpers-figure[data-ready="1"]', timeout=120_000)
        page.wait_for_timeout(200)
        return page

    yield open_page
    for page in pages:
        page.close()
