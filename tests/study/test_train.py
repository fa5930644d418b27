"""Cross-validation on a study: nobody is judged, or explained, by a network that has seen her."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from small_study import GRID, main

from helpers import attribution, cohorts, grids, models
from helpers.command import train as command_train
from helpers.errors import LeftOutWarning
from helpers.study import Study, train, training

PEOPLE = 24
SETTINGS = ["--spacing-mm=8", "--folds=3", "--epochs=3", "--batch-size=4", "--n-procs=1"]
LONGER = [*SETTINGS, "--epochs=8", "--confounds=site"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """People who lie in MNI space already; the ill ones have a bright block on the left."""
    place = tmp_path_factory.mktemp("study")
    brains = cohorts.simulate("sex", PEOPLE, grid=GRID, seed=5)
    rows = []
    for i, volume in enumerate(brains.volumes):
        name, ill = f"sub-{i:02d}", i % 2 == 1
        volume = volume[0].clone()
        if ill:
            volume[6:9, 12:16, 10:13] += 2.0 * (volume[6:9, 12:16, 10:13] > 0)
        grids.save(volume, GRID, place / f"scans/{name}/anat/{name}_T1w.nii.gz")
        rows.append(
            {
                "participant_id": name,
                "group": "ill" if ill else "well",
                "age": 30 + 2.5 * i,
                "site": "ab"[(i // 2) % 2],
            }
        )
    table = pd.DataFrame(rows)
    table.loc[3, "age"] = np.nan
    table.to_csv(place / "scans/participants.tsv", sep="\t", index=False, na_rep="n/a")
    return place


@pytest.fixture(scope="module", autouse=True)
def unregistered():
    """The scans lie in MNI space: what registers them has its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.cohorts.registration.register", lambda *_, **__: (np.eye(4), 0.5))
        yield


@pytest.fixture(scope="module")
def trained(study):
    code = main("train", study / "scans", study / "out", "--label=group", *LONGER)
    assert code == 0
    return study / "out"


def table(out, name, **how):
    return pd.read_csv(out / f"group/desc-{name}.tsv", sep="\t", **how)


def test_everybody_is_judged_once_and_by_a_network_that_has_not_seen_her(trained):
    found = table(trained, "group_predictions")
    assert len(found) == PEOPLE
    assert sorted(found["fold"].value_counts()) == [8, 8, 8]
    kept = models.load(trained / "models/group")
    assert kept.card["classes"] == ["ill", "well"]
    assert kept.fold_of == dict(zip(found["participant_id"], found["fold"], strict=True))
    for row in found.itertuples():
        name = f"{row.participant_id}/anat/{row.participant_id}"
        volume, _ = grids.read(
            trained / f"{name}_space-MNI152NLin2009aSym_res-8_desc-preproc_T1w.nii.gz"
        )
        (network,) = kept.not_seen(row.participant_id)
        said = models.predict(network, torch.from_numpy(volume)[None, None])[0].softmax(0)
        assert kept.card["classes"][int(said.argmax())] == row.predicted
        assert float(said.max()) == pytest.approx(row.probability, abs=1e-4)


def test_the_planted_block_is_learned_and_simple_models_stand_beside_it(trained):
    scores = table(trained, "group_scores").set_index("model")
    assert scores.loc["network", "auc"] > 0.9
    assert {"brain volume", "PCA + logistic regression"} <= set(scores.index)
    assert (scores["auc_low"] <= scores["auc"]).all()
    confounds = table(trained, "group_confounds")
    assert confounds["model"].tolist() == scores.index.tolist()
    assert set(confounds["confound"]) == {"site"}
    assert confounds["auc"].tolist() == pytest.approx(scores["auc"].tolist())
    calibration = table(trained, "group_calibration")
    assert calibration["people"].sum() == PEOPLE
    assert calibration["said"].is_monotonic_increasing


