from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.cohorts import Cohort, concatenate
from helpers.grids import Grid


@pytest.fixture
def cohort():
    generator = torch.Generator().manual_seed(0)
    return Cohort(
        volumes=torch.rand(20, 1, 4, 5, 6, generator=generator),
        labels=torch.arange(20) % 2,
        classes=("F", "M"),
        participants=pd.DataFrame(
            {
                # Ten people, each scanned twice.
                "participant_id": [f"sub-{i // 2:02d}" for i in range(20)],
                "site": ["A", "B"] * 5 + ["B", "A"] * 5,
            }
        ),
        grid=Grid((4, 5, 6), np.diag([2.0, 2.0, 2.0, 1.0])),
    )


def test_index_slice_and_mask(cohort):
    volume, label = cohort[3]
    assert volume.shape == (1, 4, 5, 6)
    assert int(label) == 1
    women = cohort[cohort.labels == 0]
    assert len(women) == 10
    assert torch.equal(women.volumes, cohort.volumes[::2])
    assert cohort[2:4].participants["participant_id"].tolist() == ["sub-01", "sub-01"]
    assert "20 subjects: 10 F, 10 M; 4x5x6" in repr(cohort)


def test_works_with_a_torch_loader(cohort):
    volumes, labels = next(iter(torch.utils.data.DataLoader(cohort, batch_size=4)))
    assert volumes.shape == (4, 1, 4, 5, 6)
    assert labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("stratify", ["label", "site", None])
def test_split_shares_nobody_and_is_reproducible(cohort, stratify):
    parts = cohort.split([0.6, 0.2, 0.2], seed=4, stratify=stratify)
    people = [set(part.participants["participant_id"]) for part in parts]
    assert not (people[0] & people[1]) | (people[0] & people[2]) | (people[1] & people[2])
    assert sum(len(part) for part in parts) == 20
    again = cohort.split([0.6, 0.2, 0.2], seed=4, stratify=stratify)
    assert all(torch.equal(a.volumes, b.volumes) for a, b in zip(parts, again, strict=True))


def test_split_keeps_proportions():
    labels = torch.tensor([0] * 30 + [1] * 10)
    cohort = Cohort(
        volumes=torch.rand(40, 1, 4, 5, 6),
        labels=labels,
        classes=("control", "patient"),
        participants=pd.DataFrame({"participant_id": [f"sub-{i}" for i in range(40)]}),
        grid=Grid((4, 5, 6), np.eye(4)),
    )
    train, test = cohort.split([0.8, 0.2])
    assert torch.bincount(train.labels).tolist() == [24, 8]
    assert torch.bincount(test.labels).tolist() == [6, 2]


def people(strata):
    """One person each, of the strata given."""
    table = {"participant_id": [f"sub-{i:03d}" for i in range(len(strata))], "age": strata}
    return Cohort(
        volumes=torch.rand(len(strata), 1, 2, 3, 4),
        labels=torch.zeros(len(strata), dtype=torch.long),
        classes=("all",),
        participants=pd.DataFrame(table),
        grid=Grid((2, 3, 4), np.eye(4)),
    )


def test_split_gives_each_part_its_share_however_small_the_strata():
    ten = people(range(10)).split([0.5, 0.5], stratify="age")
    assert [len(part) for part in ten] == [5, 5]
    # Whoever has a stratum of their own must not always land in the same part.
    first = [set(people(range(10)).split([0.5, 0.5], s, stratify="age")[0].participants["age"])
             for s in range(20)]  # fmt: skip
    assert set.union(*first) == set(range(10))
    assert not set.intersection(*first)


@pytest.mark.parametrize("fractions", [[0.5, 0.5], [0.6, 0.2, 0.2], [0.45, 0.3], [1 / 3] * 3])
def test_split_is_within_one_of_every_share(fractions):
    random = np.random.default_rng(0)
    for seed in range(20):
        sizes = random.integers(1, 9, size=6)
        cohort = people(np.repeat(np.arange(6), sizes))
        parts = cohort.split(fractions, seed, stratify="age")
        for part, fraction in zip(parts, fractions, strict=True):
            assert abs(len(part) - fraction * len(cohort)) < 1
            counts = np.bincount(part.participants["age"], minlength=6)
            assert (abs(counts - fraction * sizes) < 1 + 1e-9).all()
        if sum(fractions) > 0.99:
            assert sum(len(part) for part in parts) == len(cohort)


def test_split_refuses_an_empty_part():
    with pytest.raises(ValueError, match=r"parts \[1\] would be empty: 0.02 of 20 people"):
        people([0] * 20).split([0.9, 0.02], stratify="age")


@pytest.mark.usefixtures("unchecked")
def test_bad_parts_are_named(cohort):
    with pytest.raises(ValueError, match=r"one row a subject.*'labels': 19"):
        replace(cohort, labels=cohort.labels[:19])
    with pytest.raises(ValueError, match="labels run from 0 to 2, but there are 2 classes"):
        replace(cohort, labels=torch.arange(20) % 3)
    with pytest.raises(ValueError, match=r"volumes \[0\] hold NaN"):
        replace(
            cohort,
            volumes=cohort.volumes
            * torch.tensor([np.nan] + [1.0] * 19)[:, None, None, None, None].float(),
        )
    with pytest.raises(ValueError, match="fractions must be positive and sum to 1"):
        cohort.split([0.9, 0.2])
    with pytest.raises(ValueError, match=r"no column 'age'.*'site'"):
        cohort.split([0.5, 0.5], stratify="age")


def test_concatenate(cohort):
    both = concatenate([cohort[:5], cohort[10:12]])
    assert torch.equal(both.volumes, cohort.volumes[[0, 1, 2, 3, 4, 10, 11]])
    assert both.participants["participant_id"].tolist()[-1] == "sub-05"
    assert both.truth is None
    with pytest.raises(ValueError, match="same classes and grid"):
        concatenate([cohort, replace(cohort, classes=("M", "F"))])
