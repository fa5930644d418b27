import errno
import os

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import anatomy, cohorts, grids, tensors
from helpers.cohorts import bids, preprocessing, registration
from helpers.errors import BrokenScansError, CannotWriteError, LeftOutWarning
from helpers.runtime import generator

GRID = grids.mni(8.0)
BRAIN = anatomy.template(GRID)


@pytest.fixture(autouse=True)
def registrations(monkeypatch):
    """Replace registration and bias correction, which have their own tests; count their calls."""
    calls = []

    def in_place(data, *_, **__):
        calls.append(data.shape)
        return np.eye(4), 0.5

    monkeypatch.setattr(registration, "register", in_place)
    monkeypatch.setattr(registration, "correct_bias", lambda data, *_: data)
    return calls


def write_scan(folder, name, number=0, *, session=None, tail="T1w.nii.gz"):
    noise = torch.rand(GRID.shape, generator=generator(0, number))
    place = folder / name if session is None else folder / name / session
    stem = name if session is None else f"{name}_{session}"
    path = place / "anat" / f"{stem}_{tail}"
    return grids.save(100 * BRAIN.t1[0] * (1 + 0.1 * noise), GRID, path)


def write_table(folder, **columns):
    pd.DataFrame(columns).to_csv(folder / "participants.tsv", sep="\t", index=False, na_rep="n/a")


@pytest.fixture
def study(tmp_path):
    """Four people in good order."""
    folder = tmp_path / "study"
    names = ["sub-01", "sub-02", "sub-03", "sub-04"]
    for number, name in enumerate(names):
        write_scan(folder, name, number)
    write_table(
        folder,
        participant_id=names,
        sex=["M", "F", "F", "M"],
        age=[31.5, 64.0, 47.2, None],
        group=[1, 0, 1, 0],
    )
    return folder


@pytest.fixture
def load(study, tmp_path):
    def load(label="sex", folder=study, **options):
        options = {"grid": GRID, "cache": tmp_path / "cache", "progress": False, **options}
        return bids.from_bids(folder, label, **options)

    return load


def problems(cohort):
    return {(row["participant_id"], row["kind"]) for row in cohort.participants.attrs["problems"]}


def test_a_folder_in_good_order(load, recwarn):
    cohort = load()
    assert not [warning for warning in recwarn if warning.category is LeftOutWarning]
    assert cohort.classes == ("F", "M")
    assert cohort.labels.tolist() == [1, 0, 0, 1]
    assert cohort.participants["participant_id"].tolist() == [
        "sub-01",
        "sub-02",
        "sub-03",
        "sub-04",
    ]
    assert cohort.participants["age"].tolist()[:3] == [31.5, 64.0, 47.2]
    assert cohort.participants["template_correlation"].min() > 0.7
    assert cohort.grid == GRID
    for volume in cohort.volumes:
        assert (volume[~BRAIN.mask] == 0).all()
        assert volume[BRAIN.mask].median() == pytest.approx(1)
    assert not torch.equal(cohort.volumes[0], cohort.volumes[1])


def test_maps_of_a_cohort_go_home(load, study):
    cohort = load()[[2, 0]]
    for report, name in zip(cohort.reports, ("sub-03", "sub-01"), strict=True):
        assert report.native == grids.read_grid(study / f"{name}/anat/{name}_T1w.nii.gz")
        assert report.template_correlation > 0.7
    back = cohorts.to_scan(cohort.volumes[0], cohort.reports[0], GRID)
    np.testing.assert_array_equal(back, cohort.volumes[0, 0])
    both = cohorts.concatenate([cohort, cohort])
    assert both.reports == [*cohort.reports, *cohort.reports]


def test_a_cohort_larger_than_memory_is_the_same(load, tmp_path, monkeypatch):
    held = load()
    monkeypatch.setattr(tensors, "MOST_IN_MEMORY_BYTES", 1000)
    assert torch.equal(load().volumes, held.volumes)
    kept = next((tmp_path / "cache").rglob("sub-02*preproc_T1w.nii.gz"))
    kept.write_bytes(kept.read_bytes()[:-100])
    assert torch.equal(load().volumes, held.volumes)  # what is damaged is made again
    assert torch.equal(load()[[3, 1]].volumes, held.volumes[[3, 1]])


def test_a_broken_scan_leaves_no_gap_in_a_cohort_larger_than_memory(load, study, monkeypatch):
    held = load()
    monkeypatch.setattr(tensors, "MOST_IN_MEMORY_BYTES", 1000)
    (study / "sub-02/anat/sub-02_T1w.nii.gz").write_bytes(b"no scan")
    with pytest.warns(LeftOutWarning, match="sub-02"):
        streamed = load(on_error="skip")
    assert torch.equal(streamed.volumes, held.volumes[[0, 2, 3]])


