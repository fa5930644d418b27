"""The course's own network: small enough for a laptop, deep enough to be worth explaining."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class CourseNet(nn.Module):
    """Four convolutional blocks, global max pooling, one linear layer.

    Max pooling over the whole volume asks "is it anywhere?", which is the question that a lesion
    poses. A value of the last block can depend on a cube of 66 voxels (264 mm at 4 mm): on all of
    the brain.

    Parameters
    ----------
    classes : int
        Number of logits.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.block1 = nn.Sequential(*_convolution(1, 8), nn.MaxPool3d(2))
        self.block2 = nn.Sequential(*_convolution(8, 16), *_convolution(16, 16), nn.MaxPool3d(2))
        self.block3 = nn.Sequential(*_convolution(16, 32), *_convolution(32, 32), nn.MaxPool3d(2))
        self.block4 = nn.Sequential(*_convolution(32, 64), *_convolution(64, 64))
        self.classifier = nn.Linear(64, classes)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"]
    ) -> Float[Tensor, "subject classes"]:
        """Return one logit a class."""
        features = self.block1(volumes)  # subject  8 x/2 y/2 z/2
        features = self.block2(features)  # subject 16 x/4 y/4 z/4
        features = self.block3(features)  # subject 32 x/8 y/8 z/8
        features = self.block4(features)  # subject 64 x/8 y/8 z/8
        return self.classifier(torch.amax(features, dim=(2, 3, 4)))


class CourseNetWithPlaces(CourseNet):
    """The same four blocks; the linear layer reads every place of the last one.

    Where all brains lie in one space, a place means something: "is it here?" is the question that
    a shrunken hippocampus poses. The network with max pooling did not learn it.

    Parameters
    ----------
    classes : int
        Number of logits.
    shape : tuple of int
        Voxels along x, y, z; the network works for this size only.
    """

    def __init__(self, classes: int, shape: tuple[int, int, int]):
        super().__init__(classes)
        self.classifier = nn.Linear(64 * math.prod(n // 8 for n in shape), classes)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"]
    ) -> Float[Tensor, "subject classes"]:
        """Return one logit a class."""
        features = self.block4(self.block3(self.block2(self.block1(volumes))))
        return self.classifier(features.flatten(1))


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    # BatchNorm has its own offset, so the convolution needs none.
    return [
        nn.Conv3d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(),
    ]
