"""Where a scan lies relative to the MNI152 template: affine registration and bias correction.

Both are SimpleITK's; what is added here is a good start, one thread and fixed seeds, so that the
same scan gives the same bytes. The result of a registration is a 4x4 matrix: nothing is
interpolated here.

References
----------
Mattes et al. (2003), PET-CT image registration in the chest using free-form deformations: the
mutual information that is maximised. Tustison et al. (2010), N4ITK: improved N3 bias correction.
Lowekamp et al. (2013), The design of SimpleITK.
"""

from itertools import product

import numpy as np
import SimpleITK as sitk
from jaxtyping import Bool, Float
from scipy import ndimage

from helpers import anatomy, grids
from helpers.errors import BrokenScanError
from helpers.grids import Grid

_SPACING_MM = 2.0
_BIAS_SPACING_MM = 8.0
_SAMPLING_SEED = 20
# Height of a head from the vertex to below the cerebellum: what hangs lower is neck.
_HEAD_HEIGHT_MM = 160.0
# The template is larger than most heads.
_USUAL_SCALE = 0.92
# SimpleITK counts millimetres to the left and the back (LPS), NIfTI to the right and the front.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def register(
    data: Float[np.ndarray, "x y z"],
    source: Grid,
    *,
    mask: Bool[np.ndarray, "x y z"] | None = None,
    start: Float[np.ndarray, "4 4"] | None = None,
) -> tuple[Float[np.ndarray, "4 4"], float]:
    """Find the affine that takes a scan to the MNI152 template.

    Coarse to fine over voxels of 8, 4 and 2 mm: first turned and shifted (and for a whole head
    scaled), then with all twelve parameters. One thread and a fixed sampling seed make it
    deterministic.

    Parameters
    ----------
    mask : array of the scan's shape, optional
        Where the brain is; everything else is then set to 0 before registering.
    start : ndarray of shape (4, 4), optional
        An earlier result to refine.

    Returns
    -------
    to_mni : ndarray of shape (4, 4)
        Maps the scan's millimetres to MNI millimetres.
    metric : float
        Mutual information at the end, in nats.
    """
    template = anatomy.template(grids.mni(_SPACING_MM))
    fixed = _as_image(template.t1[0].numpy(), template.grid)
    # A rim of two voxels (4 mm): dark in the stripped template, and dark in a head too, where it
    # is fluid and bone. It holds the outline in place without looking at the scalp.
    rim = ndimage.binary_dilation(template.mask[0].numpy(), iterations=2)
    region = _as_image(rim.astype(np.uint8), template.grid)
    head = np.clip(data, 0, np.percentile(data if mask is None else data[mask], 99.5))
    head = head if mask is None else head * mask
    full = sitk.AffineTransform(3)
    center = template.grid.millimetres(ndimage.center_of_mass(template.mask[0].numpy()))
    full.SetCenter((_LPS[:3, :3] @ center).tolist())
    try:
        moving = _as_image(head.astype(np.float32), source)
        if start is None:
            scan_center = _center_mm(head, source)
            if mask is not None:
                first = _placed(sitk.Euler3DTransform(), center, scan_center)
            else:
                first = _search(fixed, moving, region, center, scan_center)
            _optimise(fixed, moving, region, first, shrink=[4, 2])
            full.SetMatrix(first.GetMatrix())
            full.SetTranslation(first.GetTranslation())
            metric = _optimise(fixed, moving, region, full, shrink=[4, 2, 1])
        else:
            to_scan = np.linalg.inv(start)
            full.SetMatrix((_LPS @ to_scan @ _LPS)[:3, :3].ravel().tolist())
            moved = to_scan[:3, :3] @ center + to_scan[:3, 3]
            full.SetTranslation((_LPS[:3, :3] @ (moved - center)).tolist())
            metric = _optimise(fixed, moving, region, full, shrink=[2, 1])
    except RuntimeError as error:
        raise BrokenScanError(
            f"the registration to the template failed: {_last_line(error)}"
        ) from error
    return _to_mni(full), metric


