"""Is one grouped convolution faster than a loop over subjects? Goal: three times.

A layer from 16 to 32 channels, 8 subjects of 32x32x32 voxels. The peer mixes each subject's kernel
as ours does and then convolves subject after subject, forward and backward.

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
    features = torch.randn(SUBJECTS, CHANNELS[0], SIDE, SIDE, SIDE)
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

    error = float((ours() - loop()).detach().abs().max())
    assert error < 1e-4, f"the grouped convolution differs from the loop by {error:.1e}"
    rows = []
    for what, backward in (("forward", False), ("forward and backward", True)):
        seconds = {ours: [], loop: []}
        for _ in range(REPEATS):
            for side, times in seconds.items():
                started = time.perf_counter()
                if backward:
                    side().square().mean().backward()
                else:
                    with torch.no_grad():
                        side()
                times.append(time.perf_counter() - started)
        ours_s, peer_s = statistics.median(seconds[ours]), statistics.median(seconds[loop])
        rows.append(
            {
                "method": f"conditional convolution, {what}",
                "peer": "loop over subjects",
                "ours_s": ours_s,
                "peer_s": peer_s,
                "ratio": ours_s / peer_s,
                "repeats": REPEATS,
            }
        )
    return rows


if __name__ == "__main__":
    print(pd.DataFrame(measure()).round(3).to_string(index=False))
