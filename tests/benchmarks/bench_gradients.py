"""Are the gradient methods as fast as Captum's? Goal: no slower, a ratio of at most 1.0.

Both sides explain four simulated brains of 48x56x48 voxels on the trained course network.
First, their maps have to agree.

    python tests/benchmarks/bench_gradients.py
"""

import statistics
import time
from collections.abc import Callable
from unittest import mock

import captum.attr
import pandas as pd
import torch
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn

from helpers import attribution, cohorts, models, runtime

SUBJECTS, SAMPLES, LAYER = 4, 8, "block4"
NOISE = 0.15
REPEATS = 15


def measure() -> list[dict]:
    """Return medians of ours and Captum's, measured in turn."""
    model = models.pretrained("lesion")
    volumes = cohorts.simulate("lesion", subjects=SUBJECTS).volumes
    volumes = volumes / volumes.amax((1, 2, 3, 4), keepdim=True)  # Captum takes one SD for all
    target = torch.arange(SUBJECTS) % len(model.card["classes"])
    rows = []
    for method, (ours, theirs) in _pairs(model, volumes, target).items():
        with mock.patch("torch.normal", _our_noise(volumes.shape[1:])):
            maps, peer = ours(), theirs().detach().float()
        error = (maps - peer).abs().max() / peer.abs().max()
        assert error < 1e-4, f"{method} differs from Captum's by {error:.1e}"
        seconds = {ours: [], theirs: []}
        for repeat in range(REPEATS):
            # Who comes second finds warm caches: they take turns.
            for side, times in list(seconds.items())[:: 1 if repeat % 2 else -1]:
                started = time.perf_counter()
                side()
                times.append(time.perf_counter() - started)
        ours_s, peer_s = statistics.median(seconds[ours]), statistics.median(seconds[theirs])
        rows.append(
            {
                "method": method,
                "peer": "Captum",
                "ours_s": ours_s,
                "peer_s": peer_s,
                "ratio": ours_s / peer_s,
                "repeats": REPEATS,
            }
        )
    return rows


def _pairs(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, tuple[Callable, Callable]]:
    """Return ours and Captum's, with the same options."""
    layer = models.layer(model, LAYER)
    batch = SUBJECTS  # volumes that pass the network at a time, on both sides

    def input_of(captum_method, **options):
        return lambda: captum_method.attribute(x.clone().requires_grad_(), target=y, **options)

    def captum_lrp():
        for module in model.modules():  # Captum removes the rules when it is done
            if isinstance(module, nn.Conv3d | nn.BatchNorm3d):
                module.rule = EpsilonRule()
        return captum.attr.LRP(model).attribute(x.clone().requires_grad_(), target=y)

    def captum_grad_cam():
        coarse = captum.attr.LayerGradCam(model, layer).attribute(x, y, relu_attributions=True)
        return nn.functional.interpolate(coarse, x.shape[2:], mode="trilinear")

    return {
        "gradient": (
            lambda: attribution.gradient(model, x, y),
            input_of(captum.attr.Saliency(model), abs=False),
        ),
        "input_x_gradient": (
            lambda: attribution.input_x_gradient(model, x, y),
            input_of(captum.attr.InputXGradient(model)),
        ),
        "smoothgrad": (
            lambda: attribution.smoothgrad(
                model, x, y, noise=NOISE, samples=SAMPLES, batch_size=batch, progress=False
            ),
            input_of(
                captum.attr.NoiseTunnel(captum.attr.Saliency(model)),
                nt_samples=SAMPLES,
                nt_samples_batch_size=1,
                stdevs=NOISE,
                abs=False,
            ),
        ),
        "integrated_gradients": (
            lambda: attribution.integrated_gradients(
                model, x, y, steps=SAMPLES, batch_size=batch, progress=False
            ),
            input_of(
                captum.attr.IntegratedGradients(model), n_steps=SAMPLES, internal_batch_size=batch
            ),
        ),
        "guided_backprop": (
            lambda: attribution.guided_backprop(model, x, y),
            input_of(captum.attr.GuidedBackprop(model)),
        ),
        "lrp": (
            lambda: attribution.lrp(model, x, y, rule="epsilon", epsilon=1e-9),
            captum_lrp,
        ),
        "grad_cam": (
            lambda: attribution.grad_cam(model, x, y, layer=LAYER),
            captum_grad_cam,
        ),
        "guided_grad_cam": (
            lambda: attribution.guided_grad_cam(model, x, y, layer=LAYER),
            input_of(captum.attr.GuidedGradCam(model, layer), interpolate_mode="trilinear"),
        ),
    }


def _our_noise(shape) -> Callable:
    """Return a stand-in for torch.normal: at its k-th call, SmoothGrad's k-th pattern."""
    generators = (runtime.generator(0, 1, k) for k in range(SAMPLES))
    return lambda mean, sd: sd * torch.randn(shape, generator=next(generators))


if __name__ == "__main__":
    print(pd.DataFrame(measure()).round(3).to_string(index=False))
