"""Conditional convolution: one layer whose kernel depends on what is asked, and of whom.

References
----------
Yang, Bender, Le, Ngiam (2019), CondConv: conditionally parameterized convolutions for efficient
inference. Liu, Adeli, Pohl, Zhao (2021), arXiv 2102.08239: in 3D, to couple two simulators.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class CondConv3d(nn.Module):
    """A convolution whose kernel is mixed anew for each subject.

    There are several kernels, the experts. A linear layer looks at the mean of every input channel
    and at the condition; its sigmoid says how much of each expert goes into the subject's kernel.
    Mixing kernels costs next to nothing; mixing the results of all experts would cost one
    convolution each.

    Parameters
    ----------
    channels_in, channels_out : int
    kernel_size, stride : int
        The kernel is odd and padded with zeros: with stride 1 the size stays as it is.
    experts : int
        Default 3, as published.

    Examples
    --------
    >>> import torch
    >>> from helpers import warping
    >>> layer = warping.CondConv3d(2, 4)
    >>> features, condition = torch.rand(5, 2, 6, 7, 8), torch.ones(5, 1)
    >>> tuple(layer(features, condition).shape)
    (5, 4, 6, 7, 8)
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        experts: int = 3,
    ):
        super().__init__()
        if experts < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"expected one expert or more and an odd kernel, got {experts} and {kernel_size}"
            )
        self.stride, self.padding = stride, kernel_size // 2
        layers = [nn.Conv3d(channels_in, channels_out, kernel_size) for _ in range(experts)]
        self.kernels = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.biases = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))
        self.router = nn.Linear(channels_in + 1, experts)

    def routing(
        self,
        features: Float[Tensor, "subject channel x y z"],
        condition: Float[Tensor, "subject 1"],
    ) -> Float[Tensor, "subject expert"]:
        """Return how much of each expert a subject gets, from 0 to 1."""
        return torch.sigmoid(self.router(torch.cat([features.mean((2, 3, 4)), condition], dim=1)))

    def forward(
        self,
        features: Float[Tensor, "subject channel x y z"],
        condition: Float[Tensor, "subject 1"],
    ) -> Float[Tensor, "subject channel2 x2 y2 z2"]:
        """Convolve every subject with its own kernel, all of them in one call."""
        share = self.routing(features, condition)
        kernels = torch.einsum("se,eoixyz->soixyz", share, self.kernels)
        # A group of channels is a subject: group s sees only its own features and its own kernel.
        convolved = F.conv3d(
            rearrange(features, "s i x y z -> 1 (s i) x y z"),
            rearrange(kernels, "s o i x y z -> (s o) i x y z"),
            (share @ self.biases).flatten(),
            stride=self.stride,
            padding=self.padding,
            groups=len(features),
        )
        return rearrange(convolved, "1 (s o) x y z -> s o x y z", s=len(features))
