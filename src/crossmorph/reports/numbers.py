"""The numbers of a registration as pages show them: in groups, each with what it means and its limit."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from crossmorph.quality.assessment import Check, LinearMeasures, Measures, TransformMeasures

ESTIMATE, FAMILIAR = "expected error", "training images"  # names of checks
NO_ESTIMATE = "no estimate for images like these"


class Meaning(NamedTuple):
    """What a measure is called, what it means, and the check that compares it with a limit."""

    title: str
    sentence: str
    check: str = ""


class Number(NamedTuple):
    """A row of a page: ``limit`` is empty where there is none, ``check`` is the anchor of the row that compares it."""

    title: str
    value: str
    limit: str
    check: str
    sentence: str


# Every measure of crossmorph.quality.assessment.Measures and TransformMeasures but the unit, by groups.
GROUPS: dict[str, dict[str, Meaning]] = {
    "Expected error": {
        "expected_error": Meaning(
            "Expected error, median ({unit})",
            "Estimated distance from the true correspondence, half of the foreground being closer; learned on "
            "simulated pairs.",
            ESTIMATE,
        ),
        "remaining_displacement": Meaning(
            "Displacement still wanted, median ({unit})",
            "How far crossmorph's own registration moves the image from where the transform puts it.",
        ),
        "remaining_displacement_95": Meaning(
            "Displacement still wanted, 95th percentile ({unit})",
            "The same, exceeded by a twentieth of the foreground.",
        ),
        "own_expected_error": Meaning(
            "Expected error of that registration, median ({unit})", "How sure crossmorph is of its own result."
        ),
        "training_distance": Meaning(
            "Distance from the training images, of its limit",
            "How unlike the simulated images these two are; from 1 on there is no estimate of the error.",
            FAMILIAR,
        ),
        "swap_consistency": Meaning(
            "Change when the images are swapped, median ({unit})",
            "How far the field moves when fixed and moving image change places; a right field hardly moves.",
            "swap consistency",
        ),
        "swap_consistency_quartile": Meaning(
            "Change when the images are swapped, lower quartile ({unit})",
            "The same, over the quarter of the foreground that changes least.",
        ),
        "shift_consistency": Meaning(
            "Change when the moving image is shifted, median ({unit})",
            "How far the field moves when the registration begins a few voxels away; a right field hardly moves.",
            "shift consistency",
        ),
        "shift_consistency_quartile": Meaning(
            "Change when the moving image is shifted, lower quartile ({unit})",
            "The same, over the quarter of the foreground that changes least.",
        ),
    },
    "Similarity": {
        "mutual_information_before": Meaning(
            "Mutual information, as given (nats)",
            "How much one image tells about the other where the files' headers place them; more is better.",
        ),
        "mutual_information_initial": Meaning(
            "Mutual information, after the initial affine (nats)", "The same after the initial affine."
        ),
        "mutual_information_coarse": Meaning(
            "Mutual information, coarse stage (nats)", "The same after the first deformable stage."
        ),
        "mutual_information_fine": Meaning(
            "Mutual information, fine stage (nats)", "The same after the stage that uses the translated image."
        ),
        "mutual_information_refined": Meaning(
            "Mutual information, after instance optimisation (nats)", "The same after the optimisation of this pair."
        ),
        "mutual_information_final": Meaning(
            "Mutual information, of the result (nats)",
            "The same of the result; it must not be much less than at the beginning.",
            "mutual information",
        ),
        "mutual_information_own": Meaning(
            "Mutual information, after crossmorph's own registration from there (nats)", "The same after that one."
        ),
        "local_correlation": Meaning(
            "Squared local correlation, mean",
            "How well the intensities go together in small windows: 0 not at all, 1 perfectly.",
        ),
        "residual": Meaning(
            "Difference of translated and fixed image, median (of 1)",
            "What is left between the two in the fixed image's contrast; 1 is its whole range of intensities.",
        ),
        "rotation_ratio": Meaning(
            "Mutual information with the moving image rotated by 180 degrees, as a multiple",
            "Above 1 the images agree better upside down.",
            "orientation",
        ),
        "mirror_ratio": Meaning(
            "Mutual information with left and right exchanged, as a multiple",
            "Above 1 the images agree better mirrored: one header may be wrong.",
            "left and right",
        ),
        "translation_correlation": Meaning(
            "Correlation of translated and fixed image",
            "How well the translation looks like the fixed image, over the foreground: 1 is perfect.",
            "translation",
        ),
    },
    "Geometry": {
        "overlap_before": Meaning(
            "Overlap of the fields of view, by the headers",
            "The part of the fixed image's field of view that the moving image covers.",
            "overlap",
        ),
        "overlap": Meaning("Overlap of the fields of view, after the initial affine", "The same once it is aligned."),
        "points_initial": Meaning(
            "Corresponding points, after the initial affine ({unit})",
            "Largest distance of where a point is led from where it should be.",
        ),
        "points_final": Meaning(
            "Corresponding points, of the result ({unit})", "The same after the whole transform.", "points"
        ),
        "points_accuracy": Meaning(
            "Accuracy of the points ({unit})", "To within which each point was to be led to its partner."
        ),
        "ignored": Meaning(
            "Ignored in the fixed image (cubic {unit}; of slices square)",
            "The size of what was no evidence, say a lesion; the field is smooth across it.",
        ),
        "folds_percent": Meaning(
            "Grid cells that fold (%)", "Where a field folds, several places are moved to one.", "folding"
        ),
        "min_jacobian": Meaning(
            "Smallest Jacobian determinant", "The strongest local change of volume: 1 none, 0 or less a fold."
        ),
        "log_jacobian": Meaning(
            "Factor of volume, 99th percentile",
            "By how much volumes shrink or grow, but for the most extreme hundredth.",
            "stretch",
        ),
        "inverse_consistency_median": Meaning(
            "Inverse consistency, median ({unit})", "How far from its place a point ends after going there and back."
        ),
        "inverse_consistency": Meaning(
            "Inverse consistency, 99th percentile ({unit})",
            "The same, exceeded by a hundredth of the points.",
            "inverse consistency",
        ),
        "largest_change": Meaning(
            "Largest change that counts as the same ({unit})",
            "A linear map found again, with the images exchanged or from aside, may lie so far off in the mean.",
        ),
        "working_spacing": Meaning(
            "Voxel of the working grid ({unit})", "The networks see nothing that is finer than this."
        ),
    },
    "Stages": {
        "rejected_stages": Meaning("Rejected stages", "Stages that made the result worse and were left out.", "stages"),
        "refine_steps": Meaning("Steps of instance optimisation", "How often the field of this pair was improved."),
    },
}
MEASURES = {name: meaning for group in GROUPS.values() for name, meaning in group.items()}
FLOORS = ("mutual information", "overlap")  # checks whose limit is the least that passes


def estimate_applies(checks: Sequence[Check]) -> bool:
    """Whether the expected error means something for these images: not where they are unlike the training images."""
    return all(check.level == "passed" for check in checks if check.name == FAMILIAR)


def shown_checks(checks: Sequence[Check]) -> list[Check]:
    """The checks that have something to say: the one of the expected error has not where that does not apply."""
    applies = estimate_applies(checks)
    return [check for check in checks if applies or check.name != ESTIMATE]


def anchor(check: str) -> str:
    """The id of a check's row."""
    return "check-" + re.sub(r"[^a-z0-9]+", "-", check.lower())