def test_a_map_comes_from_the_network_that_has_not_seen_the_scan(trained, study):
    model = f"--model={trained / 'models/group'}"
    assert main("explain", study / "scans", trained, model, "--method=gradient") == 0
    kept, found = models.load(trained / "models/group"), table(trained, "gradient_scans")
    assert (found["fold"] == found["participant_id"].map(kept.fold_of)).all()
    name = "sub-05/anat/sub-05_space-MNI152NLin2009aSym_res-8_desc"
    volume, _ = grids.read(trained / f"{name}-preproc_T1w.nii.gz")
    written = nib.load(trained / f"{name}-gradient_map.nii.gz").get_fdata()
    target = kept.card["classes"].index(
        found.set_index("participant_id").loc["sub-05", "explained"]
    )
    maps = [
        attribution.gradient(network, torch.from_numpy(volume)[None, None], target)[0, 0].numpy()
        for network in kept.networks
    ]
    same = [np.allclose(written, one, rtol=1e-3, atol=1e-6) for one in maps]
    assert same == [fold == kept.fold_of["sub-05"] for fold in range(3)]


def test_a_training_that_is_done_is_not_repeated_and_another_needs_another_folder(
    trained, study, monkeypatch, capsys
):
    monkeypatch.setattr("helpers.study.training.cross_validate", None)
    arguments = ["train", study / "scans", trained, "--label=group", *LONGER]
    assert main(*arguments) == 0
    with pytest.raises(SystemExit) as stopped:
        main(*arguments, "--epochs=9")
    assert stopped.value.code == 2
    assert "holds a training with other epochs; name another output" in capsys.readouterr().err


def test_of_two_runs_at_once_the_second_reads_what_the_first_found(study, tmp_path, monkeypatch):
    both, asked = threading.Barrier(2), []

    def together(*call, **options):
        asked.append(call)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=1)
        return models.cross_validate(*call, **options)

    def run(_):
        mine = Study(study / "scans", tmp_path / "out", preprocessed=study / "out")
        how = {"spacing_mm": 8.0, "folds": 2, "epochs": 1, "batch_size": 4, "n_procs": 1}
        return train(mine, "group", **how, progress=False)

    monkeypatch.setattr(training, "cross_validate", together)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(run, range(2))
    assert len(asked) == 1
    pd.testing.assert_frame_equal(first, second)


def test_a_number_is_learned_and_who_has_none_is_left_out(study, tmp_path):
    mine = Study(study / "scans", tmp_path / "out", preprocessed=study / "out")
    options = {"spacing_mm": 8.0, "folds": 3, "epochs": 2, "batch_size": 4, "progress": False}
    with pytest.warns(UserWarning, match=r"age is no number for \['sub-03'\]"):
        scores = train(mine, "age", regression=True, confounds=["site"], **options)
    assert {"mae", "r"} <= set(scores.columns)
    assert len(table(tmp_path / "out", "age_predictions")) == PEOPLE - 1
    confounds = table(tmp_path / "out", "age_confounds")
    assert set(confounds["confound"]) == {"site"}
    assert confounds["model"].tolist() == scores["model"].tolist()
    kept = models.load(tmp_path / "out/models/age")
    assert kept.card["classes"][0].startswith("age below ")


def test_heads_may_keep_their_size(study, tmp_path, capsys):
    """The scans lie in MNI space already, so that the two spaces differ by a shift only."""
    command = ("train", study / "scans", tmp_path / "out", "--label=group", *SETTINGS)
    assert main(*command, "--space=rigid") == 0
    kept = models.load(tmp_path / "out/models/group")
    assert kept.card["space"] == "rigid"
    assert models.card_grid(kept.card).is_rigid
    model = f"--model={tmp_path}/out/models/group"
    assert main("explain", study / "scans", tmp_path / "out", model, "--method=gradient") == 0
    name = "sub-05/anat/sub-05_space-{}_res-8_desc-{}.nii.gz"
    seen, grid = grids.read(tmp_path / "out" / name.format("individual", "preproc_T1w"))
    as_it_came, _ = grids.read(study / "scans/sub-05/anat/sub-05_T1w.nii.gz")
    assert grid.is_rigid
    assert np.corrcoef(seen.ravel(), as_it_came.ravel())[0, 1] > 0.97
    _, grid = grids.read(tmp_path / "out" / name.format("MNI152NLin2009aSym", "gradient_map"))
    assert grid == GRID
    with pytest.raises(SystemExit):
        main(*command)
    assert "a training with other space" in capsys.readouterr().err


