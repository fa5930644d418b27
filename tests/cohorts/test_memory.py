"""Cohorts larger than memory: peak memory of a training, equal results, and nothing left behind."""

import errno
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from helpers import cohorts, grids, models, tensors
from helpers.cohorts import Cohort
from helpers.errors import CannotWriteError

GRID = grids.mni(8.0)

# A fold of a cross-validation: load, set some aside, train, validate, look at voxels.
TRAINING = """
import json, sys, threading, time
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from helpers import cohorts, grids, models, tensors
from helpers.models.reference_models import _brain_volume_ml

tensors.MOST_IN_MEMORY_BYTES = int(sys.argv[1])
torch.set_num_threads(1)
grid = grids.mni(2.0)
peak_mb = 0


def watch():  # what the system cannot take back: the heap, and files that lie in memory
    global peak_mb
    while True:
        lines = Path("/proc/self/status").read_text().splitlines()
        kb = dict(line.split(":") for line in lines)
        own = sum(int(kb[name].split()[0]) / 1000 for name in ("RssAnon", "RssShmem"))
        peak_mb = max(peak_mb, own)
        time.sleep(0.002)


def train(subjects):
    volumes = tensors.zeros((subjects, 1, *grid.shape))
    for i, volume in enumerate(volumes):
        volume[0].uniform_(1 + 0.1 * (i % 2), 2, generator=torch.Generator().manual_seed(i))
    people = pd.DataFrame({"participant_id": [f"sub-{i}" for i in range(subjects)]})
    cohort = cohorts.Cohort(volumes, torch.arange(subjects) % 2, ("a", "b"), people, grid)
    train, test = cohort.split([0.8, 0.2])
    _brain_volume_ml(train)
    model = nn.Sequential(nn.AvgPool3d(16), nn.Flatten(), nn.Linear(6 * 7 * 6, 2))
    nn.init.zeros_(model[2].weight), nn.init.zeros_(model[2].bias)
    history = models.train(model, train, validation=test, epochs=1, batch_size=4, progress=False)
    losses = history[["loss", "validation_loss"]].to_numpy().tolist()
    return peak_mb, {"loss": losses, "weights": model[2].weight.tolist()}


threading.Thread(target=watch, daemon=True).start()
few, many = 30, 110
before_mb, _ = train(few)
after_mb, found = train(many)
data_mb = 4 * (many - few) * grid.shape[0] * grid.shape[1] * grid.shape[2] / 1e6
print(json.dumps({"grown_by_data": (after_mb - before_mb) / data_mb, **found}))
"""


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Let everything but the smallest lie on the disk, in a folder of its own."""
    monkeypatch.setattr(tensors, "MOST_IN_MEMORY_BYTES", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tensors.tempfile, "tempdir", None)
    return tmp_path


@functools.cache
def trained(most_in_memory: int) -> dict:
    """Train in a process of its own, in which at most so many bytes of a tensor are in memory."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not say how much memory a process has: it has no /proc")
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(most_in_memory)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_peak_memory_does_not_grow_with_the_data():
    streamed, held = trained(10**7), trained(10**12)
    assert streamed["grown_by_data"] < 0.4
    assert held["grown_by_data"] > 1.5  # the cohort and its parts: this measure sees them


def test_training_is_the_same_to_the_bit():
    streamed, held = trained(10**7), trained(10**12)
    assert streamed["loss"] == held["loss"]
    assert streamed["weights"] == held["weights"]


def simulated() -> Cohort:
    return cohorts.simulate("atrophy", subjects=6, grid=GRID)


def same(a: Cohort, b: Cohort) -> bool:
    names = ("mask", "place", "shortcut", "log_expansion")
    truths = [[getattr(cohort.truth, name) for name in names] for cohort in (a, b)]
    return all(
        map(torch.equal, [a.volumes, a.labels, *truths[0]], [b.volumes, b.labels, *truths[1]])
    )


def test_cohorts_are_the_same_on_the_disk(monkeypatch, request):
    held = simulated()
    parts = held[[4, 1]], held[2:4], held[held.labels == 1]
    request.getfixturevalue("on_disk")
    streamed = simulated()
    assert same(streamed, held)
    for part, index in zip(parts, ([4, 1], slice(2, 4), held.labels == 1), strict=True):
        assert same(streamed[index], part)
    assert same(cohorts.concatenate([streamed[:2], streamed[2:]]), held)


def test_a_part_has_volumes_of_its_own(on_disk):
    cohort = simulated()
    part = cohort[[0, 1]]
    before = cohort.volumes[0].clone()
    part.volumes[0] = 7
    assert torch.equal(cohort.volumes[0], before)


def test_nothing_is_left_on_the_disk(on_disk):
    whole = tensors.zeros((5, 100))
    whole[3] = 1
    assert list(on_disk.iterdir()) == []
    assert whole.sum() == 100


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system has no /proc")
def test_a_cross_validation_takes_room_for_the_parts_of_one_fold(monkeypatch, on_disk):
    cohort = cohorts.simulate("shortcut", subjects=12, grid=GRID)
    zeros, mapped = tensors.zeros, []

    def counted(*arguments):
        made = zeros(*arguments)
        mapped.append(Path("/proc/self/maps").read_text().count(str(on_disk)))
        return made

    monkeypatch.setattr(tensors, "zeros", counted)
    models.cross_validate("course", cohort, folds=3, epochs=1, batch_size=4, progress=False)
    tensors_of_a_cohort = 4  # its volumes, and the truth
    assert max(mapped) == 3 * tensors_of_a_cohort


def test_simple_models_of_a_cohort_on_the_disk(monkeypatch):
    train, test = cohorts.simulate("shortcut", subjects=90, grid=GRID).split([0.8, 0.2])
    held = models.baselines(train, test, components=5).set_index("model")
    monkeypatch.setattr(tensors, "MOST_IN_MEMORY_BYTES", 10**6)  # of 6 MB: cubes of two voxels
    with pytest.warns(UserWarning, match="sees voxels of 16 mm: those of 8 mm take"):
        streamed = models.baselines(train, test, components=5).set_index("model")
    pd.testing.assert_frame_equal(streamed.iloc[:1], held.iloc[:1])
    auc = [table.loc["PCA + logistic regression", "auc"] for table in (held, streamed)]
    assert auc[0] == pytest.approx(auc[1], abs=0.1)
    assert auc[0] != auc[1]


def test_full_disk(on_disk, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(
        CannotWriteError, match=r"cannot keep 0.0 GB in .*No space left.*set TMPDIR"
    ):
        tensors.zeros((100, 100))
    assert list(on_disk.iterdir()) == []


def test_full_disk_where_room_cannot_be_reserved(on_disk, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert tensors.zeros((100, 100)).sum() == 0
    with pytest.raises(CannotWriteError, match=r"No space left.*set TMPDIR"):
        tensors.zeros((10**9, 10**9))


def test_a_mask_that_cannot_be_written_to_picks_people(recwarn):
    cohort = simulated()
    index = (cohort.labels == 1).numpy()
    index.flags.writeable = False
    assert same(cohort[index], cohort[cohort.labels == 1])
    assert not [warning for warning in recwarn if "not writable" in str(warning.message)]
