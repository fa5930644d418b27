"""From a raw T1-weighted scan to a volume that a network can read: align, strip, standardise.

The scan is registered to the MNI152 template with twelve parameters (affine). The result only
changes the scan's *affine*, that is where its voxels lie in millimetres; the voxels themselves are
interpolated once, straight onto the target grid. Every further interpolation would blur, and a
network finds blur faster than anatomy.

References
----------
Mattes et al. (2003), PET-CT image registration in the chest using free-form deformations: the
mutual information that is maximised. Lowekamp et al. (2013), The design of SimpleITK.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from helpers import anatomy, grids
from helpers.grids import Grid

# Bump it when the same scan would give another volume: caches are keyed on it.
VERSION = 1

# A registration outside these bounds is no registration; good ones lie far inside (a Dice of 0.88
# to 0.96 and a correlation of 0.6 to 0.9 over 139 healthy adults).
MINIMUM_DICE = 0.80
MINIMUM_CORRELATION = 0.35
VOLUME_RATIOS = (0.5, 2.5)

_REGISTRATION_SPACING_MM = 2.0
_BIAS_SPACING_MM = 8.0
_SAMPLING_SEED = 20
# Height of a head from the vertex to below the cerebellum: what hangs lower is neck.
_HEAD_HEIGHT_MM = 160.0
# SimpleITK counts millimetres to the left and the back (LPS), NIfTI to the right and the front.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class BrokenScanError(ValueError):
    """A scan that cannot become a trustworthy volume; the message says why."""


@dataclass(frozen=True, eq=False)
class Report:
    """How the registration of one scan went.

    Attributes
    ----------
    affine : ndarray of shape (4, 4)
        Maps the scan's millimetres (RAS+) to MNI millimetres.
    metric : float
        Mattes mutual information with the template at the end, in nats; larger is better.
    dice : float or None
        Overlap of the moved brain mask and the template's, 0 to 1; None if no mask was given,
        because the template's own mask then stands in.
    correlation : float
        Pearson correlation with the template's intensities inside the template's brain.
    volume_ratio : float
        Factor by which the affine enlarges the head: above 1 for heads smaller than the template.
        Removing head size removes information (it differs between the sexes); here it is.
    """

    affine: Float[np.ndarray, "4 4"]
    metric: float
    dice: float | None
    correlation: float
    volume_ratio: float


def preprocess(
    scan: str | Path | tuple[np.ndarray, Grid],
    *,
    grid: Grid | None = None,
    mask: str | Path | tuple[np.ndarray, Grid] | None = None,
) -> tuple[Float[Tensor, "1 x y z"], Report]:
    """Bring one T1-weighted scan into MNI space: background 0, median of the brain 1.

    Takes about three seconds on one core and gives the same bytes each time on the same machine.

    Parameters
    ----------
    scan : path, or (array, Grid)
        Any orientation and voxel size, with the head or without. Raw intensities: zero or larger.
    grid : Grid, optional
        Target grid in MNI space, by default the 4 mm teaching grid.
    mask : path, or (array, Grid), optional
        Where the subject's brain is: a mask or a parcellation, everything above 0 counts. Its
        voxels may differ from the scan's. It guides the registration, cuts the brain out and is
        what `Report.dice` is measured on. Without it, the template's mask cuts the brain out,
        which is rougher.

    Returns
    -------
    volume : tensor of shape (1, x, y, z)
    report : Report

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BrokenScanError
        If a file is damaged, the scan is empty, or the registration failed.

    Examples
    --------
    >>> from helpers import anatomy, grids
    >>> from helpers.cohorts import preprocessing
    >>> small = grids.mni(8.0)
    >>> brain = anatomy.template(grids.mni(4.0))
    >>> volume, report = preprocessing.preprocess((brain.t1[0].numpy(), brain.grid), grid=small)
    >>> tuple(volume.shape), round(report.volume_ratio, 1)
    ((1, 24, 28, 24), 1.0)
    """
    grid = grids.mni() if grid is None else grid
    data, source = _load(scan, "scan")
    _check_intensities(data)
    brain, brain_grid = _load(mask, "mask") if mask is not None else (None, None)
    if brain is not None:
        brain = (brain > 0).astype(np.float32)
        within = grids.resample(brain, brain_grid, source, nearest=True) > 0.5
        if not within.any():
            raise BrokenScanError(
                "the mask is empty where the scan is; expected values above 0 inside the brain "
                "and an affine that fits the scan's"
            )
        data = correct_bias(data, source, within)
        to_mni, metric = register(data, source, mask=within)
    else:
        # A first fit says where the brain is, the bias is estimated there, a second fit refines.
        rough, _ = register(data, source)
        template = anatomy.template(grids.mni(_REGISTRATION_SPACING_MM))
        pulled = Grid(template.grid.shape, np.linalg.inv(rough) @ template.grid.affine)
        within = grids.resample(template.mask[0].numpy(), pulled, source, nearest=True) > 0.5
        if not within.any():
            raise BrokenScanError("the registration to the template failed: no overlap is left")
        data = correct_bias(data, source, within)
        to_mni, metric = register(data, source, start=rough)

    volume = torch.from_numpy(
        grids.resample(data, Grid(source.shape, to_mni @ source.affine), grid)
    )
    target = anatomy.template(grid)
    inside, dice = target.mask[0], None
    if brain is not None:
        moved = grids.resample(brain, Grid(brain.shape, to_mni @ brain_grid.affine), grid)
        inside = torch.from_numpy(moved) > 0.5
        dice = _dice(inside, target.mask[0])
    report = Report(
        affine=to_mni,
        metric=metric,
        dice=dice,
        correlation=_correlation(volume[target.mask[0]], target.t1[target.mask]),
        volume_ratio=float(abs(np.linalg.det(to_mni[:3, :3]))),
    )
    _check(report)
    return standardise(volume[None], inside[None]), report


def standardise(
    volume: Float[Tensor, "*batch x y z"], mask: Bool[Tensor, "*batch x y z"]
) -> Float[Tensor, "*batch x y z"]:
    """Set the background to exactly 0 and the median of the brain to 1, volume by volume.

    Dividing by the median keeps the ratio between tissues and cannot be moved by a small lesion;
    z-scores would make the background, most of the volume, a large negative number.

    Parameters
    ----------
    volume : tensor of shape (..., x, y, z)
        Values below 0, which interpolation makes at sharp edges, become 0.
    mask : tensor of shape (..., x, y, z)
        Where the brain is; either the volume's shape or one that broadcasts to it.

    Raises
    ------
    BrokenScanError
        If a mask is empty, or a median is not a positive number.

    Examples
    --------
    >>> import torch
    >>> from helpers.cohorts import preprocessing
    >>> volume = torch.tensor([9.0, 2.0, 4.0, 8.0]).reshape(1, 1, 4)
    >>> preprocessing.standardise(volume, volume < 9).flatten().tolist()
    [0.0, 0.5, 1.0, 2.0]
    """
    mask = mask.to(volume.device).expand(volume.shape)
    if not mask.flatten(-3).any(-1).all():
        raise BrokenScanError("a brain mask is empty, so there is no median to divide by")
    within = volume.masked_fill(~mask, torch.nan).flatten(-3)
    median = within.nanmedian(-1).values[..., None, None, None]
    if not (median > 0).all():
        raise BrokenScanError(
            f"the median inside the brain is {median.min().item():.3g}; expected a positive one. "
            f"Pass raw T1-weighted intensities, not z-scores"
        )
    return (volume.clamp_min(0) / median).masked_fill(~mask, 0.0)


def correct_bias(
    data: Float[np.ndarray, "x y z"], source: Grid, mask: Bool[np.ndarray, "x y z"]
) -> Float[np.ndarray, "x y z"]:
    """Even out the brightness that the receive coil varies slowly over the head (N4).

    The field is estimated on voxels of about 8 mm inside the mask, in about a second, and divided
    out at full resolution.
    """
    # N4 works on logarithms, so voxels without signal cannot take part.
    usable = _as_image((mask & (data > 0)).astype(np.uint8), source)
    image = _as_image(data, source)
    shrink = [max(1, round(_BIAS_SPACING_MM / spacing)) for spacing in source.spacing_mm]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetNumberOfWorkUnits(1)
    n4.SetMaximumNumberOfIterations([40, 40, 40])
    try:
        n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(usable, shrink))
    except RuntimeError as error:
        raise BrokenScanError(f"the bias correction failed: {_last_line(error)}") from error
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
    return (data / np.exp(log_field)).astype(np.float32)


def register(
    data: Float[np.ndarray, "x y z"],
    source: Grid,
    *,
    mask: Bool[np.ndarray, "x y z"] | None = None,
    start: Float[np.ndarray, "4 4"] | None = None,
) -> tuple[Float[np.ndarray, "4 4"], float]:
    """Find the affine that takes a scan to the MNI152 template.

    Coarse to fine over voxels of 8, 4 and 2 mm: first six parameters (rigid), then twelve. One
    thread and a fixed sampling seed make it deterministic.

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
    template = anatomy.template(grids.mni(_REGISTRATION_SPACING_MM))
    fixed = _as_image(template.t1[0].numpy(), template.grid)
    # A rim of two voxels (4 mm): dark in the stripped template, and dark in a head too, where it
    # is fluid and bone. It holds the outline in place without looking at the scalp.
    rim = ndimage.binary_dilation(template.mask[0].numpy(), iterations=2)
    region = _as_image(rim.astype(np.uint8), template.grid)
    head = np.clip(data, 0, np.percentile(data if mask is None else data[mask], 99.5))
    head = head if mask is None else head * mask
    moving = _as_image(head.astype(np.float32), source)

    full = sitk.AffineTransform(3)
    center = template.grid.millimetres(ndimage.center_of_mass(template.mask[0].numpy()))
    full.SetCenter((_LPS[:3, :3] @ center).tolist())
    try:
        if start is None:
            rigid = _place(fixed, moving, region, center, _center_mm(head, source), mask is None)
            _optimise(fixed, moving, region, rigid, shrink=[4, 2])
            full.SetMatrix(rigid.GetMatrix())
            full.SetTranslation(rigid.GetTranslation())
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


