"""One contract for every method: what comes back, and that nothing else is left behind."""

import warnings

import pytest
import torch
from networks import network, relative
from torch import nn

from helpers import attribution

SHAPE = (16, 18, 20)
METHODS = attribution.METHODS
FEW = {
    "smoothgrad": {"samples": 3},
    "integrated_gradients": {"steps": 3},
    "expected_gradients": {"samples": 3},
    "occlusion": {"window": 9, "stride": 9},
    "meaningful_perturbation": {"iterations": 3, "ramp": 1, "jitters": (1, 2), "goal": 0.0},
}


def explain(method, model, volumes, target=None, **options):
    """Call a method, with few steps where it takes many."""
    return METHODS[method](model, volumes, target, **FEW.get(method, {}), **options)


@pytest.fixture
def volumes():
    """Coarse patterns: on white noise, the maxima of an untrained network hardly differ."""
    coarse = torch.rand(3, 1, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    return 3 * nn.functional.interpolate(coarse, SHAPE, mode="trilinear")


def course():
    """Build the course network with weights so large that the volumes move the logits.

    Features are strongest in an unblurred volume, and they speak for class 1.
    """
    model = network("course")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv3d):
                module.weight *= 2.5
        model.classifier.weight *= 2
        model.classifier.weight[1].abs_()
        model.classifier.weight[0].abs_().neg_()
        model.classifier.bias.copy_(torch.tensor([5.0, -5.0, 0.0]))
    return model


def state_of(model):
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "trained": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def assert_same(after, before):
    weights, expected = after.pop("weights"), before.pop("weights")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert after == before


def one_and_two_logits(volumes, halved):
    """Build a network with one logit z that speaks for some volumes, and its twin with two."""
    one, two = course(), course()
    row = 1 if halved else 2  # the class that blurring destroys; any class with mixed weights
    weight = one.classifier.weight[row : row + 1].detach()
    one.classifier = nn.Linear(64, 1)
    with torch.no_grad():
        one.classifier.weight.copy_(weight)
        one.classifier.bias.zero_()
        one.classifier.bias -= one(volumes).mean()
        share = 0.5 if halved else 1
        two.classifier = nn.Linear(64, 2)
        two.classifier.weight.copy_(share * torch.cat([-weight, weight]))
        two.classifier.bias.copy_(share * torch.cat([-one.classifier.bias, one.classifier.bias]))
    return one, two


class Stepped(nn.Module):
    """A small network with a step of its own in the middle and one before."""

    def __init__(self, step, before=torch.clone):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.conv, self.linear = nn.Conv3d(1, 4, 3), nn.Linear(4, 3)
        self.step, self.before = step, before

    def forward(self, volumes):
        features = torch.relu(self.step(self.conv(self.before(volumes))))
        return self.linear(features.mean((2, 3, 4)))


class Broken(nn.Module):
    """Fails in the middle of explaining: when its ``fails_in``-th volume passes."""

    def __init__(self, model, fails_in):
        super().__init__()
        self.model, self.left = model, fails_in

    def forward(self, volumes):
        self.left -= len(volumes)
        if self.left <= 0:
            raise RuntimeError("out of memory")
        return self.model(volumes)


