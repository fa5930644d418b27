"""Which voxels did the network use? Every method is called in the same way.

``METHODS`` maps each method's name to its function.
"""

from helpers.attribution.grad_cams import grad_cam
from helpers.attribution.gradients import gradient

METHODS = {"gradient": gradient, "grad_cam": grad_cam}

__all__ = ["METHODS", "grad_cam", "gradient"]
