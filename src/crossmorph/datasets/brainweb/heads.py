"""The heads of BrainWeb: the files of each, its tissues, and slices of it as tissue fractions and simulated scans."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from crossmorph.datasets.brainweb.files import Kind, Volume, read_fractions, read_intensities, read_labels
from crossmorph.errors import InputError
from crossmorph.simulation.anatomy import SHAPE, SPACING, slice_affine
from crossmorph.simulation.mri import RELAXATION, Modality, Tissue, bias_field, signal

Brain = Literal["normal", "msles1", "msles2", "msles3", "subjects"]
BRAINS: tuple[Brain, ...] = get_args(Brain)

NOISE, INU = (0, 1, 3, 5, 7, 9), (0, 20, 40)  # percent, as the site has them
THICKNESS = 1.0  # mm, of a slice
MIN_BRAIN = 100.0  # cm2 of brain that a slice must show
MIN_SUBJECTS = 3  # one for each split


class LabelledTissue(NamedTuple):
    """A class of a model: its name, what it is made of (None: no signal), and whether it belongs to the brain."""

    name: str
    relaxation: Tissue | None
    brain: bool = False


_CSF, _GM, _WM, _FAT, _MUSCLE = (RELAXATION[name] for name in ("csf", "gm", "wm", "fat", "muscle"))
# https://brainweb.bic.mni.mcgill.ca/tissue_mr_parameters.txt, where skin is as CSF, glia as grey and connective tissue
# as white matter.
_LESION = Tissue(752.0, 237.0, 204.0, 0.76)
PHANTOM_TISSUES = (
    LabelledTissue("CSF", _CSF, True),
    LabelledTissue("grey matter", _GM, True),
    LabelledTissue("white matter", _WM, True),
    LabelledTissue("fat", _FAT),
    LabelledTissue("muscle/skin", _MUSCLE),
    LabelledTissue("skin", _CSF),
    LabelledTissue("skull", None),
    LabelledTissue("glial matter", _GM, True),
    LabelledTissue("connective", _WM),
    LabelledTissue("MS lesion", _LESION, True),
)
# The site's table has no vessels, dura or marrow: they are taken for a fluid at rest, connective tissue and fat.
SUBJECT_TISSUES = (
    *PHANTOM_TISSUES[:4],
    LabelledTissue("muscle", _MUSCLE),
    LabelledTissue("muscle/skin", _MUSCLE),
    LabelledTissue("skull", None),
    LabelledTissue("vessels", _CSF),
    LabelledTissue("around fat", _FAT),
    LabelledTissue("dura", _WM),
    LabelledTissue("marrow", _FAT),
)
FUZZY = ("csf", "gry", "wht", "fat", "m+s", "skn", "skl", "gli", "mit", "wml")  # label k + 1 is FUZZY[k]


class Head(NamedTuple):
    """One anatomy and its files.

    Attributes:
        name: `normal`, `msles2`, `subject04`.
        kind: of its model, for the grid.
        model: one crisp model, or a fuzzy one of each tissue by label, from 1.
        images: simulated volumes of the site; a modality that is not there is simulated here.
    """

    name: str
    kind: Kind
    model: tuple[Path, ...]
    images: Mapping[Modality, Path]

    @property
    def tissues(self) -> tuple[LabelledTissue, ...]:
        """Of label 1, 2, .."""
        if self.kind == "subject":
            return SUBJECT_TISSUES
        return PHANTOM_TISSUES[: len(FUZZY) - (self.name == "normal")]


class LoadedHead(NamedTuple):
    """A head in memory: its model as :attr:`Head.model` has it, and its volumes in [0, 1]."""

    tissues: tuple[LabelledTissue, ...]
    model: tuple[Volume, ...]
    images: dict[Modality, Volume]


# --- files ------------------------------------------------------------------------------------------------------------


def choose_brain(source: Path, files: Iterable[str]) -> Brain:
    """The one brain whose files lie there.

    Args:
        source: The folder, for errors.
        files: Names as :func:`crossmorph.datasets.brainweb.files.find_files` gives them.

    Raises:
        InputError: If there are files of none or of several.
    """
    there = [brain for brain in BRAINS if any(("subject" if brain == "subjects" else brain) in name for name in files)]
    if not there:
        raise InputError(
            f"{source}: holds no file of BrainWeb; expected, as .mnc, .rawb, .raws (also .gz) or .nii.gz, names like "
            "t1_icbm_normal_1mm_pn3_rf20, phantom_1.0mm_normal_crisp, subject04_crisp_v"
        )
    if len(there) > 1:
        raise InputError(f"{source}: holds files of {', '.join(there)}; expected one of them to be chosen (--brain)")
    return there[0]


def choose_heads(
    source: Path, files: Mapping[str, Path], brain: Brain, noise: int, inu: int, modalities: Iterable[Modality]
) -> list[Head]:
    """The heads of a brain, each with its model and all volumes or none.

    Args:
        source: The folder, for errors.
        files: As :func:`crossmorph.datasets.brainweb.files.find_files` gives them.
        brain: Which.
        noise: Level of the volumes, percent.
        inu: Their intensity non-uniformity, percent.
        modalities: Those wanted. If the volume of one is there, those of all are expected.

    Raises:
        InputError: If a file is missing; it is named.
    """
    if brain == "subjects":
        return _choose_subjects(source, files)
    group = "icbm_normal" if brain == "normal" else f"ai_{brain}"
    wanted = {modality: f"{modality}_{group}_1mm_pn{noise}_rf{inu}" for modality in modalities}
    volumes = [name for name in files if f"_{group}_" in name]
    for name in wanted.values() if volumes else ():
        if name not in files:
            raise _missing(source, name, f"beside {', '.join(volumes)}")
    images = {modality: files[name] for modality, name in wanted.items() if volumes}
    return [Head(brain, "phantom", _choose_model(source, files, brain), images)]


def _choose_model(source: Path, files: Mapping[str, Path], brain: Brain) -> tuple[Path, ...]:
    """The fuzzy model, which has partial volumes, if it is complete, or else the crisp one."""
    tissues = FUZZY if brain != "normal" else FUZZY[:-1]
    fuzzy, crisp = [f"phantom_1.0mm_{brain}_{tissue}" for tissue in tissues], f"phantom_1.0mm_{brain}_crisp"
    lacking = [name for name in fuzzy if name not in files]
    if not lacking:
        return tuple(files[name] for name in fuzzy)
    if crisp in files:
        return (files[crisp],)
    raise _missing(
        source, crisp if len(lacking) == len(fuzzy) else lacking[0], "so no model of the tissues is complete"
    )


def _choose_subjects(source: Path, files: Mapping[str, Path]) -> list[Head]:
    subjects = sorted({name.split("_")[0] for name in files if name.startswith("subject")})
    with_t1 = [subject for subject in subjects if f"{subject}_t1w" in files]
    heads = []
    for subject in subjects:
        if f"{subject}_crisp" not in files:
            raise _missing(source, f"{subject}_crisp_v", "beside its T1w volume")
        if with_t1 and subject not in with_t1:
            raise _missing(source, f"{subject}_t1w", f"beside that of {with_t1[0]}; expected those of all subjects")
        images: dict[Modality, Path] = {"t1": files[f"{subject}_t1w"]} if with_t1 else {}
        heads.append(Head(subject, "subject", (files[f"{subject}_crisp"],), images))
    if len(heads) < MIN_SUBJECTS:
        raise InputError(
            f"{source}: holds models of {len(heads)} subjects ({', '.join(subjects)}); expected at least "
            f"{MIN_SUBJECTS}, so that no two splits share one"
        )
    return heads


def _missing(source: Path, name: str, where: str) -> InputError:
    return InputError(f"{source}: {name} is missing (.mnc, .rawb, .raws, also .gz, or .nii.gz), {where}")


# --- slices ----------------------------------------------------------------------------------------------------------


def load_head(head: Head) -> LoadedHead:
    """Read all files of a head.

    Raises:
        InputError: If one cannot be used; it is named.
    """
    if len(head.model) == 1:
        model: tuple[Volume, ...] = (read_labels(head.model[0], head.kind, len(head.tissues)),)
    else:
        model = tuple(read_fractions(path, head.kind) for path in head.model)
    image_kind: Kind = "subject-t1" if head.kind == "subject" else "phantom"
    images = {modality: read_intensities(path, image_kind) for modality, path in head.images.items()}
    return LoadedHead(head.tissues, model, images)


def brain_levels(head: LoadedHead) -> list[float]:
    """The levels (RAS mm) of slices, 1 mm apart and thick or one voxel, that show at least 100 cm2 of brain."""
    affine = head.model[0].affine
    planes = max(1, round(THICKNESS / affine[2, 2]))
    brain = [label for label, tissue in enumerate(head.tissues, start=1) if tissue.brain]
    if len(head.model) == 1:
        count = np.isin(head.model[0].data, brain).sum((0, 1))
    else:
        count = np.sum([head.model[label - 1].data.sum((0, 1), dtype=np.float64) for label in brain], axis=0)
    slices = count[: len(count) // planes * planes].reshape(-1, planes).mean(1)
    areas = slices * affine[0, 0] * affine[1, 1] / 100
    middles = affine[2, 3] + affine[2, 2] * (np.arange(len(slices)) * planes + (planes - 1) / 2)
    return [float(z_mm) for z_mm in middles[areas >= MIN_BRAIN]]


def slice_fractions(head: LoadedHead, z_mm: float) -> Float[np.ndarray, "label x y"]:
    """The part of each voxel of a slice that is of label 1, 2, ..; the remainder is background.

    Args:
        head: Of which head.
        z_mm: The level, RAS mm.

    Returns:
        On the grid of `anatomy.slice_affine`.
    """
    if len(head.model) == 1:
        labels = _slab(head.model[0], z_mm)
        planes = [(labels == label).mean(2) for label in range(1, len(head.tissues) + 1)]
    else:
        planes = [_slab(volume, z_mm).mean(2) for volume in head.model]
    fractions = np.stack([_onto_slice(plane, head.model[0].affine, z_mm) for plane in planes])
    return np.asarray(fractions / np.maximum(fractions.sum(0), 1))


def slice_image(volume: Volume, z_mm: float) -> Float[np.ndarray, "x y"]:
    """A slice of a volume in [0, 1], on the grid of `anatomy.slice_affine`."""
    return _onto_slice(_slab(volume, z_mm).mean(2), volume.affine, z_mm)


def _slab(volume: Volume, z_mm: float) -> np.ndarray:
    """The planes of a slice: all whose centres lie in it, at least the nearest."""
    spacing = volume.affine[2, 2]
    away = np.abs(volume.affine[2, 3] + spacing * np.arange(volume.data.shape[2]) - z_mm)
    return volume.data[:, :, (away < THICKNESS / 2) | (away == away.min())].astype(np.float32)


def _onto_slice(plane: np.ndarray, affine: np.ndarray, z_mm: float) -> np.ndarray:
    """A plane as voxels of 1.5 mm see it (full width at half maximum, its own in quadrature), by cubic splines."""
    if not plane.any():
        return np.zeros(SHAPE)
    target = slice_affine(z_mm)
    sigma = np.sqrt(max(SPACING**2 - affine[0, 0] ** 2, 0)) / np.sqrt(8 * np.log(2)) / affine[0, 0]
    blurred = scipy.ndimage.gaussian_filter(np.asarray(plane, np.float64), sigma)
    axes = [
        (target[axis, 3] + target[axis, axis] * np.arange(SHAPE[axis]) - affine[axis, 3]) / affine[axis, axis]
        for axis in (0, 1)
    ]
    sampled = scipy.ndimage.map_coordinates(blurred, np.meshgrid(*axes, indexing="ij"), order=3)
    return np.asarray(np.clip(sampled, 0, 1))


def scan(
    fractions: Float[np.ndarray, "label x y"],
    tissues: tuple[LabelledTissue, ...],
    modality: Modality,
    noise: int,
    inu: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "x y"]:
    """Simulate a scan as the site does: its sequences, Rician noise, and a smooth field over the intensities.

    The noise's standard deviation is that part of the signal of white matter (T1w) or CSF (T2w, PDw). The site's
    fields are from scans; these are random and of the same amplitude. https://brainweb.bic.mni.mcgill.ca/faq.html

    Args:
        fractions: The part of each voxel that is of label 1, 2, ..
        tissues: Of the labels.
        modality: `t1`, `t2` or `pd`.
        noise: Percent.
        inu: Percent: 20 spans 0.90 to 1.10 over the brain.
        rng: Source of both.

    Returns:
        The image, float32; the brightest tissue's signal without noise is 1, whatever the slice shows.
    """
    signals = np.array([signal(tissue.relaxation, modality) if tissue.relaxation else 0.0 for tissue in tissues])
    signals /= signals.max()
    brain = fractions[[tissue.brain for tissue in tissues]].sum(0) > 0.5
    clean = np.tensordot(signals, fractions, axes=1) * bias_field(brain, rng, inu / 100)
    reference = signals[2 if modality == "t1" else 0]
    real, imaginary = rng.standard_normal((2, *clean.shape)) * reference * noise / 100
    return np.hypot(clean + real, imaginary).astype(np.float32)
