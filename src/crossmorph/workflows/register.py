"""Registration in a program: images in whatever form they are at hand, results in the same form."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.conversion import as_image, in_form_of
from crossmorph.images.image import Image, ImageLike
from crossmorph.networks.checkpoint import DEFAULT_MODELS, Model, find_card, find_device, load_model
from crossmorph.provenance.record import Run, Source, file_source, memory_source, plain_settings, weights_of
from crossmorph.quality.checks import assess
from crossmorph.quality.linear_checks import assess_linear
from crossmorph.registration.continuation import continued, laid
from crossmorph.registration.disagreement import with_disagreement
from crossmorph.registration.evidence import NOTHING, Evidence
from crossmorph.registration.linear import register_images_linear
from crossmorph.registration.register_images import Registered, register_images
from crossmorph.registration.settings import (
    IGNORE,
    NAMED_INITS,
    REGISTRATION_STAGES,
    Init,
    Refine,
    Settings,
    refinement_seconds,
)
from crossmorph.system.progress import stage
from crossmorph.transforms.transform_chain import read_chain
from crossmorph.transforms.warp import resample
from crossmorph.workflows.further_inputs import (
    NO_MORE,
    FurtherInputs,
    further_inputs,
    further_sources,
    read_further,
)
from crossmorph.workflows.result import Result


def register(
    moving: ImageLike,
    fixed: ImageLike,
    *,
    model: str | Model | None = None,
    init: str | Path | Float[ndarray, "n n"] = "affine",
    smoothness: float | None = None,
    refine: Refine = "auto",
    device: str = "auto",
    stage: str = "deformable",
    ignore: str = "none",
    points_accuracy: float = 2.0,
    **further: Any,
) -> Result:
    """Register two images of different modality.

    Args:
        moving: the image to move: a path, a nibabel or SimpleITK image, ``(array, affine)`` with the array's voxel
            indices to RAS millimetres, or an :class:`Image`; of two or three dimensions.
        fixed: the image to move it to; its form is the form of the result.
        model: a shipped model's name, a folder that ``train`` wrote, or what ``load_model`` gave; None is the shipped
            one of the fixed image's dimension.
        init: the initial affine: ``affine`` (found), ``centers`` (centre on centre), ``none`` (as the headers say), the
            path of a transform to go on from (an affine one, or, unless the stage is linear, a warp), or a matrix,
            fixed space to moving space in RAS millimetres.
        smoothness: of the field, from 0 (detailed) to 1 (stiff); None is the model's own.
        refine: instance optimisation of this pair: ``auto`` (volumes yes, slices no), ``on`` (until it stops gaining),
            ``off``, or seconds.
        device: a torch device, or ``auto``: that of a model which is loaded already, else CUDA where there is one, else
            the CPU.
        stage: ``rigid``, ``similarity`` or ``affine``, by no network, or ``deformable``.
        ignore: ``auto`` registers twice, and ignores the second time what the images show differently after the first;
            ``none``.
        points_accuracy: millimetres to within which corresponding points are led to each other.
        further: masks (``fixed_mask``, ``moving_mask``), what to ignore (``ignore_fixed``, ``ignore_moving``), further
            images of each side (``others``) and corresponding ``points``, see
            :class:`crossmorph.workflows.further_inputs.FurtherInputs`.

    Raises:
        InputError: an image, a model or a setting cannot be used.
    """
    ours, theirs = as_image(moving, "moving image"), as_image(fixed, "fixed image")
    start = init if isinstance(init, ndarray) else str(init)
    settings = Settings(start, smoothness, refine, None, stage, ignore, points_accuracy)
    result = _registered(ours, theirs, (moving, fixed), model, settings, device, further_inputs(further))
    return replace(
        result,
        moved=in_form_of(result.moved, fixed),
        translated=in_form_of(result.translated, moving),
    )


def _registered(
    ours: Image,
    theirs: Image,
    given: tuple[ImageLike, ImageLike],
    model: str | Model | None,
    settings: Settings,
    device: str,
    further: FurtherInputs,
) -> Result:
    """The result of two images, ``given`` in some form and read, in the form in which they were read."""
    init = settings.init
    check_settings(settings, device)
    check_networks(settings, model, further)
    loaded, card = (None, None) if settings.freedom else find_model(model, theirs.dim, device)
    sources = [
        file_source(role, source) if isinstance(source, (str, Path)) else memory_source(role, image)
        for role, source, image in zip(("moving", "fixed"), given, (ours, theirs), strict=True)
    ]
    if isinstance(init, str) and init not in NAMED_INITS:
        sources.append(file_source("init", find_init(init)))
    evident = read_further(ours, theirs, further, settings.points_accuracy)
    run = run_of("crossmorph.register, in Python", [*sources, *further_sources(further)], loaded, card, settings)
    settings = settings._replace(init=read_init(init, ours, theirs, settings.stage))
    return register_read(evident.moving, evident.fixed, loaded, settings, run, evident.evidence)


def register_read(
    moving: Image,
    fixed: Image,
    model: Model | None,
    settings: Settings,
    run: Run,
    evidence: Evidence = NOTHING,
) -> Result:
    """Register two images and assess the result.

    Args:
        moving: the image to move.
        fixed: the image to move it to.
        model: weights; None for a linear stage.
        settings: how, the initial affine read already.
        run: what decides the result, for its record.
        evidence: what is given beside the two images; nothing for a linear stage.

    Raises:
        InputError: as of :func:`crossmorph.registration.register_images.register_images`, or of
            :func:`crossmorph.registration.linear.register_linear`.
    """
    if settings.freedom is not None:
        linear = register_images_linear(moving, fixed, settings.freedom, settings.init)
        moved = replace(resample(moving, linear.warp), header=fixed.header)
        run = run._replace(settings={**run.settings, "refine": "off"})
        return Result(moved, linear.translated, moving, fixed, linear, assess_linear(linear, moving, fixed), run)
    assert model is not None
    if isinstance(settings.init, tuple):
        if evidence != NOTHING or settings.ignore == "auto":
            raise InputError("init is a warp; expected an affine one with points, further images or ignore auto")
        steps, start = settings.init, laid(moving, fixed, settings.init)
        registered = register_images(start, fixed, model, settings._replace(init="none"))
        assessment = assess(registered, start, fixed)
        registered = continued(registered, moving, fixed, start, steps)
    else:
        start = None
        if settings.ignore == "auto":
            fixed = _without_disagreement(moving, fixed, model, settings, evidence)
        registered = register_images(moving, fixed, model, settings, evidence)
        assessment = assess(registered, moving, fixed)
    moved = replace(resample(moving, registered.warp), header=fixed.header)
    run = run._replace(settings={**run.settings, **_as_done(settings, registered)})
    return Result(moved, registered.translated, moving, fixed, registered, assessment, run, start)


def _without_disagreement(moving: Image, fixed: Image, model: Model, settings: Settings, evidence: Evidence) -> Image:
    """The fixed image, with what the two show differently after a first registration ignored."""
    # Of no limited time, so that the same images give the same bits.
    refine = settings.refine if isinstance(settings.refine, str) else "on"
    found = register_images(moving, fixed, model, settings._replace(refine=refine, refine_steps=None), evidence)
    stage("disagreement")
    ignoring = with_disagreement(fixed, found.pair, found.result, found.grid)
    return fixed if ignoring is None else ignoring


def _as_done(settings: Settings, registered: Registered) -> dict[str, Any]:
    """What the settings that leave a choice came to: the smoothness, whether it was refined, and by how many steps."""
    networks, refinement = registered.model.card.hierarchy, registered.refinement
    low, high = networks.smoothness_range
    smoothness = networks.smoothness if settings.smoothness is None and low != high else settings.smoothness
    refine = settings.refine
    if refine == "auto":
        refine = "off" if refinement is None else "on"
    steps = None if refinement is None else refinement.steps
    return {"smoothness": smoothness, "refine": refine, "refine_steps": steps}


def check_settings(settings: Settings, device: str | None = None) -> None:
    """Refuse settings by which no pair can be registered, whatever its images, and a device that is not there.

    Raises:
        InputError: says what was received and what is expected.
    """
    refinement_seconds(settings.refine, dim=3)
    if settings.ignore not in IGNORE:
        raise InputError(f"ignore {settings.ignore!r}: expected {', '.join(IGNORE)}")
    accuracy = settings.points_accuracy
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 < accuracy < math.inf:
        raise InputError(f"points accuracy {accuracy!r}: expected millimetres above 0")
    if settings.stage not in REGISTRATION_STAGES:
        raise InputError(f"stage {settings.stage!r}: expected {', '.join(REGISTRATION_STAGES)}")
    if isinstance(settings.smoothness, bool) or not isinstance(settings.smoothness, int | float | None):
        raise InputError(f"smoothness {settings.smoothness!r}: expected 0 (detailed) to 1 (stiff)")
    if isinstance(settings.init, str) and settings.init not in NAMED_INITS:
        find_init(settings.init)
    if device is not None:
        find_device(device)


def check_networks(settings: Settings, model: str | Model | None, further: FurtherInputs = NO_MORE) -> None:
    """Refuse what only networks and the refinement understand, for a linear stage. Raises InputError."""
    given = {
        "--ignore auto": settings.ignore == "auto",
        "further images": bool(further.others),
        "--points": further.points is not None,
        "--model": model is not None,
        "--smoothness": settings.smoothness is not None,
        "--refine": settings.refine not in ("auto", "off"),
    }
    if further.others and settings.refine == "off":
        raise InputError("refine off: further images take part in the refinement alone; expected --refine auto or on")
    if settings.freedom is not None and any(given.values()):
        received = ", ".join(option for option, wanted in given.items() if wanted)
        raise InputError(f"stage {settings.stage}: received {received}; expected none, that is for deformable")


def find_model(model: str | Model | None, dim: int, device: str) -> tuple[Model, Path | None]:
    """The weights of a name, or the shipped ones of a dimension, and their card; None for a model in memory.

    Raises:
        InputError: no such model or device, or a model in memory that is on another device.
    """
    if isinstance(model, Model):
        wanted = model.device if device == "auto" else find_device(device)
        if (wanted.type, wanted.index or 0) != (model.device.type, model.device.index or 0):
            raise InputError(f"device {device}: the model is on {model.device}; expected auto or {model.device}")
        return model, None
    name = model or DEFAULT_MODELS[dim]
    return load_model(name, device), find_card(name)


def run_of(command: str, sources: Sequence[Source], model: Model | None, card: Path | None, settings: Settings) -> Run:
    """What decides a result, for its record.

    Args:
        command: what was called.
        sources: the inputs; the moving and the fixed image first.
        model: weights; None for a linear stage.
        card: of the model, or None where it is in memory.
        settings: how; the initial affine by its name or as a matrix.
    """
    threads = torch.get_num_threads()
    weights = None if model is None else weights_of(model.card, card)
    device = "cpu" if model is None else str(model.device)
    return Run(command, tuple(sources), weights, plain_settings(settings), device, threads)


def find_init(name: str | Path) -> Path:
    """The file of an initial affine. Raises InputError where there is none."""
    if not Path(name).exists():
        expected = f"{', '.join(NAMED_INITS)} or the file of a transform"
        raise InputError(f"--init {name}: no such file; expected {expected}")
    return Path(name)


def read_init(init: Init, moving: Image, fixed: Image, stage: str = "deformable") -> Init:
    """One of the named initial affines or a matrix as it is, and anything else as the file of a transform.

    Raises:
        InputError: no such file, not a transform, a warp where the stage is linear, or not an invertible matrix of the
            images' dimension.
    """
    if isinstance(init, ndarray):
        size = fixed.dim + 1
        if init.shape != (size, size) or not np.isfinite(init).all() or np.linalg.det(init) == 0:
            raise InputError(f"init {init.tolist()}: expected an invertible matrix of {size} x {size} finite numbers")
        return init
    if isinstance(init, tuple) or init in NAMED_INITS:
        return init
    (step,) = read_chain([find_init(init)], moving, fixed)
    if isinstance(step, ndarray):
        return step
    if stage != "deformable":
        raise InputError(f"--init {init}: is a warp; expected an affine transform, or --stage deformable")
    return (step,)
