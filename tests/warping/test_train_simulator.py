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
from helpers.warping import training


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


@pytest.fixture
def meter(cohort):
    return known(cohort)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def fit(meter, cohort, **options):
    options = {"epochs": 2, "batch_size": 4, "progress": False, **options}
    return warping.train_simulator(meter, cohort, **options)


def right(meter, cohort):
    return models.predict(meter, cohort.volumes).argmax(1) == cohort.labels


def test_a_simulator_learns_what_the_classifier_knows(meter, cohort):
    assert right(meter, cohort).float().mean() > 0.6
    before = weights(meter).clone()
    simulator, history = fit(meter, cohort, epochs=4)
    assert list(history) == [
        "epoch", *warping.STRENGTHS, "total", "success", "seconds",
    ]  # fmt: skip
    assert history["total"].to_numpy() == pytest.approx(
        history[list(warping.STRENGTHS)].sum(axis=1).to_numpy(), abs=1e-5
    )
    assert history["success"].iloc[-1] == 1
    assert not simulator.training
    assert torch.equal(weights(meter), before)
    assert meter.gain.requires_grad
    assert meter.gain.grad is None
    others = cohorts.simulate("atrophy", subjects=8, seed=1, grid=grids.mni(8.0))
    for direction, sign in warping.DIRECTIONS.items():
        simulation = simulator(others.volumes, direction)
        shift = models.predict(meter, simulation.volumes) - models.predict(meter, others.volumes)
        assert (sign * shift[:, 1] > 0).all()
        assert fields.folding_fraction(simulation.displacement).max() == 0


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
    "simulator, field": lambda people: {
        "simulator": warping.Simulator(people.grid.shape, field="displacement")
    },
    "simulator, blur": lambda people: {
        "simulator": warping.Simulator(people.grid.shape, blur_voxels=1.0)
    },
    "simulator, two": lambda people: {"simulator": warping.TwoSimulators(people.grid.shape)},
    "margin": lambda people: {"margin": 0.5},
    "strength of cycle": lambda people: {"strengths": {"cycle": 0.0}},
    "learning_rate": lambda people: {"learning_rate": 1e-4},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused_by_what_differs(finished, meter, cohort, name):
    asked = {"meter": meter, "cohort": cohort, "epochs": 1, **OTHERS[name](cohort)}
    with pytest.raises(ValueError, match=f"{name.split(',')[0]} is .* in the file and .* now"):
        fit(**asked, checkpoint=finished)


@pytest.mark.parametrize("kind", [warping.Simulator, warping.TwoSimulators])
def test_only_a_fresh_simulator_gets_a_start(meter, cohort, kind):
    """Trained on with a learning rate of almost zero, a trained one stays as it is."""
    simulator, _ = fit(meter, cohort, simulator=kind(cohort.grid.shape), epochs=1)
    before = weights(simulator)
    commons = [value for name, value in simulator.named_parameters() if name.endswith("common")]
    assert all(common.norm() > 0.1 for common in commons)
    again, _ = fit(meter, cohort, simulator=simulator, epochs=1, learning_rate=1e-12)
    torch.testing.assert_close(weights(again), before, atol=1e-9, rtol=0)


@pytest.mark.parametrize("strengths", [{"cycle": 0.0, "identity": 0.0}, {"smoothness": 0.0}])
def test_a_term_of_strength_zero_is_left_out(meter, cohort, strengths):
    _, history = fit(meter, cohort, epochs=1, strengths=strengths)
    for name in warping.STRENGTHS:
        assert (history[name].iloc[0] == 0) == (name in strengths), name


def test_two_simulators_and_a_direct_displacement_train_as_well(meter, cohort):
    simulator = warping.TwoSimulators(cohort.grid.shape, field="displacement")
    trained, history = fit(meter, cohort, simulator=simulator)
    assert trained is simulator
    assert history["success"].iloc[-1] == 1


def test_only_subjects_that_all_classifiers_get_right_are_used(meter, cohort):
    _, _, logits, usable = training._read(meter, cohort)
    assert torch.equal(usable, right(meter, cohort))
    mistaken = usable.nonzero()[:2, 0]
    labels = cohort.labels.clone()
    labels[mistaken] = 1 - labels[mistaken]
    _, _, _, fewer = training._read(meter, replace(cohort, labels=labels))
    assert not fewer[mistaken].any()
    assert int(fewer.sum()) == int(usable.sum()) - 2
    strict = known(cohort, shift=0.4)  # calls fewer people ill
    _, _, _, both = training._read([meter, strict], cohort)
    assert torch.equal(both, usable & right(strict, cohort))
    assert int(both.sum()) < int(usable.sum())
    # One unit lies between the mean logits of the classes, whatever the classifier's own scale.
    ensemble, distances, _, _ = training._read(known(cohort, gain=50.0), cohort)
    louder = training._odds(ensemble, distances, cohort.volumes)
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
    for bad in ({"margin": 0.0}, {"margin": float("nan")}, {"learning_rate": 0.0}, {"epochs": 0}):
        with pytest.raises(ValueError, match="margin and learning_rate must be above 0"):
            fit(meter, cohort, **bad)
    with pytest.raises(ValueError, match="expected strengths of 0 or above"):
        fit(meter, cohort, strengths={"smooth": 1.0})
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
    known(cohort), cohort, epochs=1, batch_size=4, progress=False
)
if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
    torch.save({"weights": [p.detach() for p in simulator.parameters()],
                "total": history["total"].tolist()}, sys.argv[1])
"""


def test_two_processes_give_the_result_of_one(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(TWO_PROCESSES)
    fabric = [str(Path(sys.executable).parent / "fabric"), "run", "--accelerator=cpu"]
    results = []
    for launcher in ([sys.executable], [*fabric, "--devices=2", "--strategy=ddp"]):
        target = tmp_path / "result.pt"
        done = subprocess.run(
            [*launcher, str(script), str(target), str(Path(__file__).parent)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(torch.load(target, weights_only=True))
    one, two = results
    assert two["total"] == pytest.approx(one["total"], rel=1e-4)
    for a, b in zip(one["weights"], two["weights"], strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
