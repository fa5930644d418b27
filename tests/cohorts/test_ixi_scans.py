import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import anatomy, grids
from helpers.cohorts import registration
from helpers.cohorts.ixi_scans import REGISTRY, fetch_ixi, ixi
from helpers.runtime import generator

GRID = grids.mni(8.0)
PEOPLE = {"sub-IXI901": ("31.5", "F"), "sub-IXI902": ("60.1", "M"), "sub-IXI903": ("44.0", "F")}


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A source with three made people, as the repository has it, and its registry."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    root, rows = tmp_path / "source", []
    brain = anatomy.template(GRID)
    for number, (name, (age, sex)) in enumerate(PEOPLE.items()):
        scan = name.removeprefix("sub-") + "-HH-0001"
        noise = torch.rand(GRID.shape, generator=generator(0, number))
        files = {
            "t1w": (f"t1/{scan}_T1.nii.gz", 100 * brain.t1[0] * (1 + 0.1 * noise)),
            "dseg": (f"DLMUSE_seg/{scan}_T1_DLMUSE.nii.gz", 47 * brain.mask[0].float()),
        }
        row = {"participant_id": name, "age": age, "sex": sex, "scan": scan}
        for kind, (path, volume) in files.items():
            content = grids.save(volume, GRID, root / "test_data/processed/IXI" / path).read_bytes()
            row[f"{kind}_bytes"] = len(content)
            row[f"{kind}_sha256"] = hashlib.sha256(content).hexdigest()
        rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "registry.csv", index=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root)) as running:
        running.asked = []
        running.root = root
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def fetch(server, tmp_path):
    return partial(
        fetch_ixi,
        tmp_path / "ixi",
        base_url=f"http://127.0.0.1:{server.server_port}",
        registry=tmp_path / "registry.csv",
        progress=False,
    )


def test_download_makes_a_cohort(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(registration, "register", lambda *_, **__: (np.eye(4), 0.5))
    monkeypatch.setattr(registration, "correct_bias", lambda data, *_: data)
    folder = fetch()
    assert len(server.asked) == 6
    assert "CC BY-SA 3.0" in (folder / "README").read_text()
    options = {"grid": GRID, "cache": tmp_path / "cache", "progress": False}
    cohort = ixi(folder, **options)
    assert cohort.classes == ("F", "M")
    assert cohort.labels.tolist() == [0, 1, 0]
    assert cohort.participants["mask_dice"].min() > 0.9  # the parcellations were used
    assert ixi(folder, "age", bins=[40], **options).labels.tolist() == [0, 1, 1]
    assert len(server.asked) == 6


def test_download_resumes(fetch, server):
    folder = fetch()
    (folder / "sub-IXI902/anat/sub-IXI902_T1w.nii.gz").unlink()
    server.asked.clear()
    fetch()
    assert server.asked == ["/test_data/processed/IXI/t1/IXI902-HH-0001_T1.nii.gz"]


def test_licence_is_printed(fetch, capsys):
    fetch(progress=True)
    assert "licence CC BY-SA 3.0" in capsys.readouterr().out


def test_changed_source_is_refused(fetch, server):
    scan = server.root / "test_data/processed/IXI/t1/IXI902-HH-0001_T1.nii.gz"
    scan.write_bytes(scan.read_bytes() + b"more")
    with pytest.raises(ValueError, match=r"IXI902-HH-0001_T1.nii.gz is not the file"):
        fetch()
    folder = fetch.args[0]
    assert not (folder / "sub-IXI902/anat/sub-IXI902_T1w.nii.gz").exists()
    with pytest.raises(FileNotFoundError, match=r"participants\.tsv"):
        ixi(folder)


def test_file_missing_at_the_source(fetch, server):
    (server.root / "test_data/processed/IXI/t1/IXI903-HH-0001_T1.nii.gz").unlink()
    with pytest.raises(ConnectionError, match=r"IXI903.*could not be downloaded.*call again"):
        fetch()


def test_no_network(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="go online and call again"):
        fetch_ixi(
            tmp_path / "ixi",
            base_url=f"http://127.0.0.1:{server.server_port}",
            registry=tmp_path / "registry.csv",
            progress=False,
        )


def test_registry_of_the_course():
    people = pd.read_csv(REGISTRY)
    assert len(people) == 139
    assert people["participant_id"].is_unique
    assert people["sex"].value_counts().to_dict() == {"F": 72, "M": 67}
    assert people["age"].between(18, 90).all()
    hashes = pd.concat([people["t1w_sha256"], people["dseg_sha256"]])
    assert hashes.str.fullmatch("[0-9a-f]{64}").all()
    assert hashes.is_unique
    assert REGISTRY.stat().st_size < 60_000


def test_folder_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder at"):
        ixi(tmp_path / "nowhere")
