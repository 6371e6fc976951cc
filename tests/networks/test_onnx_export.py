"""A model as an ONNX graph: what stands in for operations that ONNX lacks, and ONNX Runtime beside PyTorch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import save_weights

from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.functional import spatial
from crossmorph.images.io import read_image
from crossmorph.networks.affine import Affine, affine_displacement
from crossmorph.networks.checkpoint import load_model
from crossmorph.networks.hierarchy import Flow
from crossmorph.networks.onnx_export import (
    INPUTS,
    Chain,
    Found,
    Replaced,
    export_onnx,
    matrix_exponential,
    solve,
    strided,
)

EQUAL = 1e-4  # of images in [0, 1], nats, or voxels
WHOLE = 3e-4  # of the whole chain, over which the last digits add up: PyTorch in float32 is 1.2e-4 from float64


def test_the_exponential_is_pytorchs() -> None:
    matrix = torch.randn(50, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(matrix_exponential(matrix), torch.linalg.matrix_exp(matrix), atol=1e-6, rtol=1e-6)
    turn = torch.tensor([[[0.0, -0.5], [0.5, 0.0]]])
    cosine, sine = np.cos(0.5), np.sin(0.5)
    torch.testing.assert_close(matrix_exponential(turn)[0].numpy(), np.float32([[cosine, -sine], [sine, cosine]]))


def test_linear_equations_are_solved() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 8, 8, generator=generator)
    matrix, right = root @ root.transpose(1, 2) + torch.eye(8), torch.randn(3, 8, 2, generator=generator)
    torch.testing.assert_close(solve(matrix, right), torch.linalg.solve(matrix, right), atol=1e-5, rtol=1e-4)


def test_views_by_strides_are_gathered() -> None:
    source = torch.arange(60.0).view(3, 20)
    torch.testing.assert_close(strided(source, (2, 3, 4), (20, 5, 2)), source.as_strided((2, 3, 4), (20, 5, 2)))


def pairs(folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Moving and fixed images of the phantom, which lie on the model's grid."""
    listed = read_pairs(folder / "test" / "pairs.csv")
    images = [[read_image(path).scaled().data for path in (pair.moving, pair.fixed)] for pair in listed]
    return [(torch.from_numpy(moving)[None, None], torch.from_numpy(fixed)[None, None]) for moving, fixed in images]


@torch.inference_mode()
def test_replacements_change_nothing_but_the_last_digits(phantom: Path) -> None:
    chain, smoothness = Chain(load_model("any-2d", "cpu").hierarchy), torch.tensor([0.25])
    moving, fixed = pairs(phantom)[0]
    plain = chain(moving, fixed, smoothness)
    with Replaced():
        replaced = chain(moving, fixed, smoothness)
    for name, ours, theirs in zip(Found._fields, replaced, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=WHOLE, rtol=0, msg=name)
    given, aligned, after = plain.information.tolist()
    assert given < aligned < after
    assert plain.displacement.abs().max() > 2


@pytest.mark.parametrize("name", ["any-3d", "small"])
def test_other_models_are_refused(name: str, tmp_path: Path) -> None:
    save_weights(tmp_path, seed=0)
    with pytest.raises(InputError, match=r"no affine network.*expected a model for slices"):
        export_onnx(load_model(str(tmp_path) if name == "small" else name, "cpu"))


@pytest.mark.slow
@torch.inference_mode()
def test_onnx_runtime_computes_what_pytorch_does(exported: Path, phantom: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == list(INPUTS)
    facts = session.get_modelmeta().custom_metadata_map
    model = load_model("any-2d", "cpu")
    hierarchy = model.hierarchy
    assert facts == {"model": "any-2d", "spacing": "1.5", "weights_sha256": model.card.sha256}
    chain = Chain(hierarchy)
    for smoothness, (moving, fixed) in zip((0.0, 0.25, 0.8), pairs(phantom), strict=True):
        wanted = torch.tensor([smoothness])
        given = {name: each.numpy() for name, each in zip(INPUTS, (moving, fixed, wanted), strict=True)}
        found = Found(*map(torch.from_numpy, session.run(list(Found._fields), given)))

        # Each stage, from what ONNX Runtime made of those before.
        def close(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
            torch.testing.assert_close(ours, theirs, atol=EQUAL, rtol=0, msg=lambda text: f"{name}: {text}")

        expected = chain(moving, fixed, wanted)
        close(found.matrix, expected.matrix, "matrix")
        close(found.shift, expected.shift, "shift")
        affine = affine_displacement(Affine(found.matrix, found.shift), moving)
        close(found.aligned, spatial.warp(moving, affine, outside="zero"), "aligned")
        coarse = hierarchy.register_coarse(found.aligned, fixed, wanted).displacement
        close(found.coarse, coarse, "coarse")
        result = hierarchy.go_on(found.aligned, fixed, Flow(found.coarse, torch.zeros_like(coarse)), wanted)
        close(found.final, result.final.displacement, "final")
        close(found.translated, spatial.warp(result.translated, found.final), "translated")
        for name, ours, theirs in zip(Found._fields, found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=WHOLE, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
            print(name, float((ours - theirs).abs().max()))
