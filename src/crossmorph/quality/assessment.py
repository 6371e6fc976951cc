"""What is known of the quality of a registered pair: consistency maps, measures, checks."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

Level = Literal["passed", "warning", "failed"]


class Consistency(NamedTuple):
    """Maps of a registered pair on the working grid.

    Attributes:
        shifted: change of the networks' field when the moving image is shifted by ``SHIFT``, the shift itself taken
            out; voxels.
        swapped: where a point ends, from itself, after the networks' field and that of the swapped images; voxels.
        moved: the moving image, moved by the final field.
        translated: the translation T, moved by the final field.
        correlation: squared local correlation of the moved and the fixed image, 0 to 1.
        residual: local mean of ``|T o phi - F|``, T the translation.
        foreground: where the fixed image shows something.
        rotated: the most mutual information (nats) that the coarse network reaches with the moving image rotated by
            180 degrees, about an axis through its centre of intensity.
        mirrored: the same with left and right of the moving image exchanged; None of slices, whose axes may be any.
    """

    shifted: Float[Tensor, "dim *space"]
    swapped: Float[Tensor, "dim *space"]
    moved: Float[Tensor, "*space"]
    translated: Float[Tensor, "*space"]
    correlation: Float[Tensor, "*space"]
    residual: Float[Tensor, "*space"]
    foreground: Bool[Tensor, "*space"]
    rotated: float
    mirrored: float | None


class Measures(NamedTuple):
    """Measures of a registered pair, on the working grid. None: not known.

    Attributes:
        unit: of all lengths, ``mm``, or ``pixels`` where the fixed image has no millimetres.
        overlap_before: fraction of the fixed field of view that the moving image covers by its header.
        overlap: the same after the initial affine.
        mutual_information_before: of the images as they were given; nats, as all mutual information.
        mutual_information_initial: after the initial affine.
        mutual_information_coarse: after the coarse stage.
        mutual_information_fine: after the fine stage.
        mutual_information_refined: after instance optimisation, if there was any.
        mutual_information_final: of the result.
        folds_percent: percent of the grid's cells that fold, strictly.
        min_jacobian: smallest Jacobian determinant, strictly.
        log_jacobian: 99th percentile of ``|log det|``.
        inverse_consistency_median: median of ``|phi(phi^-1(p)) - p|`` over the moving image's foreground.
        inverse_consistency: its 99th percentile.
        swap_consistency_quartile: lower quartile over the foreground of the change of the field when the images are
            swapped, see :class:`crossmorph.quality.assessment.Consistency`.
        swap_consistency: its median.
        shift_consistency_quartile: lower quartile of the change when the moving image is shifted.
        shift_consistency: its median.
        local_correlation: mean squared local correlation over the foreground.
        residual: median over the foreground of the local mean of ``|T o phi - F|``, images in [0, 1].
        rotation_ratio: mutual information that the coarse network reaches with the moving image rotated by 180
            degrees, as a multiple of what it reached.
        rejected_stages: number of stages that were rejected, those left out because they gained nothing not counted.
        working_spacing: length of a voxel of the working grid.
        refine_steps: steps of instance optimisation, if there was any.
        mirror_ratio: as ``rotation_ratio``, with left and right exchanged; None of slices.
        translation_correlation: correlation of the translation, moved by the final field, and the fixed image over the
            foreground.
        points_initial: largest distance of where the initial affine leads corresponding points from their partners.
        points_final: the same after the whole transform.
        points_accuracy: to within which the points were to be led.
        ignored: volume of what was ignored in the fixed image, cubic ``unit``; of slices the area.
        expected_error: expected median error over the foreground, if the model is calibrated.
        training_distance: distance of the images from the training images, as a multiple of its limit, likewise.
    """

    unit: str
    overlap_before: float
    overlap: float
    mutual_information_before: float
    mutual_information_initial: float
    mutual_information_coarse: float
    mutual_information_fine: float
    mutual_information_refined: float | None
    mutual_information_final: float
    folds_percent: float
    min_jacobian: float
    log_jacobian: float
    inverse_consistency_median: float
    inverse_consistency: float
    swap_consistency_quartile: float
    swap_consistency: float
    shift_consistency_quartile: float
    shift_consistency: float
    local_correlation: float
    residual: float
    rotation_ratio: float
    rejected_stages: int
    working_spacing: float
    refine_steps: int | None = None
    mirror_ratio: float | None = None
    translation_correlation: float | None = None
    points_initial: float | None = None
    points_final: float | None = None
    points_accuracy: float | None = None
    ignored: float | None = None
    expected_error: float | None = None
    training_distance: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class TransformMeasures(NamedTuple):
    """Measures of a transform that somebody else made, see :mod:`crossmorph.quality.given_transform`. None: not known.

    Attributes:
        unit: of all lengths, ``mm``, or ``pixels`` where the fixed image has no millimetres.
        expected_error: the larger of ``remaining_displacement`` and ``own_expected_error``.
        remaining_displacement: median over the foreground of the displacement by which crossmorph's own registration
            still moves the image, in the fixed image.
        remaining_displacement_95: its 95th percentile.
        own_expected_error: expected error of that registration.
        training_distance: distance of the images from the training images, as a multiple of its limit.
        overlap_before: fraction of the fixed field of view that the moving image covers by its header.
        overlap: fraction of its voxels that the transform leads into the moving image.
        mutual_information_before: of the images by their headers; nats, as all mutual information.
        mutual_information_final: of the images after the transform.
        mutual_information_own: after the registration from there.
        local_correlation: mean squared local correlation over the foreground, after the transform.
        rotation_ratio: of that registration, see :class:`Measures`.
        folds_percent: percentage of the cells of the fixed image's grid that fold.
        min_jacobian: smallest Jacobian determinant, strictly.
        log_jacobian: 99th percentile of ``|log det|``.
        working_spacing: length of a voxel of the working grid.
        mirror_ratio: as ``rotation_ratio``, with left and right exchanged; None of slices.
    """

    unit: str
    expected_error: float | None
    remaining_displacement: float
    remaining_displacement_95: float
    own_expected_error: float | None
    training_distance: float | None
    overlap_before: float
    overlap: float
    mutual_information_before: float
    mutual_information_final: float
    mutual_information_own: float
    local_correlation: float
    rotation_ratio: float
    folds_percent: float
    min_jacobian: float
    log_jacobian: float
    working_spacing: float
    mirror_ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class LinearMeasures(NamedTuple):
    """Measures of a pair registered by a linear map. All mutual information is in nats.

    Attributes:
        unit: of all lengths, ``mm``, or ``pixels`` where the fixed image has no millimetres.
        overlap_before: fraction of the fixed field of view that the moving image covers by its header.
        overlap: the same after the registration.
        mutual_information_before: of the images as they were given.
        mutual_information_final: of the result.
        swap_consistency: mean distance over the foreground, from each place, of where the map and the one found with
            the images exchanged lead.
        shift_consistency: mean distance of where the map and the one found again from aside lead.
        rotation_ratio: similarity reached with the moving image rotated by 180 degrees, as a multiple.
        folds_percent: 0: a linear map does not fold.
        min_jacobian: determinant of the map.
        log_jacobian: ``|log det|``.
        largest_change: from which on the two distances are too large.
    """

    unit: str
    overlap_before: float
    overlap: float
    mutual_information_before: float
    mutual_information_final: float
    swap_consistency: float
    shift_consistency: float
    rotation_ratio: float
    folds_percent: float
    min_jacobian: float
    log_jacobian: float
    largest_change: float

    def as_dict(self) -> dict[str, Any]:
        """All of them, by name."""
        return self._asdict()


class Check(NamedTuple):
    """One check.

    Attributes:
        name: what was checked.
        level: ``passed``, ``warning`` or ``failed``.
        value: the measure, or None where it is not known.
        limit: from where it is not passed, or None where no limit is known; then nothing was compared, and the level
            is ``passed`` although the check does not count as passed, see :func:`level_text`.
        message: a sentence that says what was found, and what to try.
    """

    name: str
    level: Level
    value: float | None
    limit: float | None
    message: str


class Limits(NamedTuple):
    """Limits that a calibration sets, in the unit of the measures."""

    expected_error: float
    expected_error_failed: float
    swap_consistency: float
    shift_consistency: float


class Assessment(NamedTuple):
    """What is known of the quality of a registered pair.

    Attributes:
        measures: its measures.
        checks: the same names in the same order for the same model.
        maps: the consistency maps on the working grid.
        error: expected error of every voxel of the working grid, in its voxels; None where the model is not calibrated.
    """

    measures: Measures
    checks: tuple[Check, ...]
    maps: Consistency
    error: Float[Tensor, "*space"] | None


class LinearAssessment(NamedTuple):
    """What is known of the quality of a pair registered by a linear map; ``error`` is None, as nothing estimates it."""

    measures: LinearMeasures
    checks: tuple[Check, ...]
    error: None = None


def level_text(check: Check) -> str:
    """The level of a check for people: ``no limit`` where none is known, so that nothing was passed."""
    return "no limit" if check.level == "passed" and check.limit is None else check.level


def failures(checks: Sequence[Check]) -> list[str]:
    """Names of the checks that failed."""
    return [each.name for each in checks if each.level == "failed"]
