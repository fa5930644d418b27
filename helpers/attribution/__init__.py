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
from helpers.attribution.guided import guided_backprop
from helpers.attribution.layerwise_relevance import lrp
from helpers.attribution.occlusions import occlusion
from helpers.attribution.perturbation import meaningful_perturbation

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
