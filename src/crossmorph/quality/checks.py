"""Checks of a registration: its measures against their limits, a sentence each.

`docs/trust.md` says how the limits came about, and how well the checks find what is wrong.
"""

import math
from collections.abc import Sequence

from crossmorph.images.image import Image
from crossmorph.quality.assessment import Assessment, Check, Limits, Measures, TransformMeasures
from crossmorph.quality.consistency import consistency, encoder_features, network_maps
from crossmorph.quality.error_model import Calibration, calibration_of
from crossmorph.quality.error_network import expected_error
from crossmorph.quality.measures import error_predictors, mean_error, measure, with_expected_error
from crossmorph.registration.register_images import Registered, RejectedStage
from crossmorph.system.progress import stage

MIN_KEPT = 0.8  # of the mutual information of the images as they were given
LEAST_INFORMATION = 0.05  # nats; noise and patterns reach less beside any head, pairs that were registered more
MAX_STRETCH = 2.0  # |log-Jacobian|, 99th percentile: volumes changed by a factor of 7
MAX_INCONSISTENCY = 1.0  # voxels of the working grid, of forward and inverse transform
ROTATION_WARNING, ROTATION_FAILED = 1.0, 1.1  # times the mutual information
# The same with left and right exchanged. Two people reach up to 1.006, one person .98: mirrored, the inverse of it.
MIRROR_WARNING, MIRROR_FAILED = 1.01, 1.02
TRANSLATION_WARNING, TRANSLATION_FAILED = 0.7, 0.5  # correlations of translated and fixed image
MIN_OVERLAP = 0.6  # of the fixed field of view, by the headers
NOT_CALIBRATED = "not calibrated"  # the check in place of "expected error" where a model has no calibration
UNKNOWN_DISTANCE = "No limit known for this model: the distance from the training images is not measured."
INIT_ADVICE = "; give an initial affine that rotates it (--init FILE)"
UNSTABLE = "the result is unstable: give a better initial affine (--init FILE), or use a smoother field."


def assess(registered: Registered, moving: Image, fixed: Image) -> Assessment:
    """Measure and check a registered pair; takes about as long as registering it.

    Args:
        registered: the registered pair.
        moving: the moving image as it was given.
        fixed: the fixed image as it was given.
    """
    stage("checks")
    maps = consistency(registered)
    measures, limits, error = measure(registered, moving, fixed, maps), None, None
    calibration = calibration_of(registered.model)
    if calibration is not None:
        shown = network_maps(registered.fixed, maps)
        error = expected_error(calibration.network, shown, error_predictors(measures))
        mean = mean_error(error, maps.foreground)
        measures = with_expected_error(measures, encoder_features(registered), mean, calibration)
        limits = calibrated_limits(calibration, measures.working_spacing)
    return Assessment(measures, check(measures, limits, registered.rejected), maps, error)


def calibrated_limits(calibration: Calibration, spacing: float) -> Limits:
    """The limits of a calibration for a working grid.

    Args:
        calibration: of the model; its limits are in voxels.
        spacing: length of a voxel of the working grid, in the unit of the measures.
    """
    return Limits(**{name: spacing * calibration.limits[name] for name in Limits._fields})


def check(measures: Measures, limits: Limits | None, rejected: Sequence[RejectedStage] = ()) -> tuple[Check, ...]:
    """The checks of a pair's measures.

    Args:
        measures: of the pair.
        limits: those of the model's calibration, or None where it has none.
        rejected: the stages that were rejected, to name them.

    Returns:
        The checks; with corresponding points one more.
    """
    return (
        _expected_error(measures, limits),
        _mutual_information(measures),
        orientation_check(measures, INIT_ADVICE),
        *mirror_checks(measures),
        *_translation(measures),
        *_consistent(measures, limits),
        _training_images(measures),
        _folding(measures),
        _stretch(measures),
        _inverse(measures),
        _overlap(measures),
        _stages(measures, rejected),
        *_points(measures),
    )


