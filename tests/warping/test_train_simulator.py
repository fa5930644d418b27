"""A classifier whose answer is known, networks that resume, and requests that make no sense."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import cohorts, fields, grids, models, warping
from helpers.models.checkpoints import Checkpoint
from helpers.warping import common, potentials, training
from helpers.warping.readers import read


class PatternReader(nn.Module):
    """A linear classifier with a known answer: how much the brain looks like a given pattern."""

    def __init__(self, pattern, level, *, gain=1.0, logits=2):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.register_buffer("pattern", pattern)
        self.level, self.logits = level, logits

    def forward(self, volumes):
        score = self.gain * (torch.einsum("scxyz,cxyz->s", volumes, self.pattern) - self.level)
        return torch.stack([torch.zeros_like(score), score], dim=1)[:, -self.logits :]


def known(cohort, *, shift=0.0, **options):
    """Return the reader of the difference between a cohort's mean patient and mean control."""
    ill, well = (cohort.volumes[cohort.labels == k].mean(0) for k in (1, 0))
    pattern = (ill - well) / (ill - well).square().sum()
    middle = float((pattern * (ill + well)).sum()) / 2
    return PatternReader(pattern, middle + shift, **options).eval()


@pytest.fixture(scope="module")
def cohort():
    return cohorts.simulate("atrophy", subjects=16, grid=grids.mni(8.0))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """A common potential that is found in a second is good enough here."""
    monkeypatch.setattr(common, "_ASKING_STEPS", 10)
    monkeypatch.setattr(common, "_STEP_SIZE", 0.3)
    monkeypatch.setattr(common, "_SEEING_STEPS", 10)


@pytest.fixture
def meter(cohort):
    return known(cohort)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def fit(meter, cohort, **options):
    options = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 3e-4,
        "progress": False,
        **options,
    }
    return warping.train_simulator(meter, cohort, **options)


def right(meter, cohort):
    return models.predict(meter, cohort.volumes).argmax(1) == cohort.labels


def test_a_simulator_learns_what_the_classifier_knows(meter, cohort):
    """From this few people, and with eyes that have never seen, it learns to inject at least."""
    before = weights(meter).clone()
    simulator, history = fit(meter, cohort, epochs=15, strengths={"undo": 0.0})
    assert list(history) == [
        "epoch", *warping.STRENGTHS, "total", "success", "seconds",
    ]  # fmt: skip
    assert history["total"].to_numpy() == pytest.approx(
        history[list(warping.STRENGTHS)].sum(axis=1).to_numpy(), rel=1e-5
    )
    assert history["logit"].iloc[-5:].mean() < 0.8 * history["logit"].iloc[0]
    assert history["success"].iloc[0] == 0
    assert not simulator.training
    assert torch.equal(weights(meter), before)
    assert meter.gain.requires_grad
    assert meter.gain.grad is None
    others = cohorts.simulate("atrophy", subjects=8, seed=1, grid=grids.mni(8.0))
    simulation = simulator(others.volumes, "inject")
    before, after = (models.predict(meter, v)[:, 1] for v in (others.volumes, simulation.volumes))
    assert (after > before).all()
    assert fields.folding_fraction(simulation.displacement).max() == 0


def test_lessons_are_learnt(meter, cohort):
    _, history = fit(meter, cohort, epochs=15, strengths={"logit": 0.0})
    assert history["undo"].iloc[-5:].mean() < 0.7 * history["undo"].iloc[0]


def test_a_classifier_with_one_logit_teaches_the_same(meter, cohort):
    two, _ = fit(meter, cohort, epochs=1)
    one, _ = fit(known(cohort, logits=1), cohort, epochs=1)
    assert torch.equal(weights(one), weights(two))


