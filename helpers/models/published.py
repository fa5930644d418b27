"""The networks of the three papers, as their published code builds them, for any volume size.

Each returns one logit a class, also where the original has a single sigmoid output: one contract
for every method of the course.

References
----------
Kan et al. (2020), arXiv 2006.15969. Liu et al. (2021), arXiv 2102.08239.
Eitel et al. (2022), arXiv 2203.13120; the network is the lab's earlier published prototype.
"""

from jaxtyping import Float
from torch import Tensor, nn


class Kan2020(nn.Module):
    """Sex classification on HCP: three blocks without padding; 322,818 weights at 58x70x58."""

    def __init__(self, classes: int, shape: tuple[int, int, int]):
        super().__init__()
        features = shape
        for _ in range(3):
            features = _shrink(_shrink(features, 3), 2, stride=2)
        self.block1 = _block(1, 32)
        self.block2 = _block(32, 64)
        self.block3 = _block(64, 128)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(128 * _voxels(features, "kan2020", shape), classes)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"]
    ) -> Float[Tensor, "subject classes"]:
        """Return one logit a class."""
        features = self.block3(self.block2(self.block1(volumes)))
        return self.classifier(self.dropout(self.flatten(features)))


class Liu2021(nn.Module):
    """Alzheimer's and alcohol classification on 64x64x64: four padded blocks, two linear layers."""

    def __init__(self, classes: int, shape: tuple[int, int, int]):
        super().__init__()
        features = shape
        for _ in range(4):
            features = _shrink(features, 2, stride=2)
        self.block1 = _block(1, 16, padding=1)
        self.block2 = _block(16, 32, padding=1)
        self.block3 = _block(32, 64, padding=1)
        self.block4 = _block(64, 16, padding=1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.05)
        self.hidden = nn.Linear(16 * _voxels(features, "liu2021", shape), 64)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(64, classes)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"]
    ) -> Float[Tensor, "subject classes"]:
        """Return one logit a class."""
        features = self.block4(self.block3(self.block2(self.block1(volumes))))
        return self.classifier(self.relu(self.hidden(self.dropout(self.flatten(features)))))


class Eitel2022(nn.Module):
    """Prototype for 182x218x182 (1 mm): no normalisation, ELU, strong pooling.

    It pools away a factor of 27, so it needs at least 80 voxels along each axis: the 2 mm grid.
    """

    def __init__(self, classes: int, shape: tuple[int, int, int]):
        super().__init__()
        features = _shrink(_shrink(shape, 3), 3, stride=3)
        features = _shrink(_shrink(features, 3), 3, stride=3)
        features = _shrink(_shrink(_shrink(features, 3), 3), 4, stride=3)
        self.block1 = nn.Sequential(
            nn.Conv3d(1, 8, 3), nn.ELU(), nn.MaxPool3d(3), nn.Dropout3d(0.3)
        )
        self.block2 = nn.Sequential(
            nn.Conv3d(8, 32, 3), nn.ELU(), nn.MaxPool3d(3), nn.Dropout3d(0.3)
        )
        self.block3 = nn.Sequential(nn.Conv3d(32, 64, 3), nn.ELU())
        self.block4 = nn.Sequential(
            nn.Conv3d(64, 64, 3), nn.ELU(), nn.MaxPool3d(4, stride=3), nn.Dropout3d(0.3)
        )
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(64 * _voxels(features, "eitel2022", shape), 100)
        self.elu = nn.ELU()
        self.classifier = nn.Linear(100, classes)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"]
    ) -> Float[Tensor, "subject classes"]:
        """Return one logit a class."""
        features = self.block4(self.block3(self.block2(self.block1(volumes))))
        return self.classifier(self.elu(self.hidden(self.flatten(features))))


def _block(channels_in: int, channels_out: int, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, padding=padding),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(),
        nn.MaxPool3d(2),
    )


def _shrink(shape, kernel: int, stride: int = 1) -> tuple[int, ...]:
    """Return the size that an unpadded convolution or pooling leaves."""
    return tuple((n - kernel) // stride + 1 if n >= kernel else 0 for n in shape)


def _voxels(features: tuple[int, ...], name: str, shape: tuple[int, int, int]) -> int:
    x, y, z = features
    if min(features) < 1:
        raise ValueError(
            f"{name} pools a volume of {tuple(shape)} voxels down to nothing; "
            f"use a finer grid or the course network"
        )
    return x * y * z
