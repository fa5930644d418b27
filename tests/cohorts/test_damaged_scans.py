"""Scans damaged at random, by seed: refused with their name, or read with the same voxels."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch

from helpers import anatomy, grids
from helpers.cohorts.scans import Scan
from helpers.errors import BrokenScanError
from helpers.runtime import generator

GRID = grids.mni(8.0)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A brain on the grid of a small model, and what its file holds."""
    brain = anatomy.template(GRID)
    noise = torch.rand(GRID.shape, generator=generator(4))
    volume = (brain.t1[0] * (1 + 0.05 * noise)).half().float()
    path = grids.save(volume, GRID, tmp_path_factory.mktemp("whole") / "scan.nii.gz")
    return path.read_bytes(), grids.read(path)[0]


def load(path, tmp_path):
    return Scan(path).on(GRID, tmp_path / "cache")[0][0].numpy()


def cut(content, draw):
    return content[: draw.integers(len(content))]


def flipped(content, draw):
    content = bytearray(content)
    for place in draw.integers(0, 8 * len(content), draw.integers(1, 4)):
        content[place // 8] ^= 1 << (place % 8)
    return bytes(content)


def overwritten(content, draw):
    start = draw.integers(len(content))
    return content[:start] + draw.bytes(draw.integers(1, 200)) + content[start + 50 :]


def longer(content, draw):
    return content + draw.bytes(draw.integers(1, 2000))


def swapped(content, draw):
    a, b = sorted(draw.integers(0, len(content), 2))
    return content[b:] + content[a:b] + content[:a]


@pytest.mark.parametrize("damage", [cut, flipped, overwritten, longer, swapped])
def test_damaged_files(scan, tmp_path, damage):
    """Twenty-five files a kind of damage, in what was compressed."""
    content, voxels = scan
    path = tmp_path / "scan.nii.gz"
    for seed in range(25):
        path.write_bytes(damage(content, np.random.default_rng(seed)))
        try:
            found = load(path, tmp_path)
        except BrokenScanError as refused:
            if "scan.nii.gz" not in str(refused):
                raise
        else:
            np.testing.assert_array_equal(found, voxels)


FIELDS = nib.Nifti1Header.template_dtype.names


@pytest.mark.parametrize("seed", range(5))
def test_damaged_headers(scan, tmp_path, seed, monkeypatch):
    """Forty headers a seed with a field of rubbish and a right checksum around them.

    What lies elsewhere by its header is registered, which another test does; scales of the
    intensities say nothing that could be doubted but their size.
    """
    content, voxels = scan
    registered = []
    monkeypatch.setattr(Scan, "prepare", lambda scan, *arguments: registered.append(scan.image))
    draw = np.random.default_rng(seed)
    path = tmp_path / "scan.nii.gz"
    for _ in range(40):
        header = nib.Nifti1Header(gzip.decompress(content)[:348], check=False)
        field = draw.choice(FIELDS)
        value = np.array(header[field])
        rubbish = np.frombuffer(draw.bytes(value.nbytes), value.dtype).reshape(value.shape)
        extremes = [np.zeros_like(value)]
        if value.dtype.kind in "iuf":
            limits = np.iinfo if value.dtype.kind in "iu" else np.finfo
            extremes += [np.full_like(value, limits(value.dtype).max)]
            extremes += [np.full_like(value, limits(value.dtype).min)]
        if value.dtype.kind == "f":
            extremes += [np.full_like(value, np.nan), np.full_like(value, np.inf)]
        chosen = draw.integers(2 * len(extremes))
        header[field] = rubbish if chosen >= len(extremes) else extremes[chosen]
        path.write_bytes(gzip.compress(header.binaryblock + gzip.decompress(content)[348:]))
        try:
            found = load(path, tmp_path)
        except BrokenScanError as refused:
            if "scan.nii.gz" not in str(refused):
                raise
        except TypeError:  # what stands in for the registration returned nothing
            assert registered.pop() == path
        else:
            if not field.startswith("scl_"):
                np.testing.assert_array_equal(found, voxels)
    assert not list((tmp_path).glob("cache/*"))


def test_damaged_voxels(scan, tmp_path):
    """Voxels that no scanner gives, with a right checksum around them."""
    _, voxels = scan
    inside = np.argwhere(voxels > 0.3)
    path = tmp_path / "scan.nii.gz"
    for seed in range(40):
        draw = np.random.default_rng(seed)
        value = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e5, -1e5, 50.0][seed % 8]
        damaged = voxels.copy()
        damaged[tuple(inside[draw.integers(0, len(inside), 1 + seed % 3)].T)] = value
        grids.save(damaged, GRID, path)
        with pytest.raises(BrokenScanError, match=r"NaN or infinite|falls to -|the largest "):
            load(path, tmp_path)