def own_network(place, classes=2, imports=""):
    """Write a file with a function that builds a network; return how the command calls it."""
    (place / "net.py").write_text(
        f"from torch import nn\n{imports}\n\ndef network():\n"
        "    return nn.Sequential(nn.Conv3d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(1), "
        f"nn.Flatten(), nn.Linear(4, {classes}))\n"
    )
    return f"{place / 'net.py'}:network"


SHORT = {"spacing_mm": 8.0, "folds": 2, "epochs": 1, "batch_size": 4, "progress": False}


def test_a_network_of_ones_own_is_trained_and_copied(study, tmp_path):
    mine = Study(study / "scans", tmp_path / "out", preprocessed=study / "out")
    own = own_network(tmp_path)
    train(mine, "group", network=own, **SHORT)
    kept = models.load(tmp_path / "out/models/group")
    first, second = (network[0].weight for network in kept.networks)
    assert not torch.allclose(first, second)
    assert (
        json.loads((tmp_path / "out/models/group/card.json").read_text())["network"]
        == "net.py:network"
    )
    train(mine, "group", network=own, **SHORT)  # it is there
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text().replace("ReLU", "ELU"))
    with pytest.raises(ValueError, match="holds a training with other network;"):
        train(mine, "group", network=own, **SHORT)


def test_a_network_with_a_single_logit_tells_two_classes_apart(study, tmp_path):
    mine = Study(study / "scans", tmp_path / "out", preprocessed=study / "out")
    train(mine, "group", network=own_network(tmp_path, classes=1), **SHORT)
    found, kept = (
        table(tmp_path / "out", "group_predictions"),
        models.load(mine.output / "models/group"),
    )
    assert set(found["predicted"]) <= {"ill", "well"}
    model = f"--model={tmp_path / 'out/models/group'}"
    flags = [model, "--method=gradient", f"--preprocessed={study / 'out'}"]
    assert main("explain", study / "scans", tmp_path / "out", *flags) == 0
    maps = table(tmp_path / "out", "gradient_scans")
    assert maps["predicted"].tolist() == found["predicted"].tolist()
    assert kept.networks[0][4].out_features == 1


def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(study, tmp_path):
    mine = Study(study / "scans", tmp_path / "out", preprocessed=study / "out")
    three = own_network(tmp_path, classes=3)
    with pytest.raises(ValueError, match=r"\['ill', 'well'\] has one logit .* \(1, 3\); give its"):
        train(mine, "group", network=three, **SHORT)
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="has one output a subject"),
    ):
        train(mine, "age", regression=True, network=three, **SHORT)
    (tmp_path / "neighbour.py").write_text("")
    with pytest.raises(
        ValueError, match=r"imports \['neighbour'\] from its own folder, but it is kept"
    ):
        train(mine, "group", network=own_network(tmp_path, imports="import neighbour"), **SHORT)
    assert not (tmp_path / "out/models").exists()


