"""The command itself: help that comes at once, levels, dry runs, cards."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_study import GRID, contents, explain, main

from helpers import anatomy, attribution, grids, models
from helpers.command.arguments import INTENSITIES, METHODS
from helpers.models import cards

HEAVY = ("torch", "monai", "nilearn", "plotly", "sklearn")


def test_the_methods_are_those_of_the_package():
    assert sorted(attribution.METHODS) == list(METHODS)


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["preprocess"],
        ["train"],
        ["explain"],
        ["trust"],
        ["simulate"],
        ["maximize"],
        ["group"],
        ["report"],
    ],
)
def test_help_teaches_and_imports_nothing_heavy(verb):
    code = (
        "import sys\nfrom helpers.command import main\n"
        f"try:\n    main({[*verb, '--help']})\nexcept SystemExit as ended:\n"
        f"    loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "    sys.exit(f'{ended.code} {loaded}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "0 []"
    assert f"brain-cnns {verb[0] if verb else 'preprocess'} my_study results" in done.stdout


def test_pip_installs_the_command():
    script = Path(sys.executable).with_name("brain-cnns")
    done = subprocess.run([script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: brain-cnns" in done.stderr


def test_participant_and_group_levels_make_what_one_run_makes(small, tmp_path, finished):
    out = tmp_path / "out"
    for name in "ab":
        assert explain(small, out, "participant", "--participant-label", name) == 0
    assert not (out / "group").exists()
    assert explain(small, out, "group") == 0
    assert contents(out) == contents(finished)


def test_some_people_leave_the_tables_to_a_later_run(small, tmp_path, finished):
    assert explain(small, tmp_path / "out", "--participant-label", "a") == 0
    assert not (tmp_path / "out/group").exists()
    assert explain(small, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(finished)


def test_the_group_level_names_who_is_not_done_yet(small, tmp_path, capsys):
    assert explain(small, tmp_path / "out", "participant", "--participant-label", "a") == 0
    assert explain(small, tmp_path / "out", "group") == 1
    assert "broken: b.nii.gz: it has not been explained yet" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "out/group/desc-gradient_scans.tsv", sep="\t")
    assert table["problem"].notna().tolist() == [False, True]


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(small, tmp_path, capsys):
    out = tmp_path / "out"
    assert explain(small, out, "--dry-run") == 0
    assert "2 of 2 scans are to be done" in capsys.readouterr().out
    assert not out.exists()
    assert explain(small, out, "participant", "--participant-label", "a") == 0
    assert main("preprocess", small, out, "--dry-run", "--spacing-mm=8") == 0
    before = contents(out)
    capsys.readouterr()
    assert explain(small, out, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[0] == "b.nii.gz"
    assert contents(out) == before


@pytest.fixture
def network(tmp_path):
    """A network from elsewhere: how it is called, and what the command needs to know of it."""
    (tmp_path / "net.py").write_text(
        "from helpers import models\n\n\ndef network():\n"
        f"    return models.build('course', 2, {GRID.shape})\n"
    )
    torch.save(models.build("course", 2, GRID.shape).state_dict(), tmp_path / "net.pt")
    flags = [f"--weights={tmp_path}/net.pt", "--spacing-mm=8", "--shape", *GRID.shape]
    return f"{tmp_path}/net.py:network", flags


@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_a_card_is_drafted_by_asking_the_network(tmp_path, ending):
    (tmp_path / "net.py").write_text(
        "from helpers import models\n\n\ndef network():\n"
        f"    return models.build('course', 3, {GRID.shape})\n"
    )
    torch.save(models.build("course", 3, GRID.shape).state_dict(), tmp_path / "net.pt")
    source, card = f"{tmp_path}/net.py:network", tmp_path / f"net{ending}"
    flags = [f"--weights={tmp_path}/net.pt", "--spacing-mm=8", "--shape", *GRID.shape]
    assert main("card", source, card, *flags) == 0
    found = models.load(source, weights=tmp_path / "net.pt").card
    assert found["classes"] == ["class 0", "class 1", "class 2"]
    assert models.card_grid(found) == GRID


def test_a_card_says_names_and_intensities_and_is_not_overwritten(network, capsys):
    source, flags = network
    card = Path(source).parent / "net.toml"
    named = ["--classes", "a", "b", "--intensity=zscore"]
    assert main("card", source, card, *flags, *named) == 0
    assert models.read_card(card) == {
        "classes": ["a", "b"],
        "shape": list(GRID.shape),
        "spacing_mm": 8.0,
        "intensity": "zscore",
    }
    assert main("card", source, card, *flags, *named) == 0
    for asked, message in (
        ([card], "net.toml is there already and says something else"),
        ([card.with_name("three.toml"), "--classes", "a", "b", "c"], "tells 2 classes apart, got"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main("card", source, asked[0], *flags, *asked[1:])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert set(INTENSITIES) == set(cards.INTENSITIES)


def test_a_card_needs_a_name_that_says_its_kind(network, capsys):
    source, flags = network
    with pytest.raises(SystemExit) as stopped:
        main("card", source, Path(source).with_name("net.card"), *flags)
    assert stopped.value.code == 2
    assert "a card is called .toml or .json" in capsys.readouterr().err


def test_a_scan_that_was_prepared_is_explained_as_it_was_prepared(small, tmp_path, monkeypatch):
    """Trained on prepared scans, a network must see prepared scans."""
    monkeypatch.setattr(
        "helpers.cohorts.registration.register",
        lambda *_, **__: (torch.eye(4).double().numpy(), 0.5),
    )
    out = tmp_path / "out"
    assert main("preprocess", small, out, "--spacing-mm=8", "--n-procs=1") == 0
    seen = []
    real = attribution.METHODS["gradient"]
    monkeypatch.setitem(
        attribution.METHODS, "gradient", lambda m, v, t: seen.append(v) or real(m, v, t)
    )
    assert explain(small, out) == 0
    for volume, name in zip(seen, "ab", strict=True):
        file = f"{name}_space-MNI152NLin2009aSym_res-8_desc-preproc_T1w.nii.gz"
        assert (volume[0, 0].numpy() == grids.read(out / file)[0]).all()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("sub-01_dseg.nii.gz", "on the scan of sub-01"),
        ("sub-01_ses-2_space-T1w_dseg.nii.gz", "in the space 'T1w'"),
        ("atlas_space-fsnative_dseg.nii.gz", "in the space 'fsnative'"),
    ],
)
def test_a_persons_own_segmentation_is_no_atlas(tmp_path, capsys, small, name, where):
    tissues = anatomy.atlas(GRID)
    grids.save(tissues.labels[None].float(), GRID, tmp_path / name)
    with pytest.raises(SystemExit) as stopped:
        explain(small, tmp_path / "out", f"--atlas={tmp_path / name}", "--atlas-names=none.csv")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"lies {where}, but an atlas of all scans lies in MNI space" in said
    assert "--segmentations" in said


@pytest.mark.parametrize("start", ["sub-01_space-MNI152NLin6Asym", "tpl-MNI152_atlas-Schaefer"])
def test_names_may_say_that_labels_lie_in_mni_space(tmp_path, small, start):
    tissues = anatomy.atlas(GRID)
    grids.save(tissues.labels[None].float(), GRID, tmp_path / f"{start}_dseg.nii.gz")
    rows = [f"{label},{name}" for label, name in tissues.names.items()]
    (tmp_path / "names.csv").write_text("\n".join(["index,name", *rows]))
    named = [f"--atlas={tmp_path / f'{start}_dseg.nii.gz'}", f"--atlas-names={tmp_path}/names.csv"]
    assert explain(small, tmp_path / "out", *named) == 0
    found = pd.read_csv(tmp_path / "out/group/desc-gradient_regions.tsv", sep="\t")
    assert set(found["region"]) == set(tissues.names.values())
