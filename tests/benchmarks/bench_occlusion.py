"""How fast is occlusion? Goal: 25 times as fast as Captum's and MONAI's, with the same map.

One simulated brain of 48x56x48 voxels, a window of 8, a stride of 4, the trained course network.
MONAI returns the logit that is left, not the drop; its windows are Captum's, since the sides divide
by the stride. Its background windows cost it as much as the others, and so do Captum's.

    python tests/benchmarks/bench_occlusion.py
"""

import statistics
import time

import pandas as pd
import torch
from captum.attr import Occlusion
from monai.visualize import OcclusionSensitivity

from helpers import cohorts, models
from helpers.attribution.occlusions import occlusion

WINDOW, STRIDE, TARGET = 8, 4, 1
REPEATS = 3


def measure() -> list[dict]:
    """Return medians, measured in turn; each peer at the batch size that suits it best."""
    model = models.pretrained("lesion")
    volume = cohorts.simulate("lesion", subjects=2).volumes[1:]
    with torch.no_grad():
        logit = model(volume)[0, TARGET]

    def ours():
        return occlusion(model, volume, TARGET, window=WINDOW, stride=STRIDE, progress=False)

    def captum(batch, stride=STRIDE):
        return Occlusion(model).attribute(
            volume,
            sliding_window_shapes=(1, *[WINDOW] * 3),
            strides=(1, *[stride] * 3),
            target=TARGET,
            perturbations_per_eval=batch,
        )

    def monai(batch, stride=STRIDE):
        sensitivity = OcclusionSensitivity(
            model,
            mask_size=WINDOW,
            mode=0.0,
            overlap=1 - stride / WINDOW,
            n_batch=batch,
            activate=False,
        )
        with torch.no_grad():
            left, _ = sensitivity(volume)
        return logit - torch.as_tensor(left[:, TARGET : TARGET + 1])

    covered = torch.nn.functional.max_pool3d((volume != 0).float(), WINDOW, STRIDE)
    rows = []
    for name, peer in {"Captum": captum, "MONAI": monai}.items():
        batch = min((1, 8, 32), key=lambda size: _seconds(peer, size, WINDOW)[0])
        seconds = {"ours": [], "peer": []}
        for _ in range(REPEATS):
            took, maps = _seconds(ours)
            seconds["ours"].append(took)
            took, theirs = _seconds(peer, batch)
            seconds["peer"].append(took)
            error = float((maps - theirs).abs().max() / theirs.abs().max())
            assert error < 1e-4, f"occlusion differs from {name}'s by {error:.1e}"
        ours_s, peer_s = statistics.median(seconds["ours"]), statistics.median(seconds["peer"])
        rows.append(
            {
                "method": "occlusion",
                "peer": name,
                "ours_s": ours_s,
                "peer_s": peer_s,
                "ratio": ours_s / peer_s,
                "repeats": REPEATS,
                "times_faster": peer_s / ours_s,
                "difference": error,
                "peer_batch": batch,
                "windows": covered.numel(),
                "windows_on_tissue": int(covered.sum()),
            }
        )
    return rows


def _seconds(call, *arguments) -> tuple[float, torch.Tensor]:
    started = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - started, result


if __name__ == "__main__":
    print(pd.DataFrame(measure()).to_string(index=False, float_format="%.3g"))
