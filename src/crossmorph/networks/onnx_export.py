"""A model for slices as one ONNX graph: affine network, coarse, translation, fine, and the field of all of them.

ONNX has no matrix exponential, no solution of linear equations and no views by strides; PyTorch's convolution by oneDNN
is no operation of it either. While a model is exported, each of these is computed by operations that it has.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossmorph.errors import InputError
from crossmorph.functional import spatial
from crossmorph.functional.similarity import mi
from crossmorph.networks.affine import affine_displacement, apply_affine, centred_grid, same_place
from crossmorph.networks.checkpoint import Card, Model
from crossmorph.networks.hierarchy import Hierarchy
from crossmorph.system.environment import require_extra

OPSET = 18  # of ONNX; sampling on a grid came with 16, sums into a place (histograms) with 18
INPUTS = ("moving", "fixed", "smoothness")
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")
SQUARINGS, TERMS = 6, 8  # of the exponential: the error is below 1e-12 for matrices of norm 1


class Found(NamedTuple):
    """Outputs of the graph; fields in voxels of the grid, pull-back.

    Attributes:
        matrix: of the initial affine about the grid's centre, see :class:`crossmorph.networks.affine.Affine`.
        shift: of the same.
        aligned: the moving image after it.
        coarse: the coarse field.
        final: the field after all networks, to be applied to ``aligned``.
        displacement: that field and the initial affine in one, to be applied to the moving image.
        translated: the moving image in the fixed image's modality, moved by ``final``.
        information: mutual information of the images as given, after the initial affine and at the end, nats.
    """

    matrix: Float[Tensor, "1 2 2"]
    shift: Float[Tensor, "1 2"]
    aligned: Float[Tensor, "1 1 height width"]
    coarse: Float[Tensor, "1 2 height width"]
    final: Float[Tensor, "1 2 height width"]
    displacement: Float[Tensor, "1 2 height width"]
    translated: Float[Tensor, "1 1 height width"]
    information: Float[Tensor, " 3"]


class Chain(nn.Module):
    """All networks of a model one after the other, on images that lie on one grid of the model's shape and spacing.

    No stage is checked and rejected, and no other initial affine is tried, as
    :func:`crossmorph.registration.register_images.register_images` does.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        super().__init__()
        self.hierarchy = hierarchy

    def forward(
        self,
        moving: Float[Tensor, "1 1 height width"],
        fixed: Float[Tensor, "1 1 height width"],
        smoothness: Float[Tensor, " 1"],
    ) -> Found:
        """Both images in [0, 1]; smoothness from 0 (detailed) to 1 (stiff)."""
        affine = self.hierarchy.register_affine(moving, fixed, same_place(moving))
        aligned = spatial.warp(moving, affine_displacement(affine, moving), outside="zero")
        coarse = self.hierarchy.register_coarse(aligned, fixed, smoothness)
        result = self.hierarchy.go_on(aligned, fixed, coarse, smoothness)
        final = result.final.displacement
        there = apply_affine(affine, centred_grid(moving) + final, moving)
        displacement = there - spatial.identity_grid(tuple(moving.shape[2:]), device=moving.device)
        moved = spatial.warp(moving, displacement, outside="zero")
        information = torch.cat([mi(image, fixed) for image in (moving, aligned, moved)])
        translated = spatial.warp(result.translated, final)
        return Found(
            affine.matrix, affine.shift, aligned, coarse.displacement, final, displacement, translated, information
        )