def correct_bias(
    data: Float[np.ndarray, "x y z"], source: Grid, mask: Bool[np.ndarray, "x y z"]
) -> Float[np.ndarray, "x y z"]:
    """Even out the brightness that the receive coil varies slowly over the head (N4).

    The field is estimated on voxels of about 8 mm inside the mask, in about a second, and divided
    out at full resolution.
    """
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetNumberOfWorkUnits(1)
    n4.SetMaximumNumberOfIterations([40, 40, 40])
    shrink = [max(1, round(_BIAS_SPACING_MM / spacing)) for spacing in source.spacing_mm]
    try:
        # N4 works on logarithms, so voxels without signal cannot take part.
        usable = _as_image((mask & (data > 0)).astype(np.uint8), source)
        image = _as_image(data, source)
        n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(usable, shrink))
    except RuntimeError as error:
        raise BrokenScanError(f"the bias correction failed: {_last_line(error)}") from error
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
    return (data / np.exp(log_field)).astype(np.float32)


def _placed(transform, center, scan_center):
    """Let the transform take the template's middle to a place in the scan."""
    transform.SetCenter((_LPS[:3, :3] @ center).tolist())
    transform.SetTranslation((_LPS[:3, :3] @ (scan_center - center)).tolist())
    return transform


def _search(fixed, moving, region, center, scan_center) -> sitk.Similarity3DTransform:
    """Find a start for a whole head: the best of some nods of the head and heights of the brain.

    The scale belongs to the start: a scalp that is fitted to the template's brain at the wrong
    size holds on to it.
    """
    coarse = [
        sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, 4.0), [4, 4, 4])
        for image in (fixed, moving)
    ]
    best, best_metric = None, np.inf
    for nod, height in product(np.deg2rad([-20, 0, 20]), (-10, 5, 20, 35)):
        turned = sitk.Euler3DTransform()
        turned.SetRotation(float(nod), 0.0, 0.0)
        candidate = sitk.Similarity3DTransform()
        candidate.SetMatrix((_USUAL_SCALE * np.array(turned.GetMatrix())).tolist())
        _placed(candidate, center, scan_center + np.array([0.0, 0.0, height]))
        method = _metric(region)
        method.SetInitialTransform(candidate)
        try:
            metric = method.MetricEvaluate(*coarse)
        except RuntimeError:  # the two images do not meet
            continue
        if metric < best_metric:
            best, best_metric = candidate, metric
    if best is None:
        raise BrokenScanError("the registration to the template failed: the images do not meet")
    return best


def _metric(region) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricFixedMask(region)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _optimise(fixed, moving, region, transform, *, shrink) -> float:
    """Optimise the transform in place; return the mutual information."""
    method = _metric(region)
    # SimpleITK jitters its "regular" samples, by the clock unless there is a seed.
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(
        [0.1 if factor == 1 else 0.9 for factor in shrink], seed=_SAMPLING_SEED
    )
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0,
        minStep=0.01,
        numberOfIterations=60,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([float(factor) for factor in shrink])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return -float(method.GetMetricValue())


def _to_mni(transform: sitk.AffineTransform) -> Float[np.ndarray, "4 4"]:
    # SimpleITK pulls: its transform takes template points to scan points, about a center.
    matrix = np.reshape(transform.GetMatrix(), (3, 3))
    center = np.array(transform.GetCenter())
    to_scan = np.eye(4)
    to_scan[:3, :3] = matrix
    to_scan[:3, 3] = np.array(transform.GetTranslation()) + center - matrix @ center
    return np.linalg.inv(_LPS @ to_scan @ _LPS)


def _as_image(data: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))  # SimpleITK counts z, y, x
    affine = _LPS @ grid.affine
    image.SetSpacing(grid.spacing_mm)
    image.SetDirection((affine[:3, :3] / np.array(grid.spacing_mm)).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _center_mm(head: Float[np.ndarray, "x y z"], source: Grid) -> Float[np.ndarray, "3"]:
    """Return the middle of the brain, roughly: of what is bright and not neck."""
    bright = np.argwhere(head > _otsu(head))
    positions = source.millimetres(bright)
    top = np.percentile(positions[:, 2], 99.5)
    return positions[positions[:, 2] > top - _HEAD_HEIGHT_MM].mean(axis=0)


def _otsu(head: np.ndarray) -> float:
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.Execute(sitk.GetImageFromArray(head.astype(np.float32)))
    return threshold.GetThreshold()


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
