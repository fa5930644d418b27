"""Group statistics and the report, on maps whose group difference is planted."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from small_study import CARD, GRID, main
from torch import nn

from helpers import anatomy, cohorts, grids, study
from helpers.study import Study, findings, pages, reporting
from helpers.study.grouping import maps_of_people

PEOPLE = 16
# Voxels of the left hippocampus region, and their mirror image on the right.
LEFT = (slice(7, 10), slice(12, 16), slice(7, 10))
RIGHT = (slice(14, 17), slice(12, 16), slice(7, 10))


class TwoSides(nn.Module):
    """Class 1 is left brightness; so a map of input times gradient differs on the left only."""

    def forward(self, volumes):
        left, right = (volumes[:, 0][(slice(None), *box)].mean((1, 2, 3)) for box in (LEFT, RIGHT))
        return torch.stack([right * 0.2, left], dim=1)


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """Patients are brighter on the left; the second scan of one of them counts once."""
    place = tmp_path_factory.mktemp("study")
    brains = cohorts.simulate("sex", PEOPLE, grid=GRID, seed=2).volumes
    rows = []
    for i, volume in enumerate(brains):
        name, patient = f"sub-{i:02d}", i % 2 == 1
        volume = volume[0].clone()
        volume[LEFT] *= 1.5 if patient else 1.0
        visits = ("ses-1", "ses-2") if i == 1 else ("ses-1",)
        for visit in visits:
            file = f"{name}/{visit}/anat/{name}_{visit}_T1w.nii.gz"
            grids.save(volume, GRID, place / "scans" / file)
        group = "patient" if patient else "control"
        rows.append({"participant_id": name, "dx": group, "age": 20 + 3 * (i % 5), "site": "a"})
    pd.DataFrame(rows).to_csv(place / "scans/participants.tsv", sep="\t", index=False)
    mine = Study(place / "scans", place / "out")
    model = TwoSides()
    model.card = {**CARD, "classes": ["control", "patient"]}
    options = {"method": "input_x_gradient", "progress": False}
    study.explain(mine, model, target="patient", **options)
    return mine


def test_a_person_counts_once(explained):
    people, maps, grid = maps_of_people(explained, "input_x_gradient")
    assert people["participant_id"].tolist() == [f"sub-{i:02d}" for i in range(PEOPLE)]
    assert maps.shape == (PEOPLE, 1, *GRID.shape)
    assert grid == GRID
    assert len(explained.scans) == PEOPLE + 1


def test_the_planted_difference_is_found_on_its_side(explained):
    arguments = ["group", explained.folder, explained.output, "--method=input_x_gradient"]
    more = ["--label=dx", "--covariates", "age", "--permutations=200", "--smooth-mm=0"]
    assert main(*arguments, *more) == 0
    stem = "space-MNI152NLin2009aSym_res-8_desc-inputxgradientDx"
    peaks = pd.read_csv(explained.group(f"{stem}_peaks.tsv"), sep="\t")
    assert len(peaks) >= 1
    assert (peaks["x_mm"] < 0).all()
    assert (peaks["t"] > 0).all()  # higher in patients
    t, grid = grids.read(explained.group(f"{stem}_t.nii.gz"))
    assert grid == GRID
    assert np.abs(t[LEFT]).max() > 4 * np.abs(t[RIGHT]).max()
    means = pd.read_csv(explained.group(f"{stem}_means.tsv"), sep="\t")
    assert set(means["group"]) == {"control", "patient"}
    how = json.loads(explained.group(f"{stem}_group.json").read_text())
    assert how["covariates"] == ["age"]
    assert how["people"] == [f"sub-{i:02d}" for i in range(PEOPLE)]
    assert how["maps"]["target"] == "patient"
    assert (means["low"] <= means["mean"]).all()
    about = findings._in_words("Dx", how)
    assert about == "dx, patient against control, apart from age"


def test_other_groups_of_a_column_have_files_of_their_own(explained):
    arguments = ["group", explained.folder, explained.output, "--method=input_x_gradient"]
    named = ["--classes", "patient", "control", "--permutations=20"]
    assert main(*arguments, "--label=dx", *named) == 0
    stem = "space-MNI152NLin2009aSym_res-8_desc-inputxgradientDxPatientControl"
    how = json.loads(explained.group(f"{stem}_group.json").read_text())
    assert how["classes"] == ["patient", "control"]
    assert explained.group(f"{stem}_t.nii.gz").exists()


def test_the_page_takes_no_method_for_another(explained, tmp_path):
    """The name of grad_cam_plus_plus begins as that of grad_cam with a contrast does."""
    mine = Study(explained.folder, tmp_path / "out")
    for name in ("gradcam", "gradcamplusplus", "gradcamSex", "gradcamplusplusSex", "lrp"):
        path = mine.group(f"space-MNI152NLin2009aSym_res-8_desc-{name}_peaks.tsv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("t\n")
    for method, name in {"grad_cam": "gradcam", "grad_cam_plus_plus": "gradcamplusplus"}.items():
        found = findings._of_group(mine, method, "peaks")
        assert {contrast: path.stem.split("_")[2] for contrast, path in found.items()} == {
            "": f"desc-{name}",
            "Sex": f"desc-{name}Sex",
        }


def test_groups_of_a_folder_of_nifti_files(explained, tmp_path):
    """People are called as the files are; the table may have sub- before it."""
    for path in explained.folder.glob("sub-*/ses-1/anat/*.nii.gz"):
        name = path.name.partition("_")[0].removeprefix("sub-")
        (tmp_path / "scans").mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / f"scans/{name}.nii.gz")
    shutil.copy(explained.folder / "participants.tsv", tmp_path / "scans")
    mine, model = Study(tmp_path / "scans", tmp_path / "out"), TwoSides()
    model.card = {**CARD, "classes": ["control", "patient"]}
    options = {"method": "input_x_gradient"}
    study.explain(mine, model, target="patient", progress=False, **options)
    peaks = study.group(mine, label="dx", permutations=200, smooth_mm=0.0, **options)
    assert len(peaks) >= 1
    assert (peaks["x_mm"] < 0).all()


def test_where_nothing_differs_nothing_is_found(explained):
    """The two classes in an order that says nothing: every second of both groups."""
    table = pd.read_csv(explained.folder / "participants.tsv", sep="\t")
    coin = ["x" if i % 4 < 2 else "y" for i in range(PEOPLE)]
    other = explained.folder.with_name("coin")
    if not other.exists():
        other.mkdir()
        for path in explained.folder.glob("sub-*"):
            (other / path.name).symlink_to(path)
        table.assign(coin=coin).to_csv(other / "participants.tsv", sep="\t", index=False)
    mine = Study(other, explained.output)
    options = {"method": "input_x_gradient", "permutations": 200, "smooth_mm": 0.0}
    assert study.group(mine, label="coin", **options).empty


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": "iq"}, "no column 'iq'"),
        ({"label": "site"}, r"expected two groups of 'site' to compare, got \['a'\]"),
        ({"label": "dx", "classes": ["control", "ill"]}, r"nobody with a map has dx \['ill'\]"),
        ({"covariates": ["iq"]}, r"no column \['iq'\]"),
        ({"label": "dx", "covariates": ["site"]}, "site"),
        ({"smooth_mm": -1.0}, "0 or more"),
        ({"method": "guessing"}, "unknown method 'guessing'"),
    ],
)
def test_what_is_refused(explained, changed, message):
    with pytest.raises(ValueError, match=message):
        study.group(explained, **{"method": "input_x_gradient", **changed})


def test_classes_of_no_label(explained, capsys):
    with pytest.raises(SystemExit) as stopped:
        main("group", explained.folder, explained.output, "--method=lrp", "--classes", "a", "b")
    assert stopped.value.code == 2
    assert "--classes are values of --label" in capsys.readouterr().err


def test_maps_that_are_not_there(explained):
    with pytest.raises(FileNotFoundError, match="holds no maps of lrp; make them with"):
        study.group(explained, method="lrp")


def test_groups_of_predicted_classes_are_warned_about(explained, tmp_path):
    model = TwoSides()
    model.card = {**CARD, "classes": ["control", "patient"]}
    mine = Study(explained.folder, tmp_path / "out")
    study.explain(mine, model, method="input_x_gradient", progress=False)
    with pytest.warns(UserWarning, match="is about the class that was predicted"):
        study.group(mine, method="input_x_gradient", label="dx", permutations=100)


def test_the_report_stands_alone_and_shows_everything(explained):
    assert main("report", explained.folder, explained.output) == 0
    page = (explained.output / "report.html").read_text()
    assert page.count('<img decoding="async" src="data:image/webp') == PEOPLE + 1
    assert all(scan.file in page for scan in explained.scans)
    assert "Who</h2>" in page
    assert "8 patient, 8 control" in page or "8 control, 8 patient" in page
    # Nothing is asked of the network: no link to a script, style, font or picture elsewhere.
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"|url\((?!data:)', own)


def test_every_scan_of_a_network_from_elsewhere(explained, monkeypatch):
    """Nobody said which column it knows: it is the one that has what the network says."""
    tables, add = {}, pages.Page.table

    def kept(page, frame, caption, **options):
        tables[caption] = frame
        add(page, frame, caption, **options)

    monkeypatch.setattr(pages.Page, "table", kept)
    reporting.report(explained)
    table = tables[f"{PEOPLE + 1} scans"]
    true = ["control" if "sub" in s and int(s[4:6]) % 2 == 0 else "patient" for s in table["scan"]]
    assert table["dx"].tolist() == true
    right = table["dx"] == table["predicted (input_x_gradient)"]
    assert (table["correct (input_x_gradient)"] == right.map({True: "yes", False: "no"})).all()
    assert right.sum() > 0


def test_an_empty_output_has_no_report(tmp_path, explained, capsys):
    with pytest.raises(SystemExit) as stopped:
        main("report", explained.folder, tmp_path / "out")
    assert stopped.value.code == 2
    assert "holds nothing to report yet" in capsys.readouterr().err


def scores(auc, low, pca=0.6):
    rows = [("network", auc, low), ("PCA + logistic regression", pca, 0.4)]
    return pd.DataFrame(
        [
            {"model": name, "auc": value, "auc_low": edge, "auc_high": 1.0}
            for name, value, edge in rows
        ]
    )


def confounds(alone):
    rows = [("network", 0.8), ("PCA + logistic regression", 0.6)]
    return pd.DataFrame(
        [{"model": name, "confound": "age", "alone": alone, "auc": auc} for name, auc in rows]
    )


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"scores": scores(0.8, 0.6)}, []),
        ({"scores": scores(0.6, 0.45)}, ["not clearly better than chance"]),
        ({"scores": scores(0.8, 0.6, pca=0.85)}, ["PCA + logistic regression does as well"]),
        ({"scores": scores(0.8, 0.6), "confounds": confounds(0.9)}, ["age alone predicts dx"]),
        ({"scores": scores(0.8, 0.6), "confounds": confounds(0.7)}, []),
    ],
)
def test_what_nobody_should_overlook(tables, expected):
    said = reporting.warnings_of(reporting.Found(trainings={"dx": tables}))
    assert len(said) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, said, strict=True))


def test_a_region_of_the_truth_is_named(explained):
    atlas = anatomy.atlas(GRID, "aal")
    found = study.group(
        explained, method="input_x_gradient", label="dx", atlas=atlas, permutations=200, smooth_mm=0
    )
    assert found["side"].isin(["left", ""]).all()
