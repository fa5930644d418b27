"""A checkpoint belongs to one training: the same goes on, any other is refused by name."""

import random
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import torch
from small import Net, cohort, weights

from helpers import models
from helpers.models.checkpoints import Checkpoint


def flipped(volumes, generator):
    return volumes.flip(4)


def noisy(volumes, generator, *, amount=0.1):
    return volumes + amount * torch.randn(volumes.shape, generator=generator)


PEOPLE = cohort()
ASKED = {"people": PEOPLE, "validation": cohort(8, seed=1), "augment": noisy, "epochs": 2}


def fit(path=None, *, network=None, **changed):
    options = {**ASKED, **changed}
    model = Net(dropout=0.2) if network is None else network
    people = options.pop("people")
    history = models.train(
        model, people, **{"batch_size": 4, "checkpoint": path, "progress": False, **options}
    )
    return model, history


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished.safetensors"
    fit(path)
    return path


def test_a_finished_run_is_returned_and_a_killed_one_goes_on(finished, tmp_path, monkeypatch):
    whole, history = fit()
    again, history_again = fit(finished)
    assert torch.equal(weights(whole), weights(again))
    path, real_save = tmp_path / "run.safetensors", Checkpoint.save

    def killed(checkpoint, progress):
        real_save(checkpoint, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(path)
    monkeypatch.setattr(Checkpoint, "save", real_save)
    steps = []
    network = Net(dropout=0.2)
    network.out.register_forward_hook(lambda *_: steps.append(network.training))
    resumed, history_resumed = fit(path, network=network)
    assert sum(steps) == 4  # the second epoch only
    assert torch.equal(weights(whole), weights(resumed))
    measured = history.drop(columns="seconds")
    assert measured.equals(history_again.drop(columns="seconds"))
    assert measured.equals(history_resumed.drop(columns="seconds"))


def louder():
    volumes = PEOPLE.volumes.clone()
    volumes[3, 0, 2, 5, 7] += 1e-3
    return replace(PEOPLE, volumes=volumes)


def strided():
    network = Net(dropout=0.2)
    network.conv.padding_mode = "circular"  # the same weights
    return network


OTHERS = {
    "training volumes": {"people": louder()},
    "training labels": {"people": replace(PEOPLE, labels=1 - PEOPLE.labels)},
    "validation volumes": {"validation": cohort(8, seed=2)},
    "validation labels": {"validation": replace(ASKED["validation"], labels=torch.ones(8).long())},
    "augmentation": {"augment": flipped},
    "augmentation, none": {"augment": None},
    "augmentation, options": {"augment": partial(noisy, amount=0.2)},
    "augmentation, code": {"augment": lambda volumes, generator: volumes},
    "network, initial weights": {"network": Net(dropout=0.2, seed=1)},
    "network, architecture": {"network": strided()},
    "epochs": {"epochs": 3},
    "batch_size": {"batch_size": 8},
    "learning_rate": {"learning_rate": 1e-3},
    "weight_decay": {"weight_decay": 0.0},
    "patience": {"patience": 1},
    "seed": {"seed": 1},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused_by_what_differs(finished, name):
    what = name.split(",")[0]
    with pytest.raises(ValueError, match=f"something else: {what} is [^;]*; remove the file"):
        fit(finished, **OTHERS[name])


def test_another_number_of_processes_is_refused(finished):
    with pytest.raises(ValueError, match="processes is 1 in the file and 2 now"):
        models.checkpoints.keyed.load(finished, key={"processes": 2})


def test_twelve_flipped_bits_are_refused(finished, tmp_path):
    intact, draw = finished.read_bytes(), random.Random(0)
    path = tmp_path / "damaged.safetensors"
    for _ in range(12):
        damaged, place = bytearray(intact), draw.randrange(8 * len(intact))
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged.*remove the file to start anew"):
            fit(path)
    path.write_bytes(intact[:500])
    with pytest.raises(ValueError, match=r"is damaged.*remove the file to start anew"):
        fit(path)


def test_checkpoints_hold_no_pickle(finished):
    assert safetensors.torch.load_file(finished)
    assert not list(finished.parent.glob(".unfinished*"))
