import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small
import torch
from torch import nn

from helpers import cohorts, grids, models


@pytest.fixture(scope="module")
def cohort():
    return cohorts.simulate("shortcut", subjects=24, grid=grids.mni(8.0))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def fit(cohort, seed=0, model_seed=0, **options):
    model = models.build("liu2021", 2, cohort.grid.shape, seed=model_seed)
    options = {"epochs": 3, "batch_size": 8, "progress": False, **options}
    history = models.train(model, cohort, seed=seed, **options)
    return model, history


def test_training_learns_the_tag_and_is_reproducible(cohort):
    model, history = fit(cohort, epochs=30)
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    assert not model.training
    again, _ = fit(cohort, epochs=30)
    assert torch.equal(weights(model), weights(again))
    other, _ = fit(cohort, epochs=30, seed=1)
    assert not torch.equal(weights(model), weights(other))


def test_the_best_epoch_is_kept_and_patience_stops(cohort):
    # A validation set with swapped labels gets worse with every epoch of learning.
    swapped = replace(cohort, labels=1 - cohort.labels)
    model, history = fit(cohort, epochs=12, validation=swapped, patience=3)
    best = history["validation_loss"].idxmin()
    assert len(history) == best + 1 + 3 < 12
    logits = models.predict(model, swapped.volumes)
    loss = torch.nn.functional.cross_entropy(logits, swapped.labels)
    assert float(loss) == pytest.approx(history["validation_loss"][best], rel=1e-3)


def test_flips_of_one_axis_leave_the_others_alone():
    volumes = torch.rand(16, 1, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    flipped = models.flips(volumes, torch.Generator().manual_seed(0), axes=(0,))
    mirrored = [torch.equal(f, v.flip(1)) for f, v in zip(flipped, volumes, strict=True)]
    same = [torch.equal(f, v) for f, v in zip(flipped, volumes, strict=True)]
    assert sum(mirrored) + sum(same) == 16
    assert min(sum(mirrored), sum(same)) >= 3


class Viewed(nn.Module):
    """Reads its features as memory has them, and has a parameter for each place."""

    def __init__(self):
        super().__init__()
        self.kernels, self.read = nn.Conv3d(1, 2, 3, padding=1), nn.Linear(2 * 24 * 28 * 24, 2)
        self.places = nn.Parameter(torch.zeros(2, 24, 28, 24))

    def forward(self, volumes):
        return self.read((self.kernels(volumes) + self.places).view(len(volumes), -1))


def test_a_network_that_reads_memory_as_it_lies_is_trained_as_well(cohort):
    model = Viewed()
    before = weights(model)
    models.train(model, cohort, epochs=1, batch_size=8, progress=False)
    assert not torch.equal(weights(model), before)


def test_matched_people_share_a_batch():
    matched = cohorts.simulate("shortcut", 12, grid=grids.mni(8.0), matched=True)
    shuffled = matched[torch.randperm(12, generator=torch.Generator().manual_seed(1))]
    who = {
        v.sum().item(): p
        for v, p in zip(shuffled.volumes, shuffled.participants["participant_id"], strict=True)
    }
    batches = []

    def watch(volumes, generator):
        batches.append([who[volume.sum().item()] for volume in volumes])
        return volumes

    fit(shuffled, matched=True, epochs=2, batch_size=4, augment=watch)
    assert len(batches) == 6
    for batch in batches:
        assert len(set(batch)) == 2  # four volumes of two people
    for epoch in (batches[:3], batches[3:]):
        assert sorted(name for batch in epoch for name in batch) == sorted(who.values())
    assert batches[:3] != batches[3:]


def test_only_the_matched_are_trained_as_such(cohort):
    with pytest.raises(ValueError, match="expected everybody equally often in each class"):
        fit(cohort, matched=True)
    pairs = cohorts.simulate("shortcut", 12, grid=grids.mni(8.0), matched=True)
    with pytest.raises(ValueError, match="expected everybody equally often in each class"):
        fit(pairs[:11], matched=True)
    with pytest.raises(ValueError, match="batch_size 5 must divide by the 2 classes"):
        fit(pairs, matched=True, batch_size=5)


def test_flips_mirror_whole_volumes():
    volumes = torch.rand(16, 1, 3, 4, 5)
    flipped = models.flips(volumes, torch.Generator().manual_seed(0))
    options = [
        volumes.flip([d for d, on in zip((2, 3, 4), bits, strict=True) if on])
        for bits in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3).tolist()
    ]
    used = set()
    for i in range(16):
        matches = [k for k, option in enumerate(options) if torch.equal(flipped[i], option[i])]
        assert len(matches) == 1
        used |= set(matches)
    assert len(used) >= 4


def test_bad_requests(cohort):
    with pytest.raises(ValueError, match="at least two classes"):
        fit(cohort[cohort.labels == 0])
    with pytest.raises(ValueError, match="patience needs a validation cohort"):
        fit(cohort, patience=2)
    with pytest.raises(ValueError, match="batch_size between 1 and 24 subjects, got 3 and 25"):
        fit(cohort, batch_size=25)
    with pytest.raises(ValueError, match="the loss became nan in epoch 1; lower the learning"):
        fit(cohort, learning_rate=1e12, epochs=3)


def test_one_broken_batch_is_enough_to_stop():
    people = small.cohort(16)

    def breaking(volumes, generator):  # one subject of one batch
        volumes[0, 0, 0, 0, 0] = float("nan") if breaking.calls == 1 else 0.0
        breaking.calls += 1
        return volumes

    breaking.calls = 0
    with pytest.raises(ValueError, match="the loss became nan in epoch 1; lower the learning"):
        models.train(small.Net(), people, batch_size=4, augment=breaking, progress=False)


TWO_PROCESSES = """
import sys
import torch
from helpers import cohorts, grids, models

torch.set_num_threads(1)
cohort = cohorts.simulate("shortcut", subjects=24, grid=grids.mni(8.0))
model = torch.nn.Sequential(  # no BatchNorm: its statistics are those of each process's share
    torch.nn.Conv3d(1, 4, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(),
    torch.nn.Linear(4 * 11 * 13 * 11, 2),
)
with torch.no_grad():
    for i, p in enumerate(model.parameters()):
        p.copy_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
history = models.train(model, cohort, epochs=3, batch_size=8, learning_rate=1e-3, progress=False)
fabric_rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
if fabric_rank == 0:
    torch.save({"weights": [p.detach() for p in model.parameters()],
                "loss": history["loss"].tolist(),
                "accuracy": history["accuracy"].tolist()}, sys.argv[1])
"""


def test_two_processes_give_the_result_of_one(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(TWO_PROCESSES)
    results = []
    for name, launcher in (
        ("one", [sys.executable]),
        (
            "two",
            [
                str(Path(sys.executable).parent / "fabric"),
                "run",
                "--accelerator=cpu",
                "--devices=2",
                "--strategy=ddp",
            ],
        ),
    ):
        target = tmp_path / f"{name}.pt"
        done = subprocess.run(
            [*launcher, str(script), str(target)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(torch.load(target, weights_only=True))
    one, two = results
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["accuracy"] == pytest.approx(one["accuracy"])
    for a, b in zip(one["weights"], two["weights"], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