def _expected_error(measures: Measures, limits: Limits | None) -> Check:
    error = measures.expected_error
    if error is None or limits is None:
        message = (
            "This model has no calibration, so that the error of its results is not known: inspect them, or run "
            "crossmorph calibrate."
        )
        return Check(NOT_CALIBRATED, "warning", None, None, message)
    found = f"The expected error is {error:.2g} {measures.unit} (median over the foreground)"
    # Written so that NaN fails, here and below.
    if not error < limits.expected_error_failed:
        advice = "; the images are not aligned: check that both show the same anatomy, or give --init FILE."
        return Check("expected error", "failed", error, limits.expected_error_failed, found + advice)
    found += f", limit {limits.expected_error:.2g}"
    if not error < limits.expected_error:
        remedy = "give a better initial affine (--init FILE)"
        remedy = remedy if measures.refine_steps is not None else f"try --refine on, or {remedy}"
        return Check(
            "expected error", "warning", error, limits.expected_error, f"{found}: inspect the result; {remedy}."
        )
    return Check("expected error", "passed", error, limits.expected_error, f"{found}.")


def _mutual_information(measures: Measures) -> Check:
    before, after = measures.mutual_information_before, measures.mutual_information_final
    if not after >= LEAST_INFORMATION:
        message = (
            f"Mutual information is {after:.3f} nats after registration, expected at least {LEAST_INFORMATION:g}: the "
            "images have next to nothing in common; check that both show the same anatomy."
        )
        return Check("mutual information", "failed", after, LEAST_INFORMATION, message)
    fell = not after >= MIN_KEPT * before
    found = f"Mutual information was {before:.3f} nats before and is {after:.3f} after registration"
    advice = ": it fell; check that both images show the same anatomy." if fell else "."
    return Check("mutual information", "failed" if fell else "passed", after, MIN_KEPT * before, found + advice)


def orientation_check(measures: Measures | TransformMeasures, advice: str = "") -> Check:
    """Whether the moving image fits better rotated by 180 degrees; ``advice`` follows what was found."""
    ratio = measures.rotation_ratio
    found = f"Rotating the moving image by 180 degrees gives {ratio:.2f} times the mutual information"
    if ratio < ROTATION_WARNING:
        return Check("orientation", "passed", ratio, ROTATION_WARNING, f"{found}.")
    failed = not ratio < ROTATION_FAILED
    limit = ROTATION_FAILED if failed else ROTATION_WARNING
    message = f"{found}: one image may be upside down{advice}."
    return Check("orientation", "failed" if failed else "warning", ratio, limit, message)


def mirror_checks(measures: Measures | TransformMeasures) -> list[Check]:
    """Whether the moving volume fits better with left and right exchanged; none of slices, where it is not measured."""
    ratio = measures.mirror_ratio
    if ratio is None:
        return []
    found = f"Exchanging left and right of the moving image gives {ratio:.2f} times the mutual information"
    if ratio < MIRROR_WARNING:
        return [Check("left and right", "passed", ratio, MIRROR_WARNING, f"{found}.")]
    failed = not ratio < MIRROR_FAILED
    limit = MIRROR_FAILED if failed else MIRROR_WARNING
    message = f"{found}: the header of one image may name left what is right; compare both with their source."
    return [Check("left and right", "failed" if failed else "warning", ratio, limit, message)]


def _translation(measures: Measures) -> list[Check]:
    """Whether the translation looks like the fixed image; nothing where it was not measured."""
    found = measures.translation_correlation
    if found is None:
        return []
    message = f"The translated image and the fixed image correlate with {found:.2f} over the foreground"
    if found >= TRANSLATION_WARNING:
        return [Check("translation", "passed", found, TRANSLATION_WARNING, f"{message}.")]
    failed = not found >= TRANSLATION_FAILED
    limit = TRANSLATION_FAILED if failed else TRANSLATION_WARNING
    message += f", expected at least {limit:g}: do not use the translated image."
    return [Check("translation", "failed" if failed else "warning", found, limit, message)]


