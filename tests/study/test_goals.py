"""What somebody with a folder of scans wants, each by one command, on the shipped real brains.

How well anything is found is tested elsewhere. Here all goes into one folder: the verbs work
together, on people and not on phantoms. That scans come into one space is in test_derivatives.py.
"""

import pandas as pd
import pytest
import torch
from monai.networks.nets import DenseNet121
from small_study import main
from test_derivatives import found_wrong

from helpers import cohorts, grids, models

NAMES = ["sub-01", "sub-03", "sub-04", "sub-05", "sub-52", "sub-53", "sub-55", "sub-58"]
SEX = "--model=sex"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four women and four men as BIDS, on voxels of 4 mm, and a DenseNet121 with its card."""
    place = tmp_path_factory.mktemp("goals")
    real = cohorts.real()
    names = real.participants["participant_id"].tolist()
    people = real[[names.index(name) for name in NAMES]]
    for volume, name in zip(people.volumes, NAMES, strict=True):
        grids.save(volume, people.grid, place / f"study/{name}/anat/{name}_T1w.nii.gz")
    columns = ["participant_id", "age", "sex"]
    people.participants[columns].to_csv(place / "study/participants.tsv", sep="\t", index=False)
    (place / "net.py").write_text(
        "from monai.networks.nets import DenseNet121\n\n\n"
        "def network():\n    return DenseNet121(spatial_dims=3, in_channels=1, out_channels=2)\n"
    )
    torch.manual_seed(0)
    network = DenseNet121(spatial_dims=3, in_channels=1, out_channels=2)
    torch.save(network.state_dict(), place / "net.pt")
    card = {"classes": ["F", "M"], "shape": [40, 48, 40], "spacing_mm": 4.0}
    models.write_card(card, place / "net.toml")
    return place


@pytest.fixture(scope="module")
def run(place):
    def run(verb, *options):
        assert main(verb, place / "study", place / "out", *options) == 0

    return run


@pytest.fixture(scope="module")
def trained(run):
    run("train", "--label=sex", "--folds=2", "--epochs=1", "--batch-size=4", "--n-procs=1")


@pytest.fixture(scope="module")
def explained(place, run, trained):
    """By the networks that were trained here, and by one that came as a `.pt`."""
    run("explain", f"--model={place / 'out/models/sex'}", "--method=gradient", "--target=M")
    net = [f"--model={place / 'net.py'}:network", f"--weights={place / 'net.pt'}"]
    run("explain", *net, "--method=grad_cam", "--layer=features.denseblock2", "--target=M")


@pytest.fixture(scope="module")
def everything(place, run, explained):
    run("group", "--method=gradient", "--label=sex", "--permutations=60", "--level=0.1")
    shortcut = ["--effect=tag", "--model=shortcut", "--folds=2", "--method", "gradient"]
    run("trust", *shortcut)
    run("simulate", SEX, "--steps=2", "--participant-label", "01", "52")
    run("simulate", SEX, "--steps=2", "--jobs=2", "--executor=local")
    run("maximize", SEX, "--target=male", "--steps=2")
    run("report")
    return place / "out"


def table(out, name):
    return pd.read_csv(out / "group" / name, sep="\t")


def test_each_verb_has_its_table_of_all(everything):
    for kind in ("gradient", "gradcam", "simulated"):
        found = table(everything, f"desc-{kind}_scans.tsv")
        assert found["participant_id"].tolist() == NAMES
        assert found["problem"].isna().all()
    assert table(everything, "desc-sex_scores.tsv")["model"].iloc[0] == "network"
    assert len(table(everything, "desc-feature_pictures.tsv")) == 4
    assert list((everything / "group").glob("*_desc-gradientSex_t.nii.gz"))


def test_nobody_is_explained_by_a_network_that_has_seen_her(everything):
    folds = pd.read_csv(everything / "models/sex/folds.tsv", sep="\t")
    own = table(everything, "desc-gradient_scans.tsv").merge(folds, on="participant_id")
    assert (own["fold_x"] == own["fold_y"]).all()


def test_of_four_who_have_the_tag_nothing_is_concluded(everything):
    verdicts = table(everything, "desc-trusttag_scores.tsv")["verdict"].dropna()
    assert verdicts.tolist() == ["no verdict"]


def test_everything_stands_on_one_page(everything):
    page = (everything / "report.html").read_text()
    for section in (
        "How well sex can be predicted",
        "What the maps of gradient say together",
        "What the maps of grad_cam say together",
        "Do maps find what was planted here?",
        "Which deformations does the network ask for?",
        "What does the network respond to?",
        "Every scan",
    ):
        assert f"<h2>{section}</h2>" in page


def test_the_validator_finds_nothing_wrong_in_all_of_it(everything):
    wrong, _ = found_wrong(everything)
    assert not wrong