def test_a_full_disk_is_said_before_a_scan_is_read(load, registrations, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensors, "MOST_IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(CannotWriteError, match=r"cannot keep .* GB in .*set TMPDIR"):
        load()
    assert registrations == []


def test_second_load_comes_from_the_cache(load, study, registrations):
    first = load()
    done = len(registrations)
    again = load("group")
    assert len(registrations) == done
    assert torch.equal(first.volumes, again.volumes)
    write_scan(study, "sub-02", 7)
    os.utime(study / "sub-02/anat/sub-02_T1w.nii.gz", ns=(0, 1))
    changed = load()
    assert len(registrations) == done + 2  # a scan without a mask is registered in two steps
    assert [torch.equal(a, b) for a, b in zip(first.volumes, changed.volumes, strict=True)] == [
        True,
        False,
        True,
        True,
    ]


def test_interrupted_load_resumes(load, registrations, monkeypatch):
    whole = preprocessing.preprocess
    calls = []

    def interrupted(scan, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(scan)
        return whole(scan, **options)

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "preprocess", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load()
    before = len(registrations)
    assert len(load()) == 4
    assert len(registrations) - before == 4


def test_broken_scans_are_named_together_after_the_rest(load, study, registrations):
    for name in ("sub-01", "sub-03"):
        scan = study / name / "anat" / f"{name}_T1w.nii.gz"
        scan.write_bytes(scan.read_bytes()[:500])
    with pytest.raises(BrokenScansError, match=r"2 of 4 scans[\s\S]*sub-01[\s\S]*sub-03") as e:
        load()
    assert e.value.problems["participant_id"].tolist() == ["sub-01", "sub-03"]
    done = len(registrations)
    with pytest.warns(LeftOutWarning, match="2 left out of study"):
        cohort = load(on_error="skip")
    assert len(registrations) == done
    assert cohort.participants["participant_id"].tolist() == ["sub-02", "sub-04"]
    assert cohort.labels.tolist() == [0, 1]
    assert problems(cohort) == {("sub-01", "broken scan"), ("sub-03", "broken scan")}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it is damaged or not a NIfTI image: it holds 0 bytes"), (None, "it does not exist")],
)
def test_a_broken_scan_is_named_once(load, study, content, message):
    scan = study / "sub-03/anat/sub-03_T1w.nii.gz"
    scan.unlink()
    scan.symlink_to("never-fetched") if content is None else scan.write_bytes(content)
    with pytest.raises(BrokenScansError, match=message) as raised:
        load()
    (line,) = [line for line in str(raised.value).splitlines() if "sub-03" in line]
    assert line.count(scan.name) == 1
    assert f"{scan.name}: {message}" in line
    (problem,) = raised.value.problems.to_dict("records")
    assert problem["file"] == "sub-03/anat/sub-03_T1w.nii.gz"
    assert problem["detail"].startswith(message)


def test_a_broken_mask_is_named(load, study):
    mask = study / "masks/sub-03.nii.gz"
    for name in ("sub-01", "sub-02", "sub-04"):
        grids.save(BRAIN.mask[0].float(), GRID, mask.with_name(f"{name}.nii.gz"))
    mask.write_bytes(b"")
    with pytest.raises(BrokenScansError, match=rf"sub-03_T1w\.nii\.gz: {mask} is damaged"):
        load(masks="masks/{participant_id}.nii.gz")


def test_failed_registration_is_a_broken_scan(load, study):
    grids.save(torch.rand(GRID.shape), GRID, study / "sub-02/anat/sub-02_T1w.nii.gz")
    with pytest.raises(BrokenScansError, match=r"sub-02.*correlation with the template"):
        load()


def test_people_and_scans_without_counterpart(load, study):
    write_scan(study, "sub-05")
    table = pd.read_csv(study / "participants.tsv", sep="\t")
    table.loc[len(table)] = ["sub-06", "F", 50.0, 1]
    table.loc[3, "sex"] = None
    table.to_csv(study / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    with pytest.warns(LeftOutWarning, match="3 left out"):
        cohort = load()
    assert len(cohort) == 3
    assert problems(cohort) == {("sub-04", "no label"), ("sub-05", "no row"), ("sub-06", "no scan")}
    with pytest.warns(LeftOutWarning, match="1 left out"):
        everyone = load(None)
    assert everyone.classes == ("unlabelled",)
    assert len(everyone) == 5


def test_without_a_table(load, study):
    (study / "participants.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no participants\.tsv.*label=None"):
        load()
    cohort = load(None)
    assert cohort.labels.tolist() == [0, 0, 0, 0]


def test_problems_survive_pandas(load, study):
    write_scan(study, "sub-05")
    with pytest.warns(LeftOutWarning, match="sub-05"):
        cohort = load()
    half, other = cohort.split([0.5, 0.5])
    assert problems(half) == {("sub-05", "no row")}
    assert len(pd.concat([half.participants, other.participants])) == 4


def test_sessions_and_further_scans(load, study):
    write_scan(study, "sub-01", 11, session="ses-1")
    write_scan(study, "sub-01", 12, session="ses-2")
    write_scan(study, "sub-02", 13, tail="run-2_T1w.nii.gz")
    with pytest.warns(LeftOutWarning, match="further scan of the same visit"):
        cohort = load()
    rows = cohort.participants[["participant_id", "session"]].to_numpy().tolist()
    assert rows[:4] == [["sub-01", ""], ["sub-01", "ses-1"], ["sub-01", "ses-2"], ["sub-02", ""]]
    assert len(cohort) == 6
    for part in cohort.split([0.5, 0.5]):
        assert (part.participants["participant_id"] == "sub-01").sum() in (0, 3)


def test_classes_choose_and_order(load):
    assert load("group").classes == ("0", "1")
    cohort = load(classes=["M", "F"])
    assert cohort.labels.tolist() == [0, 1, 1, 0]
    with pytest.warns(LeftOutWarning, match="other class"):
        assert len(load(classes=["M"])) == 2
    with pytest.raises(ValueError, match=r"do not fit the column 'sex'.*\['F', 'M'\]"):
        load(classes=["male", "female"])


def test_numbers_need_edges(load):
    with pytest.raises(ValueError, match=r"'age' is numeric \(31.5 to 64\).*bins=\[47.2\]"):
        load("age")
    with pytest.warns(LeftOutWarning, match=r"sub-04.*no label"):
        cohort = load("age", bins=[40, 64])
    assert cohort.classes == ("age < 40", "40 <= age < 64", "age >= 64")
    assert cohort.labels.tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match="rising edges"):
        load("age", bins=[60, 40])
    with pytest.raises(ValueError, match=r"numeric column.*\['F', 'M'\]"):
        load("sex", bins=[1])
    with pytest.raises(ValueError, match="either classes or bins"):
        load("age", bins=[40], classes=["M"])


def test_unusable_tables(load, study):
    with pytest.raises(ValueError, match=r"no column 'diagnosis'.*\['sex', 'age', 'group'\]"):
        load("diagnosis")
    write_table(study, participant_id=["sub-01", "sub-02", "sub-01"], sex=["F", "M", "F"])
    with pytest.raises(ValueError, match=r"more than one row for \['sub-01'\]"):
        load()
    write_table(study, participant_id=["sub-01", "sub-02"], sex=[None, None])
    with pytest.raises(ValueError, match=r"column 'sex' of participants\.tsv is empty"):
        load()
    write_table(study, subject=["sub-01"], sex=["F"])
    with pytest.raises(ValueError, match="expected participant_id, and tabs"):
        load()


def test_columns_of_the_table_cannot_meddle(load, study):
    names = ["sub-01", "sub-02", "sub-03", "sub-04"]
    other = {"_class": [1, 1, 0, 0], "volume_ratio": [9.0, 9, 9, 9], "scan": ["x"] * 4}
    write_table(study, participant_id=names, sex=["M", "F", "F", "M"], **other)
    cohort = load()
    assert cohort.labels.tolist() == [1, 0, 0, 1]
    assert cohort.participants["_class"].tolist() == [1, 1, 0, 0]
    assert cohort.participants["volume_ratio"].tolist() == [1, 1, 1, 1]
    assert cohort.participants["scan"][0] == "sub-01/anat/sub-01_T1w.nii.gz"


def test_ids_without_the_prefix(load, study):
    write_table(study, participant_id=["01", "02", "03", "04"], sex=["F", "M", "M", "M"])
    assert load().labels.tolist() == [0, 1, 1, 1]


def test_no_folder_and_no_scans(load, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder at"):
        load(folder=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected sub-\*/anat"):
        load(folder=tmp_path / "empty")
    with pytest.raises(ValueError, match="expected 'raise' or 'skip'"):
        load(on_error="ignore")


def test_masks_cut_the_brain_out(load, study):
    pattern = "derivatives/masks/{participant_id}_dseg.nii.gz"
    front = BRAIN.mask[0] & (GRID.centers_mm()[1] > -70)
    for name in ("sub-01", "sub-02", "sub-03"):
        grids.save(51 * front.float(), GRID, study / pattern.format(participant_id=name))
    with pytest.raises(BrokenScansError, match=r"sub-04.*mask is missing"):
        load(masks=pattern)
    with pytest.warns(LeftOutWarning, match="sub-04"):
        cohort = load(masks=pattern, on_error="skip")
    assert torch.equal(cohort.volumes[0, 0] > 0, front & (cohort.volumes[0, 0] > 0))
    assert (cohort.participants["mask_dice"] < 0.99).all()
    with pytest.raises(ValueError, match="unknown placeholder 'subject'"):
        load(masks="{subject}_mask.nii.gz")


def test_link_that_leads_nowhere_is_named(load, study):
    scan = study / "sub-03/anat/sub-03_T1w.nii.gz"
    scan.unlink()
    scan.symlink_to(study / "not-fetched")
    with pytest.raises(BrokenScansError, match=r"sub-03.*leads nowhere"):
        load()