def test_heads_are_moved_only_on_request(study, tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(models, "moved_heads", lambda volumes, _: looks.append(1) or volumes)
    flags = ["--label=group", *SETTINGS, "--epochs=1", f"--preprocessed={study / 'out'}"]
    assert main("train", study / "scans", tmp_path / "still", *flags) == 0
    assert not looks
    assert main("train", study / "scans", tmp_path / "moved", *flags, "--augment") == 0
    assert looks


def test_the_learning_curve_ends_at_the_scores(study, tmp_path):
    flags = ["--label=group", *SETTINGS, "--epochs=1", f"--preprocessed={study / 'out'}"]
    assert main("train", study / "scans", tmp_path, *flags, "--learning-curve") == 0
    curve = table(tmp_path, "group_learning")
    assert curve["people"].tolist() == [4, 8, 12, 16]
    whole = table(tmp_path, "group_scores").query("model == 'network'")
    pd.testing.assert_frame_equal(curve.iloc[[-1]][whole.columns].reset_index(drop=True), whole)
    assert curve["auc"].nunique() > 1


def test_two_processes_share_a_training_and_one_of_them_speaks(study, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--label=group", *SETTINGS, "--folds=2", "--epochs=1"]
    flags += [f"--preprocessed={study / 'out'}"]
    command = [sys.executable, "-m", "helpers.command", "train", study / "scans", tmp_path]
    ranks = [
        subprocess.Popen(
            [*command, *flags],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "GROUP_RANK": "0",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "TORCHELASTIC_RUN_ID": "test",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "the networks are in" in said[0][0]
    assert said[1][0] == ""
    assert len(table(tmp_path, "group_predictions")) == PEOPLE
    assert not (tmp_path / "models/group/checkpoints").exists()


def test_a_folder_of_nifti_files_with_a_table_is_learned_and_who_is_broken_is_said(
    study, tmp_path, capsys
):
    place = tmp_path / "scans"
    place.mkdir()
    for file in sorted((study / "scans").glob("sub-*/anat/*.nii.gz"))[:10]:
        name = file.name.replace("_T1w", "").removeprefix("sub-")
        shutil.copyfile(file, place / name)
    (place / "00.nii.gz").write_bytes(b"no scan")
    people = pd.read_csv(study / "scans/participants.tsv", sep="\t").head(10)
    people["participant_id"] = people["participant_id"].str.removeprefix("sub-")
    people.to_csv(place / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    flags = ["--label=group", *SETTINGS, "--folds=2", "--epochs=1"]
    for _ in range(2):  # also where all is there already
        with pytest.warns(LeftOutWarning):
            assert main("train", place, tmp_path / "out", *flags) == 1
        assert "broken: 00.nii.gz: " in capsys.readouterr().err
    found = table(tmp_path / "out", "group_predictions", dtype={"participant_id": str})
    assert found["participant_id"].tolist() == [f"{i:02d}" for i in range(1, 10)]
    kept = models.load(tmp_path / "out/models/group")
    assert kept.fold_of == dict(zip(found["participant_id"], found["fold"], strict=True))


def test_the_help_names_every_network():
    assert list(command_train.NETWORKS) == list(models.NETWORKS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--label=diagnosis"], "no column 'diagnosis'"),
        (["--label=age"], r"for example bins=[60] (--bins 60), or learn the number itself (--reg"),
        (["--label=age", "--regression", "--bins", "50"], "leave classes and bins out"),
        (["--label=age", "--bins", "50", "70", "--confounds=site"], "asked of two classes or of a"),
        (["--label=group", "--confounds", "iq"], "no column 'iq'"),
        (["--label=group", "--network=vgg"], "unknown network 'vgg'"),
        (["--label=group", "--folds=13"], "13 folds need at least 13 people"),
        (["--label=age", "--regression", "--confounds", "age"], "confound of itself"),
    ],
)
def test_what_is_refused(study, tmp_path, capsys, more, message):
    flags = ["--spacing-mm=8", "--n-procs=1", f"--preprocessed={study / 'out'}", *more]
    with pytest.raises(SystemExit) as stopped:
        main("train", study / "scans", tmp_path / "out", *flags)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
    assert not (tmp_path / "out/models").exists()