def _place(fixed, moving, region, center, scan_center, search: bool) -> sitk.Euler3DTransform:
    """Put the brains' middles on each other; with a whole head, try shifts and nods around it."""
    nods = np.deg2rad([-20, 0, 20]) if search else [0.0]
    shifts = [-45, -30, -15, 0, 15] if search else [0]
    coarse = [
        sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, 4.0), [4, 4, 4])
        for image in (fixed, moving)
    ]
    best, best_metric = None, np.inf
    for nod in nods:
        for shift in shifts:
            candidate = sitk.Euler3DTransform()
            candidate.SetCenter((_LPS[:3, :3] @ center).tolist())
            candidate.SetRotation(float(nod), 0.0, 0.0)
            offset = scan_center - center + np.array([0.0, 0.0, shift])
            candidate.SetTranslation((_LPS[:3, :3] @ offset).tolist())
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


def _load(scan, what: str) -> tuple[np.ndarray, Grid]:
    if isinstance(scan, tuple):
        data, grid = scan
        data = np.asarray(data, dtype=np.float32)
        if data.shape != grid.shape:
            raise BrokenScanError(f"the {what} has shape {data.shape}, its grid {grid.shape}")
        return data, grid
    try:
        return grids.read(scan)
    except ValueError as error:
        raise BrokenScanError(str(error)) from error