def test_the_same_seed_gives_the_same_simulator(meter, cohort):
    first, _ = fit(meter, cohort, epochs=1)
    again, _ = fit(meter, cohort, epochs=1)
    other, _ = fit(meter, cohort, epochs=1, seed=1)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_resuming_after_a_kill_gives_the_uninterrupted_run(meter, cohort, tmp_path, monkeypatch):
    whole, history = fit(meter, cohort, epochs=2)
    path, real_save = tmp_path / "run.safetensors", Checkpoint.save

    def killed(checkpoint, progress):
        real_save(checkpoint, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(meter, cohort, epochs=2, checkpoint=path)
    monkeypatch.setattr(Checkpoint, "save", real_save)
    resumed, resumed_history = fit(meter, cohort, epochs=2, checkpoint=path)
    assert torch.equal(weights(whole), weights(resumed))
    measured = [*warping.STRENGTHS, "total", "success"]
    assert resumed_history[measured].equals(history[measured])


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished.safetensors"
    fit(known(cohort), cohort, epochs=1, checkpoint=path)
    return path


OTHERS = {
    "training volumes": lambda people: {"cohort": replace(people, volumes=1.01 * people.volumes)},
    "training labels": lambda people: {
        "meter": known(people, shift=1e-6, gain=-1.0),
        "cohort": replace(people, labels=1 - people.labels),
    },
    "classifiers": lambda people: {"meter": known(people, shift=1e-6)},
    "classifiers, one more": lambda people: {"meter": [known(people), known(people)]},
    "simulator, initial weights": lambda people: {
        "simulator": warping.Simulator(people.grid.shape, seed=1)
    },
    "simulator, blur": lambda people: {
        "simulator": warping.Simulator(people.grid.shape, blur_voxels=1.0)
    },
    "simulator, published": lambda people: {
        "simulator": warping.build("liu2021", people.grid.shape)
    },
    "strength of logit": lambda people: {"strengths": {"logit": 0.0}},
    "learning_rate": lambda people: {"learning_rate": 1e-4},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused_by_what_differs(finished, meter, cohort, name):
    asked = {"meter": meter, "cohort": cohort, "epochs": 1, **OTHERS[name](cohort)}
    with pytest.raises(ValueError, match=f"{name.split(',')[0]} is .* in the file and .* now"):
        fit(**asked, checkpoint=finished)


def test_only_a_fresh_simulator_gets_a_common_potential(meter, cohort):
    """Trained on with a learning rate of almost zero, a trained one stays as it is."""
    simulator, _ = fit(meter, cohort, epochs=1)
    before, common = weights(simulator), simulator.common.clone()
    assert common.norm() > 0.1
    again, _ = fit(meter, cohort, simulator=simulator, epochs=1, learning_rate=1e-12)
    torch.testing.assert_close(weights(again), before, atol=1e-9, rtol=0)
    assert torch.equal(again.common, common)


@pytest.mark.parametrize("name", warping.STRENGTHS)
def test_a_term_of_strength_zero_is_left_out(meter, cohort, name):
    _, history = fit(meter, cohort, epochs=1, strengths={name: 0.0})
    for term in warping.STRENGTHS:
        assert (history[term].iloc[0] == 0) == (term == name), term


def test_the_published_simulator_trains_with_the_published_terms(meter, cohort):
    simulator = warping.build("liu2021", cohort.grid.shape)
    trained, history = fit(meter, cohort, simulator=simulator, learning_rate=2e-4)
    assert trained is simulator
    assert {"logit_shift", "slope", "cycle"} < set(history)
    with pytest.raises(ValueError, match="expected strengths of 0 or above for some of"):
        fit(meter, cohort, simulator=simulator, strengths={"undo": 1.0})


def test_a_simulator_sees_with_the_eyes_of_all_its_classifiers(cohort, monkeypatch):
    def anything(readers, cohort, typical, differences, **options):
        return torch.ones(potentials.control_points(cohort.grid.shape))

    monkeypatch.setattr(training, "common_potential", anything)
    networks = [
        models.build("course_with_places", 2, cohort.grid.shape, seed=seed).eval()
        for seed in (0, 1)
    ]
    labels = torch.ones(len(cohort), dtype=torch.long)
    for network in networks:  # half of the people are ill for the first one, and those for both
        odds = models.predict(network, cohort.volumes).diff(dim=1)[:, 0]
        network.classifier.bias.data[0] += odds.median()
        labels &= models.predict(network, cohort.volumes).argmax(1)
    people = replace(cohort, labels=labels)
    simulator, _ = fit(networks, people, epochs=1, batch_size=2)
    for network, eyes in zip(networks, simulator.eyes, strict=True):
        for block, eye in zip(("block1", "block2", "block3", "block4"), eyes, strict=True):
            oracle = getattr(network, block).state_dict()
            assert all(torch.equal(value, oracle[name]) for name, value in eye.state_dict().items())


def test_only_subjects_that_all_classifiers_get_right_are_used(meter, cohort):
    _, logits, usable = read(meter, cohort)
    assert torch.equal(usable, right(meter, cohort))
    mistaken = usable.nonzero()[:2, 0]
    labels = cohort.labels.clone()
    labels[mistaken] = 1 - labels[mistaken]
    _, _, fewer = read(meter, replace(cohort, labels=labels))
    assert not fewer[mistaken].any()
    assert int(fewer.sum()) == int(usable.sum()) - 2
    strict = known(cohort, shift=0.4)  # calls fewer people ill
    _, _, both = read([meter, strict], cohort)
    assert torch.equal(both, usable & right(strict, cohort))
    assert int(both.sum()) < int(usable.sum())
    # One unit lies between the mean logits of the classes, whatever the classifier's own scale.
    readers, _, _ = read(known(cohort, gain=50.0), cohort)
    louder = readers(cohort.volumes)
    torch.testing.assert_close(louder, logits, atol=1e-4, rtol=1e-4)
    distance = logits[cohort.labels == 1].mean() - logits[cohort.labels == 0].mean()
    assert float(distance) == pytest.approx(1.0, abs=1e-4)


def test_bad_requests(meter, cohort):
    with pytest.raises(ValueError, match=r"in training mode; call model.eval"):
        fit(known(cohort).train(), cohort)
    three = nn.Sequential(known(cohort), nn.ConstantPad1d((0, 1), 0.0)).eval()
    with pytest.raises(ValueError, match="expected classifiers of 2 classes, got 3"):
        fit(three, cohort)
    with pytest.raises(ValueError, match="classifier 1 gets 0 of 8 subjects of class 1 right"):
        fit([meter, known(cohort, shift=100.0)], cohort)
    with pytest.raises(ValueError, match="subjects of two classes, without and with a disease"):
        fit(meter, cohort[cohort.labels == 1])
    with pytest.raises(ValueError, match="expected at least one classifier, got none"):
        fit([], cohort)
    with pytest.raises(ValueError, match="batch_size 99 is more than the"):
        fit(meter, cohort, batch_size=99)
    for bad in ({"learning_rate": float("nan")}, {"learning_rate": 0.0}, {"epochs": 0}):
        with pytest.raises(ValueError, match="learning_rate must be above 0, epochs and batch"):
            fit(meter, cohort, **bad)
    with pytest.raises(ValueError, match="expected strengths of 0 or above"):
        fit(meter, cohort, strengths={"cycle": 1.0})
    with pytest.raises(ValueError, match="takes volumes of shape"):
        fit(meter, cohort, simulator=warping.Simulator((16, 16, 16)))


TWO_PROCESSES = """
import sys
import torch
from helpers import cohorts, grids, warping

sys.path.insert(0, sys.argv[2])
from test_train_simulator import known

torch.set_num_threads(1)
cohort = cohorts.simulate("atrophy", subjects=12, grid=grids.mni(8.0))
simulator, history = warping.train_simulator(
    known(cohort), cohort, epochs=2, batch_size=4, learning_rate=2e-4, progress=False
)
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
torch.save({"weights": [p.detach() for p in simulator.parameters()],
            "common": simulator.common,
            "total": history["total"].tolist()}, sys.argv[1] + str(rank))
"""


def test_two_processes_train_one_simulator(tmp_path):
    """Each draws lessons of its own, so the result is not that of one process, but much like it."""
    script = tmp_path / "job.py"
    script.write_text(TWO_PROCESSES)
    fabric = [str(Path(sys.executable).parent / "fabric"), "run", "--accelerator=cpu"]
    launchers = {
        "one": [sys.executable],
        "two": [*fabric, "--devices=2", "--strategy=ddp"],
    }
    for name, launcher in launchers.items():
        done = subprocess.run(
            [*launcher, str(script), str(tmp_path / name), str(Path(__file__).parent)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    alone, first, second = (
        torch.load(tmp_path / name, weights_only=True) for name in ("one0", "two0", "two1")
    )
    for a, b in zip(first["weights"], second["weights"], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(first["common"], alone["common"])
    assert first["total"] == second["total"] == pytest.approx(alone["total"], rel=0.5)