def _consistent(measures: Measures, limits: Limits | None) -> list[Check]:
    values = {
        "swap consistency": (measures.swap_consistency, "Swapping the images"),
        "shift consistency": (measures.shift_consistency, "Shifting the moving image by a few voxels"),
    }
    checks = []
    for name, (value, change) in values.items():
        found = f"{change} changes the result by {value:.2f} {measures.unit} (median)"
        if limits is None:
            checks.append(Check(name, "passed", value, None, f"{found}; no limit known for this model."))
            continue
        limit = float(getattr(limits, name.replace(" ", "_")))
        if value < limit:
            checks.append(Check(name, "passed", value, limit, f"{found}, limit {limit:.2f}."))
        else:
            checks.append(Check(name, "warning", value, limit, f"{found}, limit {limit:.2f}: {UNSTABLE}"))
    return checks


def _training_images(measures: Measures) -> Check:
    distance = measures.training_distance
    if distance is None:
        return Check("training images", "passed", None, None, UNKNOWN_DISTANCE)
    found = f"The distance from the training images is {distance:.2f} of its limit"
    if distance < 1:
        return Check("training images", "passed", distance, 1.0, f"{found}.")
    advice = f"{found}: the images are noisier or of another kind; train on your own scans."
    return Check("training images", "warning", distance, 1.0, advice)


def _folding(measures: Measures) -> Check:
    folds = measures.folds_percent
    if folds <= 0:
        return Check("folding", "passed", folds, 0.0, "The field does not fold.")
    advice = f"The field folds in {folds:.3f}% of the grid's cells: do not use it there, or raise --smoothness."
    return Check("folding", "warning", folds, 0.0, advice)


def _stretch(measures: Measures) -> Check:
    stretch, limit = math.exp(min(measures.log_jacobian, 20)), math.exp(MAX_STRETCH)
    found = f"Volumes change by a factor of up to {stretch:.1f} (99th percentile)"
    if measures.log_jacobian <= MAX_STRETCH:
        return Check("stretch", "passed", stretch, limit, f"{found}.")
    return Check(
        "stretch", "warning", stretch, limit, f"{found}, limit {limit:.1f}: more than anatomy does; try --smoothness 1."
    )


def _inverse(measures: Measures) -> Check:
    loop, limit = measures.inverse_consistency, MAX_INCONSISTENCY * measures.working_spacing
    found = f"Forward and inverse transform disagree by {loop:.2f} {measures.unit} (99th percentile)"
    if loop <= limit:
        return Check("inverse consistency", "passed", loop, limit, f"{found}.")
    advice = f"{found}, limit {limit:.2f}: do not move points back and forth; try --smoothness 1."
    return Check("inverse consistency", "warning", loop, limit, advice)


def _overlap(measures: Measures) -> Check:
    before, after = measures.overlap_before, measures.overlap
    small = not before >= MIN_OVERLAP
    found = (
        f"The moving image covers {before:.0%} of the fixed image's field of view by its header, {after:.0%} after the "
        "initial affine"
    )
    advice = ": check that both images show the same anatomy." if small else "."
    return Check("overlap", "warning" if small else "passed", before, MIN_OVERLAP, found + advice)


def _points(measures: Measures) -> list[Check]:
    """Whether corresponding points are led to their partners; nothing where none were given."""
    distance, limit = measures.points_final, measures.points_accuracy
    if distance is None or limit is None:
        return []
    found = f"The points are led to within {distance:.2f} {measures.unit} of their partners, limit {limit:g}"
    if distance <= limit:
        return [Check("points", "passed", distance, limit, f"{found}.")]
    advice = ": some of them contradict each other, or are not the same places; inspect them."
    return [Check("points", "warning", distance, limit, found + advice)]


def _stages(measures: Measures, rejected: Sequence[RejectedStage]) -> Check:
    count = measures.rejected_stages
    if not count:
        left_out = ", ".join(each.stage for each in rejected)
        found = f"Stages that gained nothing were left out: {left_out}." if left_out else "No stage was rejected."
        return Check("stages", "passed", 0.0, 0.0, found)
    why = {"mutual information": "mutual information fell", "folds": "it added folds", "no gain": "it gained nothing"}
    named = [f"{each.stage} ({why[each.reason]}; the {each.kept} field is used)" for each in rejected]
    found = f"Rejected stages: {', '.join(named) or count}; inspect the result."
    return Check("stages", "warning", float(count), 0.0, found)
