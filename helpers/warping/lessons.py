"""What a simulator is taught with: healthy brains, of which it is known what was done to them.

The common potential is injected at random places and in random doses. Whoever did it knows what has
to be removed, and what a typical patient has beyond it: the flow of minus a potential undoes the
flow of the potential exactly. Beside these lessons stand real people, with and without the disease.
Nobody knows what they have; but classifiers should see a typical person of the other class in the
end.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers import fields
from helpers.warping import potentials
from helpers.warping.readers import Reading
from helpers.warping.simulators import DIRECTIONS, Simulator, deform, other_class, signs

STRENGTHS = {"undo": 1.0, "logit": 0.5}
SPARED, LARGEST_DOSE = 0.5, 4.0  # half of the places are spared, and the mean dose is 1
UNTOUCHED = 0.125  # share of lessons in which nothing is done at all
PATCH_POINTS = 1.0  # how far doses reach: standard deviation in control points, 16 mm
NOISE = 0.05  # largest standard deviation: a brain that is interpolated once more has less of it
_DRAWN = 256  # dose maps that say how large injections are at each place
_INJECT, _REMOVE = DIRECTIONS
_PER_PERSON = (_REMOVE, _REMOVE, _REMOVE, _INJECT)  # lessons for each real person of a batch


class Lessons:
    """Injections of a simulator's common potential, and real people.

    Parameters
    ----------
    simulator : Simulator
    readers : callable
    healthy : tensor of shape (subject, 1, x, y, z)
        Whom to inject into.
    typical : tensor of shape (class, network)
        What each network says of typical people without and with the disease.
    """

    def __init__(
        self,
        simulator: Simulator,
        readers: Reading,
        healthy: Float[Tensor, "subject 1 x y z"],
        typical: Float[Tensor, "2 network"],
    ):
        self.common, self.blur_voxels = simulator.common, simulator.blur_voxels
        self.readers, self.healthy, self.typical = readers, healthy, typical
        doses = self.doses(_DRAWN, torch.Generator().manual_seed(0))
        size = self._expansion(self.common * doses).square().mean(0)
        # A place that moves little counts as much as one that moves a lot, if it moves at all.
        weight = 1 / (size + size.mean())
        self.weight = weight / (weight * size).mean()

    def __call__(
        self,
        network: nn.Module,
        volumes: Float[Tensor, "subject 1 x y z"],
        labels: Int[Tensor, "subject"],
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return each term as a number a subject, and what classifiers say of real people then.

        ``undo`` is how much a simulation misses of a lesson, ``logit`` how far it leaves a real
        person from what is typical of the other class.
        """
        lessons = [*_PER_PERSON] * len(volumes)
        count = len(lessons)
        who = torch.randint(len(self.healthy), (count,), generator=generator)
        doses = self.doses(count, generator)
        pupils = self.inject(self.healthy[who].to(volumes), doses, generator)
        asked = [*lessons, *other_class(labels)]
        sign = signs(asked, len(asked)).to(volumes)
        control = network.potential(torch.cat([pupils, volumes]), asked)
        after = self.readers(deform(volumes, control[count:], self.blur_voxels).volumes)
        short = sign[count:, None] * (self.typical[1 - labels] - after)
        # Whoever is there already, or beyond, has nothing to change.
        return {
            "undo": self.missed(control[:count], doses, sign[:count]),
            "logit": F.relu(short).mean(1),
        }, after

    def doses(self, subjects: int, generator: torch.Generator) -> Float[Tensor, "subject a b c"]:
        """Draw how much is injected at each control point; 1 on average."""
        noise = torch.randn(subjects, 1, *self.common.shape, generator=generator)
        smooth = fields.gaussian_blur(noise, PATCH_POINTS)[:, 0]
        uniform = torch.special.ndtr(smooth / smooth.std())
        doses = LARGEST_DOSE * F.relu(uniform - SPARED) / (1 - SPARED)
        touched = torch.rand(subjects, 1, 1, 1, generator=generator) >= UNTOUCHED
        return (touched * doses).to(self.common)

    def inject(
        self,
        volumes: Float[Tensor, "subject 1 x y z"],
        doses: Float[Tensor, "subject a b c"],
        generator: torch.Generator,
    ) -> Float[Tensor, "subject 1 x y z"]:
        """Return brains with this disease, and a little noise."""
        ill = deform(volumes, self.common * doses, self.blur_voxels).volumes
        level = NOISE * torch.rand(len(ill), 1, 1, 1, 1, generator=generator)
        noise = level * torch.randn(ill.shape, generator=generator)
        return torch.where(ill != 0, ill + noise.to(ill), ill)

    def missed(
        self,
        answer: Float[Tensor, "subject a b c"],
        doses: Float[Tensor, "subject a b c"],
        sign: Float[Tensor, "subject"],
    ) -> Float[Tensor, "subject"]:
        """Return how much of the lesson a potential misses: 0 is all right, 1 as wrong as nothing.

        To remove is to undo the doses; to inject, to fill them up to one everywhere.
        """
        inject = (sign > 0).view(-1, 1, 1, 1).to(doses)
        rest = self._expansion(answer - self.common * (inject - doses))
        return (self.weight * rest.square()).flatten(1).mean(1)

    def _expansion(self, potential: Tensor) -> Tensor:
        return potentials.expansion(potential, self.blur_voxels)
