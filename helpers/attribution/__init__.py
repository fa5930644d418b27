"""Which voxels did the network use? Every method is called in the same way.

``METHODS`` maps each method's name to its function.
"""

from helpers.attribution.averaged_gradients import (
    expected_gradients,
    integrated_gradients,
    smoothgrad,
)
from helpers.attribution.grad_cams import grad_cam, grad_cam_plus_plus, guided_grad_cam
from helpers.attribution.gradients import gradient, input_x_gradient
from helpers.attribution.guided_backprop import guided_backprop
from helpers.attribution.lrp import lrp
from helpers.attribution.meaningful_perturbation import meaningful_perturbation
from helpers.attribution.occlusion import occlusion

METHODS = {
    "gradient": gradient,
    "input_x_gradient": input_x_gradient,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "expected_gradients": expected_gradients,
    "guided_backprop": guided_backprop,
    "lrp": lrp,
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "guided_grad_cam": guided_grad_cam,
    "occlusion": occlusion,
    "meaningful_perturbation": meaningful_perturbation,
}

__all__ = ["METHODS", *METHODS]
