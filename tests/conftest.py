"""What holds for every test: shapes are checked, the profile is the quick one, cores are shared."""

import os
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# An int may stand where a float is asked for, as everywhere in Python.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"

# The hook sees only what is found through sys.path, which an editable install bypasses. It must be
# in place before the first import of helpers.
sys.path.insert(0, str(ROOT))
jaxtyping.install_import_hook("helpers", CHECKER)

for variable in ("HELPERS_PROFILE", "HELPERS_STATIC_SITE"):
    os.environ.pop(variable, None)

# Under pytest-xdist every worker would otherwise take all cores.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
torch.set_num_threads(max(1, _threads // _workers))


@pytest.fixture(autouse=True)
def seeded():
    """Make networks and volumes that draw from the global generator the same in every run."""
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Switch the shape checks off: for tests of what helpers itself says about a wrong shape."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
