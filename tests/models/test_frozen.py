"""A network is looked at in one state, whatever surrounds it, and is the very same afterwards."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from helpers import models

SHAPE = (16, 20, 24)


@pytest.fixture
def volumes():
    return torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


class OneLogit(nn.Module):
    """Puts out one number: as a logit, or with a sigmoid behind it."""

    def __init__(self, *behind):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.conv, self.linear = nn.Conv3d(1, 4, 3), nn.Linear(4, 1)
        self.behind = nn.Sequential(*behind)

    def forward(self, volumes):
        features = torch.relu(self.conv(volumes)).mean((2, 3, 4))
        return self.behind(self.linear(features))


def found(model):
    """Return all that must be the same afterwards: the tensors themselves and their bits."""
    tensors = [*model.parameters(), *model.buffers()]
    return (
        [id(tensor) for tensor in tensors],
        [tensor.data_ptr() for tensor in tensors],
        [tensor.dtype for tensor in tensors],
        [tensor.requires_grad for tensor in tensors],
        [module.training for module in model.modules()],
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("fails", [False, True])
def test_the_very_same_tensors_are_back(dtype, fails, volumes):
    model = models.build("course").to(dtype).train()
    model.block2.eval()
    model.block1.requires_grad_(False)
    before = found(model)
    bits = [tensor.clone() for tensor in model.state_dict().values()]
    stopped = pytest.raises(OSError, match="stop") if fails else nullcontext()
    with stopped, models.frozen(model) as network:
        assert network.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        network(volumes)
        if fails:
            raise OSError("stop")
    assert found(model) == before
    assert all(map(torch.equal, bits, model.state_dict().values()))


def test_weights_that_are_shared_stay_shared(volumes):
    model = nn.Sequential(nn.Conv3d(1, 1, 3), nn.Conv3d(1, 1, 3)).half()
    model[1].weight = model[0].weight
    before = found(model)
    with models.frozen(model):
        assert model[0].weight is model[1].weight
        assert model[0].weight.dtype == torch.float32
    assert found(model) == before
    assert model[0].weight is model[1].weight


def test_computes_in_single_precision_whatever_surrounds_it(volumes):
    model = models.build("course")
    expected = models.predict(model, volumes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(models.predict(model, volumes), expected)
    rounded = models.predict(model.bfloat16(), volumes)
    assert torch.equal(rounded, models.predict(model.float(), volumes))
    assert not torch.equal(rounded, expected)


def test_gradients_are_on_also_for_weights_that_were_made_without(volumes):
    with torch.inference_mode():
        model = models.build("course")
    before = found(model)
    for off in (torch.no_grad, torch.inference_mode):
        with off(), models.frozen(model) as network:
            seen = (volumes * 1).requires_grad_()
            (gradient,) = torch.autograd.grad(network(seen).sum(), seen)
            assert gradient.abs().max() > 0
    assert found(model) == before


def test_a_network_without_weights(volumes):
    class Means(nn.Module):
        def forward(self, volumes):
            return torch.stack([volumes.mean((1, 2, 3, 4)), volumes.amax((1, 2, 3, 4))], 1)

    logits = models.predict(Means(), volumes)
    torch.testing.assert_close(logits[:, 0], volumes.mean((1, 2, 3, 4)))


def test_a_network_that_changes_its_input_leaves_the_volumes_alone(volumes):
    class InPlace(nn.Module):
        def forward(self, volumes):
            volumes -= 0.5
            return volumes.flatten(1)[:, :2]

    original = volumes.clone()
    models.predict(InPlace(), volumes)
    assert torch.equal(volumes, original)


def test_one_logit_is_two_classes(volumes):
    model = OneLogit()
    z = model(volumes).detach()[:, 0]
    logits = models.predict(model, volumes)
    torch.testing.assert_close(logits.softmax(1)[:, 1], z.sigmoid())
    assert torch.equal(logits.argmax(1), (z > 0).long())
    targets = torch.tensor([0, 1, 0])
    assert torch.equal(models.target_logits(z[:, None], targets), z * torch.tensor([-1, 1, -1]))
    assert models.resolve_targets(1, logits, 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("behind", [(nn.Sigmoid(),), (nn.Sigmoid(), nn.Flatten())])
def test_a_probability_is_no_logit(behind, volumes):
    with pytest.raises(ValueError, match="ends in a sigmoid.*wrap the network without its last"):
        models.predict(OneLogit(*behind), volumes)
    models.predict(OneLogit(nn.Flatten()), volumes)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda z: (z, z), "puts out a tuple; wrap it in a module whose forward returns"),
        (lambda z: {"logits": z}, "puts out a dict; wrap it"),
        (lambda z: z[:, 0], r"one logit a class, shape \(subject, classes\), got \(3,\)"),
        (lambda z: z[:, :0], r"got \(3, 0\)"),
    ],
)
def test_says_what_to_do_with_other_outputs(output, message, volumes):
    class Other(OneLogit):
        def forward(self, volumes):
            return output(super().forward(volumes))

    with pytest.raises(ValueError, match=message):
        models.predict(Other(), volumes)


def test_says_what_to_do_with_networks_that_hide_their_steps(volumes):
    model = models.build("course").eval()
    for hidden in (torch.jit.trace(model, volumes[:1]), nn.Sequential(torch.jit.script(nn.ReLU()))):
        with pytest.raises(ValueError, match="explain the Python network that it was made from"):
            models.predict(hidden, volumes)
    with pytest.raises(ValueError, match=r"given to torch.compile \(compiled._orig_mod\)"):
        models.predict(torch.compile(model), volumes)
    compiled = models.build("course")
    compiled.block1.compile()
    with pytest.raises(ValueError, match="a compiled network hides its steps"):
        models.predict(compiled, volumes)


@pytest.mark.parametrize("reentrant", [False, True])
def test_says_what_to_do_with_reentrant_checkpoints(reentrant, volumes):
    class Checkpointed(OneLogit):
        def forward(self, volumes):
            return checkpoint(super().forward, volumes, use_reentrant=reentrant)

    model = Checkpointed()
    refused = pytest.raises(ValueError, match="use_reentrant=False") if reentrant else nullcontext()
    with refused, models.frozen(model) as network:
        seen = volumes.clone().requires_grad_()
        torch.autograd.grad(network(seen).sum(), seen)
    assert model.training


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (2, "target must be a class from 0 to 1, got 2"),
        (-1, "target must be a class from 0 to 1, got -1"),
        (torch.tensor([0, 1]), r"one a subject \(3\), whole numbers, got shape \(2,\)"),
        (torch.tensor([0.0, 1, 1]), "whole numbers, got shape .* of torch.float32"),
        (0.5, "whole numbers"),
    ],
)
def test_bad_targets(target, message):
    with pytest.raises(ValueError, match=message):
        models.resolve_targets(target, torch.zeros(3, 2), 3)


class ReadsMemory(nn.Module):
    """Views its feature maps as rows, which torch allows only with the channels first in memory."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.features = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Conv3d(4, 3, 3))
            self.linear = nn.Linear(3 * 12 * 16 * 20, 2)

    def forward(self, volumes):
        return self.linear(self.features(volumes).view(len(volumes), -1))


def test_a_network_that_views_its_features_gets_the_channels_first(volumes):
    model = ReadsMemory()
    expected = model(volumes)
    before = found(model)
    with models.frozen(model) as network:
        assert not model.features[2].weight.is_contiguous()  # the channels are last, at first
        torch.testing.assert_close(network(volumes), expected)
        torch.testing.assert_close(model(volumes), expected)
    assert found(model) == before
    assert model.features[2].weight.is_contiguous()