def export_onnx(model: Model) -> bytes:
    """The chain of a model's networks as an ONNX file.

    Args:
        model: for slices, with an affine network and the smoothness as an input, as ``any-2d``.

    Returns:
        The file. Its inputs are ``INPUTS``, its outputs the fields of :class:`Found`, all float32, its grid that of the
        card's shape; name, spacing and the weights' SHA-256 are in its metadata.

    Raises:
        InputError: a model of another kind, or the extra ``onnx`` is not installed.
    """
    card = model.card
    _check_kind(card)
    require_extra("onnx")
    import onnx

    chain = Chain(model.hierarchy).eval()
    # Two tensors: of one, given twice, the exporter would make one input.
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 1, *card.shape, generator=generator).to(model.device) for _ in range(2)]
    given = (*images, torch.full((1,), card.hierarchy.smoothness, device=model.device))
    names: dict[str, Any] = {"input_names": list(INPUTS), "output_names": list(Found._fields)}
    with torch.no_grad(), _quiet():
        with Replaced():
            chain(*given)  # coordinates of grids are kept from now on; those of a graph that is being made must not be
            graph = torch.export.export(chain, given, strict=False)
        program: Any = torch.onnx.export(graph, dynamo=True, opset_version=OPSET, verbose=False, **names)
    proto = program.model_proto
    facts = {"model": card.name, "spacing": f"{card.spacing:g}", "weights_sha256": card.sha256}
    onnx.helper.set_model_props(proto, facts)
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells of its own steps and of packages that are not needed."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_kind(card: Card) -> None:
    spec = card.hierarchy
    low, high = spec.smoothness_range
    if spec.dim != 2 or spec.affine is None or low == high:
        have = f"{spec.dim}-D, {'no' if spec.affine is None else 'an'} affine network"
        one = ", one smoothness" if low == high else ""
        raise InputError(
            f"model {card.name}: {have}{one}; expected a model for slices with an affine network and the smoothness as "
            "an input, as any-2d (volumes begin with a search, which is no network)"
        )


def matrix_exponential(matrix: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch n n"]:
    """``exp(A) = (sum_k (A / 2^s)^k / k!)^(2^s)``, scaling and squaring of the Taylor series.

    In float64: every squaring doubles the rounding error of the one before. In float32 the matrix was wrong by 6e-6,
    the field by 7e-4 voxels.
    """
    scaled = matrix.double() / 2**SQUARINGS
    power = total = torch.eye(matrix.shape[-1]).to(scaled).expand_as(scaled)
    for k in range(1, TERMS + 1):
        power = power @ scaled / k
        total = total + power
    for _ in range(SQUARINGS):
        total = total @ total
    return total.to(matrix)


def solve(matrix: Float[Tensor, "batch n n"], right: Float[Tensor, "batch n m"]) -> Float[Tensor, "batch n m"]:
    """``X`` of ``A X = B``, ``A`` symmetric and positive definite: Gauss-Jordan without pivots, in float64."""
    size = matrix.shape[-1]
    rows = torch.cat([matrix, right], dim=-1).double()
    for k in range(size):
        pivot = rows[:, k : k + 1] / rows[:, k : k + 1, k : k + 1]
        others = (torch.arange(size, device=rows.device) != k).view(1, size, 1).to(rows)
        rows = others * (rows - rows[:, :, k : k + 1] * pivot) + (1 - others) * pivot
    return rows[:, :, size:].to(right)


def strided(source: Tensor, size: tuple[int, ...], stride: tuple[int, ...], offset: int | None = None) -> Tensor:
    """``as_strided`` of a contiguous tensor, by an index for each number; with an offset, PyTorch's own view."""
    if offset is not None:  # so does PyTorch with tensors of its own while it exports
        return torch.as_strided(source, size, stride, offset)
    axes = np.ix_(*(np.arange(count) * step for count, step in zip(size, stride, strict=True)))
    index = torch.from_numpy(np.asarray(sum(axes)).reshape(-1)).to(source.device)
    return source.reshape(-1)[index].reshape(size)


def convolved(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """The convolution of ``torch.mkldnn_convolution``, whatever computes it."""
    return F.conv2d(image, weight, bias, stride, padding, dilation, groups)


REPLACED: dict[Any, Callable[..., Tensor]] = {
    torch.linalg.matrix_exp: matrix_exponential,
    torch.linalg.solve: solve,
    torch.Tensor.as_strided: strided,
    torch.mkldnn_convolution: convolved,
}


class Replaced(TorchFunctionMode):
    """Within its block, what ONNX does not have is computed by what it has."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        """The replacement, or the function itself."""
        return REPLACED.get(function, function)(*arguments, **(options or {}))
