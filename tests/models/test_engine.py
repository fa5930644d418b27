"""The loop is what it says, it resumes, and every process ends with the same network."""

from itertools import combinations, pairwise

import pytest
import torch
from small import Net, cohort, weights
from torch.nn import functional as F

from helpers import models, processes, runtime
from helpers.models import engine


def test_one_process_is_a_plain_loop_to_the_bit():
    """AdamW, one learning-rate cycle, an order and an augmentation for each epoch, nothing else."""
    people, epochs, steps = cohort(18), 3, 4

    def noisy(volumes, generator):
        return volumes + 0.1 * torch.randn(volumes.shape, generator=generator)

    trained = Net()
    models.train(trained, people, epochs=epochs, batch_size=4, augment=noisy, seed=5)

    plain = Net().to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1.0, weight_decay=1e-2)
    for epoch in range(epochs):
        order = torch.randperm(18, generator=runtime.generator(5, 0, epoch))
        noise = runtime.generator(5, 1, epoch)
        for step in range(steps):
            batch = order[4 * step : 4 * step + 4]
            volumes = noisy(people.volumes[batch], noise)
            rate = engine.one_cycle(epoch * steps + step, epochs * steps, 2e-3)
            optimizer.param_groups[0]["lr"] = rate
            volumes = volumes.contiguous(memory_format=torch.channels_last_3d)
            loss = F.cross_entropy(plain(volumes), people.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert torch.equal(weights(trained), weights(plain))
    assert not trained.training


def test_the_learning_rate_rises_once_and_falls_to_nothing():
    rates = [engine.one_cycle(step, 100, 2.0) for step in range(100)]
    assert max(rates) == rates[30] == 2.0
    assert all(a < b for a, b in pairwise(rates[:31]))
    assert all(a > b for a, b in pairwise(rates[30:]))
    assert rates[0] < 0.1
    assert rates[-1] < 0.01


def test_long_gradients_are_cut_and_short_ones_left():
    """Plain steepest descent of 3 * weight: the gradient is 3 long, whatever the weight is."""
    moved = {}
    for max_norm in (None, 1.0, 10.0):
        model = torch.nn.Linear(1, 1, bias=False)
        before = float(model.weight.detach())
        engine.fit(
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            lambda net, batch, _: {"loss": 3 * net(torch.ones(1, 1)).sum()},
            minimise="loss",
            subjects=4,
            epochs=1,
            batch_size=4,
            learning_rate=0.5,
            seed=0,
            fabric=processes.launched_fabric(),
            max_norm=max_norm,
            progress=False,
        )
        moved[max_norm] = before - float(model.weight.detach())
    assert moved[10.0] == pytest.approx(moved[None])
    assert moved[1.0] == pytest.approx(moved[None] / 3, rel=1e-4)


def test_dropout_differs_from_step_to_step_and_leaves_the_global_generator_alone():
    masks = []
    model = Net(norm=False, dropout=0.5)
    model.dropout.register_forward_hook(
        lambda module, given, made: masks.append((given[0] > 0, made == 0))
    )
    before = torch.get_rng_state()
    models.train(model, cohort(), epochs=2, batch_size=8, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    for (alive, dropped), (alive_too, dropped_too) in combinations(masks, 2):
        same = (dropped == dropped_too)[alive & alive_too].float().mean()
        assert 0.4 < float(same) < 0.6


@pytest.mark.parametrize("epochs", [1, 4])
def test_history_has_the_means_of_an_epoch(epochs):
    people = cohort()
    model = Net(norm=False)
    history = models.train(
        model, people, epochs=epochs, batch_size=16, learning_rate=1e-12, progress=False
    )
    assert list(history) == ["epoch", "loss", "accuracy", "seconds"]
    logits = models.predict(Net(norm=False).eval(), people.volumes)
    assert history["loss"].tolist() == pytest.approx(
        [float(F.cross_entropy(logits, people.labels))] * epochs, rel=1e-5
    )
    accuracy = float((logits.argmax(1) == people.labels).float().mean())
    assert history["accuracy"].tolist() == pytest.approx([accuracy] * epochs)