@pytest.mark.parametrize("method", list(METHODS))
class TestContract:
    def test_one_map_a_subject(self, method, volumes):
        maps = explain(method, course(), volumes)
        assert maps.shape == volumes.shape
        assert maps.dtype == torch.float32
        assert not maps.requires_grad
        assert maps.isfinite().all()

    def test_target_none_explains_the_prediction(self, method, volumes):
        model = course()
        with torch.no_grad():  # the prediction differs between subjects
            logits = model(volumes)
            model.classifier.bias -= logits.mean(0)
            predicted = model(volumes).argmax(1)
        assert len(set(predicted.tolist())) > 1
        maps = explain(method, model, volumes)
        torch.testing.assert_close(maps, explain(method, model, volumes, predicted))

    def test_each_subject_has_its_own_target(self, method, volumes):
        model, target = course(), torch.tensor([2, 0, 1])
        maps = explain(method, model, volumes, target)
        for i in range(3):
            alone = explain(method, model, volumes[i : i + 1], int(target[i]))
            assert (maps[i : i + 1] - alone).abs().max() <= 1e-4 * alone.abs().max()

    def test_a_logit_that_nothing_moves_gives_a_warned_zero_map(self, method, volumes):
        model = course()
        with torch.no_grad():
            model.classifier.weight[2] = 0
            model.classifier.bias[2] = 0.1
        with pytest.warns(UserWarning, match=r"subjects \[0, 2\] are zero everywhere"):
            maps = explain(method, model, volumes, torch.tensor([2, 1, 2]))
        assert maps[[0, 2]].abs().max() == 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other = explain(method, model, volumes, 1)
        assert other.abs().flatten(1).amax(1).min() > 0

    def test_batches_do_not_matter(self, method, volumes):
        model = course()
        one = explain(method, model, volumes, 1, batch_size=1)
        for batch_size in (2, 7):
            assert relative(explain(method, model, volumes, 1, batch_size=batch_size), one) < 1e-4

    def test_batch_size_bounds_what_passes_the_network_at_a_time(self, method, volumes):
        model, sizes = course(), []
        handle = model.register_forward_hook(lambda m, inputs, out: sizes.append(len(inputs[0])))
        explain(method, model, volumes, batch_size=2)
        handle.remove()
        assert max(sizes) == 2

    def test_model_and_input_are_left_as_they_were(self, method, volumes):
        model = course().train()
        model.block3.eval()
        model.block1.requires_grad_(False)
        model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
        before, original = state_of(model), volumes.clone()
        explain(method, model, volumes, 0)
        assert torch.equal(volumes, original)
        assert volumes.grad is None
        assert not volumes.requires_grad
        assert_same(state_of(model), before)
        assert (model.classifier.weight.grad == 1).all()

    @pytest.mark.parametrize("fails_in", [1, 3])
    def test_left_as_it_was_also_after_an_error(self, method, fails_in, volumes):
        model = Broken(course(), fails_in).train()
        model.model.block1.requires_grad_(False)
        before, original = state_of(model), volumes.clone()
        with pytest.raises(RuntimeError, match="out of memory"):
            explain(method, model, volumes, 0, batch_size=1)
        assert_same(state_of(model), before)
        assert torch.equal(volumes, original)
        assert torch.is_grad_enabled()
        ordinary = torch.ones(1, requires_grad=True)  # no mode is left on: ReLU is ReLU again
        assert torch.autograd.grad(-torch.relu(ordinary), ordinary)[0] == -1

    def test_works_where_gradients_are_off(self, method, volumes):
        model = course()
        expected = explain(method, model, volumes, 1)
        model.requires_grad_(False)
        for off in (torch.no_grad, torch.inference_mode):
            with off():
                maps = explain(method, model, volumes * 1, 1)
            torch.testing.assert_close(maps, expected)
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_mixed_precision_around_it_changes_nothing(self, method, volumes):
        model = course()
        expected = explain(method, model, volumes, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = explain(method, model, volumes, 1)
        torch.testing.assert_close(maps, expected)

    def test_weights_in_double_precision(self, method, volumes):
        single = explain(method, course(), volumes, 1)
        assert relative(explain(method, course().double(), volumes, 1), single) < 1e-3

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_weights_are_computed_with_in_single_precision(
        self, method, dtype, volumes
    ):
        """The oracle is the same network, built in single precision of the rounded weights."""
        half = course().to(dtype)
        single = course()
        single.load_state_dict(half.state_dict())
        before = state_of(half)
        maps = explain(method, half, volumes, 1)
        torch.testing.assert_close(maps, explain(method, single, volumes, 1))
        assert_same(state_of(half), before)

    def test_one_logit_explains_the_sign_that_was_decided(self, method, volumes):
        """The oracle has two logits, z and -z; Meaningful Perturbation's has z/2 and -z/2."""
        perturbation = method == "meaningful_perturbation"
        one, two = one_and_two_logits(volumes, perturbation)
        # At the full price of the area, nothing would be worth blurring for so small a probability.
        options = {"area_weight": 0.1} if perturbation else {}
        predicted = (one(volumes) > 0).long()[:, 0]
        assert len(set(predicted.tolist())) == 2
        expected = explain(method, two, volumes, predicted, **options)
        assert expected.abs().max() > 0
        torch.testing.assert_close(explain(method, one, volumes, **options), expected)
        for target in (0, 1):
            maps = explain(method, one, volumes, target, **options)
            torch.testing.assert_close(maps, explain(method, two, volumes, target, **options))
        with pytest.raises(ValueError, match="target must be a class from 0 to 1, got 2"):
            explain(method, one, volumes, 2)

    @pytest.mark.parametrize(
        ("step", "message"),
        [
            (nn.BatchNorm3d(4, track_running_stats=False), "another one is beside it in the batch"),
            (lambda x: x * x.softmax(0), "another one is beside it in the batch"),
            (lambda x: nn.functional.dropout(x, 0.5), "draws random numbers"),
            (lambda x: x + torch.randn_like(x), "draws random numbers"),
        ],
        ids=["batch norm", "softmax", "dropout", "noise"],
    )
    def test_refuses_what_does_not_depend_on_the_volume_alone(self, method, step, message, volumes):
        model = Stepped(step)
        before = state_of(model)
        with pytest.raises(ValueError, match=message):
            explain(method, model, volumes, 1)
        assert_same(state_of(model), before)

    def test_a_network_may_change_its_input_in_place(self, method, volumes):
        if method == "lrp":
            pytest.skip("refuses a difference, in place or not")
        plain = Stepped(nn.Identity(), before=lambda x: x - 0.5)
        in_place = Stepped(nn.Identity(), before=lambda x: x.sub_(0.5))
        original = volumes.clone()
        maps = explain(method, in_place, volumes, 1)
        torch.testing.assert_close(maps, explain(method, plain, volumes, 1))
        assert torch.equal(volumes, original)

    @pytest.mark.usefixtures("unchecked")
    def test_bad_input(self, method, volumes):
        model = course()
        for target in (3, torch.tensor([0, 1, 3]), -1):
            with pytest.raises(ValueError, match="target must be a class from 0 to 2, got"):
                explain(method, model, volumes, target)
        with pytest.raises(ValueError, match=r"one a subject \(3\)"):
            explain(method, model, volumes, torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="hold NaN"):
            explain(method, model, volumes * float("nan"))
        with pytest.raises(ValueError, match=r"volume\[None, None\]"):
            explain(method, model, volumes[0, 0])
        with pytest.raises(ValueError, match="batch_size must be 1 or more"):
            explain(method, model, volumes, batch_size=0)
        with pytest.raises(ValueError, match="expected a classifier with one logit a class"):
            explain(method, nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU()), volumes)
        with pytest.raises(ValueError, match="one channel, got 2"):
            explain(method, model, volumes.repeat(1, 2, 1, 1, 1))