def _check_intensities(data: np.ndarray) -> None:
    if min(data.shape) < 8:
        raise BrokenScanError(
            f"the scan has {data.shape} voxels; expected a 3D scan of the whole brain, not slices"
        )
    if not np.isfinite(data).all():
        raise BrokenScanError("the scan holds NaN or infinite voxels")
    if data.min() == data.max():
        raise BrokenScanError("the scan is constant, so there is nothing in it")


def _check(report: Report) -> None:
    values = [report.metric, report.correlation, report.volume_ratio]
    if not np.isfinite(values).all() or not np.isfinite(report.affine).all():
        raise BrokenScanError("the registration to the template gave numbers that are not finite")
    findings = []
    if report.dice is not None and report.dice < MINIMUM_DICE:
        findings.append(f"overlap of the brain masks (Dice) {report.dice:.2f} < {MINIMUM_DICE}")
    if report.correlation < MINIMUM_CORRELATION:
        findings.append(
            f"correlation with the template {report.correlation:.2f} < {MINIMUM_CORRELATION}"
        )
    low, high = VOLUME_RATIOS
    if not low <= report.volume_ratio <= high:
        findings.append(f"head rescaled by {report.volume_ratio:.2f}, outside {low} to {high}")
    if findings:
        raise BrokenScanError(
            f"the registration to the template failed: {'; '.join(findings)}. Is this a "
            f"T1-weighted scan of a whole brain, and is its orientation in the header right?"
        )


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _dice(a: Bool[Tensor, "x y z"], b: Bool[Tensor, "x y z"]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def _correlation(a: Float[Tensor, "voxel"], b: Float[Tensor, "voxel"]) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
