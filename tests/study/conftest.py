import shutil

import pytest
import torch
from small_study import CARD, GRID, explain, network

from helpers import attribution, cohorts, grids, models


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """The same sums in the same order as in the processes that the tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def brains():
    """Three brains on the small network's voxels."""
    return cohorts.simulate("lesion", 3, grid=GRID, seed=7).volumes


@pytest.fixture(scope="package")
def prepared(tmp_path_factory, brains):
    """Two scans, and a network beside their folder."""
    place = tmp_path_factory.mktemp("small")
    for i, name in enumerate(("a", "b")):
        grids.save(brains[i], GRID, place / f"scans/{name}.nii.gz")
    models.save_pretrained(network(), "tiny", CARD, folder=place)
    return place


@pytest.fixture
def small(tmp_path, prepared):
    """A folder of one's own with the two scans."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path / "scans"


@pytest.fixture(scope="package")
def finished(tmp_path_factory, prepared):
    """What the command writes about the two scans."""
    output = tmp_path_factory.mktemp("finished") / "out"
    assert explain(prepared / "scans", output) == 0
    return output


@pytest.fixture
def calls(monkeypatch):
    """Calls of the two quick methods."""
    calls = []

    def counted(method):
        def explain(*arguments):
            calls.append(arguments)
            return method(*arguments)

        return explain

    for name in ("gradient", "lrp"):
        monkeypatch.setitem(attribution.METHODS, name, counted(attribution.METHODS[name]))
    return calls
