"""Is one grouped convolution faster than a loop over subjects? Goal: three times.

A layer from 16 to 32 channels, 8 subjects of 32x32x32 voxels. The peer mixes each subject's kernel
as ours does and then convolves subject after subject. Backward begins with a given gradient: a loss
over a million numbers would cost both sides as much as our whole layer, and belongs to neither.

Beside both stands what no layer with kernels of its own can beat: an ordinary convolution, one
kernel for all subjects, which is as much arithmetic and nothing else.

    python tests/benchmarks/bench_conditional_convolution.py
"""

import statistics
import time

import pandas as pd
import torch
import torch.nn.functional as F

from helpers import warping

SUBJECTS, CHANNELS, SIDE = 8, (16, 32), 32
REPEATS = 7


def measure() -> list[dict]:
    """Return medians, measured in turn."""
    torch.manual_seed(0)
    layer = warping.CondConv3d(*CHANNELS)
    features = torch.randn(SUBJECTS, CHANNELS[0], SIDE, SIDE, SIDE, requires_grad=True)
    condition = torch.tensor([[1.0], [-1.0]]).repeat(SUBJECTS // 2, 1)

    def ours():
        return layer(features, condition)

    def loop():
        share = layer.routing(features, condition)
        kernels = torch.einsum("se,eoixyz->soixyz", share, layer.kernels)
        biases = share @ layer.biases
        return torch.cat(
            [
                F.conv3d(features[i : i + 1], kernels[i], biases[i], padding=layer.padding)
                for i in range(SUBJECTS)
            ]
        )

    def floor():
        return F.conv3d(features, layer.kernels[0], layer.biases[0], padding=layer.padding)

    given = [features, *layer.parameters()]
    results = {ours: ours(), loop: loop(), floor: floor()}
    upstream = torch.randn_like(results[ours])

    def backward(side):
        return torch.autograd.grad(
            results[side], given, upstream, retain_graph=True, allow_unused=side is floor
        )

    error = float((results[ours] - results[loop]).detach().abs().max())
    assert error < 1e-4, f"the grouped convolution differs from the loop by {error:.1e}"
    for one, other in zip(backward(ours), backward(loop), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=0)

    rows = []
    for what in ("forward", "backward"):
        seconds = {ours: [], loop: [], floor: []}
        for _ in range(REPEATS):
            for side, times in seconds.items():
                started = time.perf_counter()
                if what == "backward":
                    backward(side)
                else:
                    with torch.no_grad():
                        side()
                times.append(time.perf_counter() - started)
        ours_s, peer_s, floor_s = (statistics.median(times) for times in seconds.values())
        rows.append(
            {
                "method": f"conditional convolution, {what}",
                "peer": "loop over subjects",
                "ours_s": ours_s,
                "peer_s": peer_s,
                "ratio": ours_s / peer_s,
                "one_kernel_for_all_s": floor_s,
                "repeats": REPEATS,
            }
        )
    return rows


if __name__ == "__main__":
    print(pd.DataFrame(measure()).round(3).to_string(index=False))
