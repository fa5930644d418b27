import json

import pytest
import torch

from helpers import cohorts, evaluation, fields, models, warping

SHAPE = (16, 20, 24)


@pytest.fixture
def stored(tmp_path):
    simulator = warping.Simulator(SHAPE, blur_voxels=1.5, seed=3).eval()
    for tensor in (simulator.common, simulator.out.kernels.data):
        torch.nn.init.normal_(tensor)
    card = {"simulator": {"name": "course", "shape": SHAPE, "blur_voxels": 1.5}}
    warping.save_pretrained(simulator, "atrophy", card, seed=2, folder=tmp_path)
    return simulator, tmp_path


def test_what_was_stored_comes_back(stored):
    simulator, folder = stored
    loaded = warping.pretrained("atrophy", seed=2, folder=folder)
    assert not loaded.training
    assert loaded.card["simulator"]["blur_voxels"] == 1.5
    volumes = torch.rand(2, 1, *SHAPE)
    ours, theirs = loaded(volumes, "remove"), simulator(volumes, "remove")
    assert torch.equal(ours.displacement, theirs.displacement)
    assert ours.displacement.any()
    assert not list(folder.glob(".unfinished*"))


def test_missing_and_damaged_weights(stored):
    _, folder = stored
    with pytest.raises(ValueError, match=r"no pretrained simulator 'alcohol'; there are \['atr"):
        warping.pretrained("alcohol", folder=folder)
    path = folder / "atrophy-2.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "simulator": {"name": "course", "shape": [24, 20, 24]}}))
    with pytest.raises(ValueError, match="was made for another network"):
        warping.pretrained("atrophy", seed=2, folder=folder)
    path.write_text(json.dumps(card))
    (folder / "atrophy-2.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        warping.pretrained("atrophy", seed=2, folder=folder)


@pytest.fixture(scope="module", params=["atrophy", "alcohol"])
def people(request):
    return request.param, cohorts.simulate(request.param, subjects=16, seed=31)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shipped_simulators_hold_on_people_and_classifiers_they_have_not_met(people, seed):
    task, cohort = people
    simulator, judge = warping.pretrained(task, seed=seed), models.pretrained(task, seed=seed)
    assert "nothing about any patient" in simulator.card["what"]
    assert seed not in simulator.card["training"]["teachers"]
    expansions = []
    for label, direction, sign in ((0, "inject", 1), (1, "remove", -1)):
        group = cohort[cohort.labels == label]
        with torch.no_grad():
            made = simulator(group.volumes, direction)
        before, after = (
            models.predict(judge, v).diff(dim=1) for v in (group.volumes, made.volumes)
        )
        assert (sign * (after - before) > 0).all()
        assert fields.folding_fraction(made.displacement).max() == 0
        expansions.append(sign * made.log_expansion.mean(0))

    planted = cohort.truth.log_expansion[cohort.labels == 1].mean(0)
    found = sum(expansions) / 2
    inside = (cohort.volumes != 0).float().mean(0) > 0.5
    assert torch.corrcoef(torch.stack([found[inside], planted[inside]]))[0, 1] > 0.5
    for core in cohorts.planted_structures(task, cohort.grid, within=0.5).values():
        assert found[0, core].mean() * planted[0, core].mean() > 0


@pytest.fixture(scope="module")
def strangers():
    return cohorts.simulate("mixed", subjects=40, seed=33)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shipped_simulators_see_what_is_wrong_with_a_person(strangers, seed):
    simulator = warping.pretrained("mixed", seed=seed)
    assert "nothing about any patient" in simulator.card["what"]
    ill, well = strangers[strangers.labels == 1], strangers[strangers.labels == 0]
    brain = (strangers.volumes != 0).float().mean(0)[0] > 0.5
    with torch.no_grad():
        healed, injected = simulator(ill.volumes, "remove"), simulator(well.volumes, "inject")
        left = simulator(well.volumes, "remove")
    found = evaluation.own_deviation(-healed.log_expansion, ill.truth.log_expansion, brain)
    assert found["own"].mean() > 0.5
    assert found["others"].mean() < 0.05
    assert found["between"].mean() > 0.25

    def size(simulation):
        return float(simulation.log_expansion[..., brain].abs().mean())

    assert size(left) < 0.2 * size(injected)
    for simulation in (healed, injected, left):
        assert fields.folding_fraction(simulation.displacement).max() == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_classifiers_that_took_no_part_change_their_minds(strangers, seed):
    simulator = warping.pretrained("mixed", seed=seed)
    taught = simulator.card["training"]["teachers"]
    others = [k for k in range(6) if f"mixed {k}" not in taught]
    assert len(others) == 4
    changed, right = 0, 0
    for label, direction in ((0, "inject"), (1, "remove")):
        group = strangers[strangers.labels == label]
        with torch.no_grad():
            after = simulator(group.volumes, direction).volumes
        for k in others:
            judge = models.pretrained("mixed", seed=k)
            knew = models.predict(judge, group.volumes).argmax(1) == label
            right += int(knew.sum())
            changed += int((models.predict(judge, after[knew]).argmax(1) != label).sum())
    assert changed > 0.9 * right


def test_teachers_of_mixed_come_from_people_of_their_own():
    cards = [
        models.pretrained("mixed-hardened", seed=seed, folder=warping.WEIGHTS).card
        for seed in range(6)
    ]
    assert len({card["training"]["seed"] for card in cards}) == 6
    assert {card["hardening"]["epochs"] for card in cards} == {4}
    others = cohorts.simulate("mixed", subjects=40, seed=32)
    for seed in range(6):
        teacher = models.pretrained("mixed-hardened", seed=seed, folder=warping.WEIGHTS)
        found = models.predict(teacher, others.volumes).argmax(1) == others.labels
        assert found.float().mean() > 0.8