def numbers_of(
    measures: Measures | TransformMeasures | LinearMeasures, checks: Sequence[Check]
) -> dict[str, list[Number]]:
    """The measures that are known, by groups; groups without any are left out."""
    known = measures.as_dict()
    if known.get("expected_error") is not None and not estimate_applies(checks):
        known["expected_error"] = NO_ESTIMATE
    if "log_jacobian" in known:  # as the check compares it
        known["log_jacobian"] = math.exp(min(known["log_jacobian"], 20))
    limits = {check.name: limit_of(check) for check in shown_checks(checks)}
    return {
        group: rows
        for group, meanings in GROUPS.items()
        if (rows := [_row(meanings[name], known[name], measures.unit, limits) for name in meanings if name in known])
    }


def _row(meaning: Meaning, value: float | int | str, unit: str, limits: Mapping[str, str]) -> Number:
    compared = meaning.check in limits
    return Number(
        meaning.title.replace("{unit}", unit),
        value if isinstance(value, str) else number_text(value),
        limits.get(meaning.check, ""),
        anchor(meaning.check) if compared else "",
        meaning.sentence,
    )


def limit_of(check: Check) -> str:
    """The limit of a check to read, empty where none is known."""
    if check.limit is None:
        return ""
    return f"{'≥' if check.name in FLOORS else '≤'} {number_text(check.limit)}"


def number_text(value: float | int) -> str:
    """A number in a few digits."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{value:.0f}" if value == round(value) else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"
