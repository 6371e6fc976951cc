"""A registered pair made by hand, for the tests of its page, and what a page holds."""

import json
from html.parser import HTMLParser
from typing import Any

import nibabel
import numpy as np
from examples import check, measures
from numpy import ndarray
from scipy.ndimage import gaussian_filter

from crossmorph.images.image import Image
from crossmorph.quality.assessment import Check
from crossmorph.reports.registration_page import Content, Input, Stage
from crossmorph.transforms.warp import Warp

SPACING = (1.0, 1.5, 3.0)
SHAPE = (28, 24, 10)
MARK = (slice(3, 7), slice(15, 20), slice(6, 9))  # of a volume in RAS: left, anterior, superior
CHECKS = (
    Check("swap consistency", "passed", 0.2, 1.5, "fine."),
    Check("expected error", "passed", 0.8, 2.0, "The expected error is 0.8 mm."),
    Check("training images", "passed", 0.5, 1.0, "Alike."),
    check("folding", "failed", "it folds."),
    check("inverse consistency", "warning", "apart."),
)


def header(affine: ndarray, shape: tuple[int, ...], code: int = 1) -> nibabel.Nifti1Header:
    nifti = nibabel.Nifti1Image(np.zeros(shape, np.float32), affine)
    nifti.set_sform(affine, code)
    nifti.set_qform(affine, code)
    return nifti.header


def scene(dim: int, flips: tuple[int, ...] = (), order: tuple[int, ...] = (0, 1, 2)) -> Content:
    """One world, however its axes are stored: a dark fixed image with a mark, four stages, a small field."""
    rng = np.random.default_rng(0)
    shape, spacing = SHAPE[:dim], SPACING[:dim]
    affine = np.diag([*spacing, 1.0])
    affine[:dim, dim] = [-10.0 * size for size in spacing]
    fixed = 0.02 * rng.random(shape)
    fixed[MARK[:dim]] = 1
    moved = [gaussian_filter(rng.random(shape), 1) * scale for scale in (1, 2, 3, 4)]
    field = np.stack([5 * gaussian_filter(rng.standard_normal(shape), 4) + axis for axis in range(dim)])
    logarithm = rng.normal(0, 0.2, shape)
    logarithm[2, 3] = -np.inf
    error = rng.random(shape) * 3

    def voxels(data: ndarray) -> ndarray:
        data = np.flip(data, [data.ndim - dim + axis for axis in flips])
        axes = [*range(data.ndim - dim), *(data.ndim - dim + axis for axis in order[:dim])]
        return np.ascontiguousarray(data.transpose(axes))

    stored = affine
    for axis in flips:
        turn = np.eye(dim + 1)
        turn[axis, axis], turn[axis, dim] = -1, shape[axis] - 1
        stored = stored @ turn
    stored = stored[:, [*order[:dim], dim]]
    full = stored if dim == 3 else np.eye(4)
    if dim == 2:
        full[np.ix_([0, 1, 3], [0, 1, 3])] = stored
    head = header(full, tuple(shape[axis] for axis in order[:dim]))

    def image(data: ndarray) -> Image:
        return Image(voxels(data).astype(np.float32), stored, header=head)

    names = ("as given", "affine", "coarse", "fine")
    return Content(
        title="T2.nii.gz to T1.nii.gz",
        fixed=image(fixed),
        stages=[Stage(name, image(data)) for name, data in zip(names, moved, strict=True)],
        translated=image(moved[-1] / 4),
        warp=Warp(voxels(field).astype(np.float32), stored),
        jacobian=image(logarithm),
        error_map=image(error),
        checks=CHECKS,
        measures=measures(overlap=0.91, swap_consistency=0.2, residual=float("nan")),
        provenance={"command": "crossmorph register", "inputs": [{"path": "T2.nii.gz", "sha256": "0" * 64}]},
        inputs=[Input("moving", shape, spacing), Input("fixed", shape, spacing)],
        seconds={"coarse": 1.5, "fine": 0.25},
        labels={"labels.nii.gz": image(7 * (fixed == 1) + 300 * (np.indices(shape)[0] > 20))},
        date="2026-11-29 12:00 UTC",
        ants="antsApplyTransforms -d 3",
    )


class Parsed(HTMLParser):
    """Tags with their attributes, the text between them, and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] += data
        elif self._within != "style":
            self.text += f" {data}"

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])
