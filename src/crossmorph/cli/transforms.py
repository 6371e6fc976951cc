"""The commands that work on transforms. Heavy imports wait until a command needs them."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from crossmorph.errors import InputError

TRANSFORM_HELP = "Warp (.h5, .nii.gz) or affine (.mat, .tfm, .txt, .h5, .lta)."
MORE_HELP = "One more transform, which points go through next (antsApplyTransforms' order). Repeatable."

Transform = Annotated[Path, typer.Argument(metavar="XFM", help=TRANSFORM_HELP)]
More = Annotated[list[Path] | None, typer.Option("-t", "--then", metavar="XFM", help=MORE_HELP)]


def add_commands(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    for command in (apply, points, compose, invert, convert, jacobian):
        app.command()(command)


def _done(outputs: list[Path], cautions: list[str]) -> None:
    for caution in cautions:
        print(f"crossmorph: caution: {caution}", file=sys.stderr)
    for path in outputs:
        print(f"wrote {path}")


def apply(
    transform: Transform,
    images: Annotated[list[Path], typer.Argument(metavar="IN OUT [IN OUT]...", help="Images, and where to.")],
    then: More = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "-r",
            "--reference",
            metavar="PATH",
            help="Image whose grid the output has.",
            show_default="grid of the displacement field",
        ),
    ] = None,
    interp: Annotated[
        Literal["auto", "linear", "nearest", "genericlabel"],
        typer.Option(
            metavar="auto|linear|nearest|genericlabel",
            help="Interpolation; nearest or genericlabel (smoother) for labels; auto: nearest for evident labels.",
        ),
    ] = "auto",
    inverse: Annotated[
        bool, typer.Option("--inverse", help="The opposite direction; -r is then the moving image, or on its grid.")
    ] = False,
) -> None:
    """Move images by a transform, each sampled once."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.transform_files import ImageFiles, apply_files

    if len(images) % 2:
        raise InputError(f"apply: got {len(images)} image files, expected pairs IN OUT [IN OUT]...")
    files = [ImageFiles(*pair) for pair in zip(images[::2], images[1::2], strict=True)]
    with working("computing"):
        cautions = apply_files([transform, *(then or [])], files, reference, interp, inverse)
    _done([pair.target for pair in files], cautions)


def points(
    transform: Transform,
    source: Annotated[Path, typer.Argument(metavar="IN", help="CSV of ANTs (LPS mm) or Slicer, .fcsv or .mrk.json.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Table to write, in the same format.")],
    then: More = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="From the moving image to the fixed image.")] = False,
) -> None:
    """Move points: from the fixed image to the moving one, opposite to images (as antsApplyTransformsToPoints)."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.transform_points import points_file

    with working("computing"):
        cautions = points_file([transform, *(then or [])], source, target, inverse)
    _done([target], cautions)


def compose(
    transforms: Annotated[
        list[Path],
        typer.Argument(metavar="XFM... OUT", help="Transforms in the order of antsApplyTransforms -t, and the result."),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            "-r",
            "--reference",
            metavar="PATH",
            help="Image whose grid the output has.",
            show_default="grid of the first displacement field",
        ),
    ] = None,
) -> None:
    """Write several transforms as one."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.transform_files import compose_files

    *sources, output = transforms
    if not sources:
        raise InputError("compose: got one file, expected transforms and the file to write")
    with working("computing"):
        compose_files(sources, output, reference)
    _done([output], [])


def invert(
    transform: Transform,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Inverse to write.")],
    reference: Annotated[
        Path | None,
        typer.Option(
            "-r",
            "--reference",
            metavar="PATH",
            help="Image whose grid the inverse has, usually the moving image.",
            show_default="the transform's own grid",
        ),
    ] = None,
) -> None:
    """Write the inverse of a transform; refuse where it has none."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.transform_files import invert_file

    with working("computing"):
        invert_file(transform, output, reference)
    _done([output], [])


def convert(
    transform: Transform,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    to: Annotated[
        Literal["itk", "ants", "fsl", "freesurfer", "learn2reg"],
        typer.Option(
            metavar="itk|ants|fsl|freesurfer|learn2reg",
            help="Program that will read it; FreeSurfer: affine only, .lta.",
        ),
    ],
    moving: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Moving image, for FSL, FreeSurfer and Learn2Reg.")
    ] = None,
    fixed: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Fixed image, for affine transforms of FSL, FreeSurfer and Learn2Reg."),
    ] = None,
    source: Annotated[
        Literal["learn2reg"] | None,
        typer.Option("--from", metavar="learn2reg", help="XFM is a Learn2Reg field; needs --moving and --fixed."),
    ] = None,
) -> None:
    """Write a transform for another program."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.transform_files import convert_file

    with working("computing"):
        convert_file(transform, output, to, moving, fixed, source)
    _done([output], [])


def jacobian(
    transform: Transform,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Image to write, on the warp's grid.")],
    log: Annotated[bool, typer.Option("--log", help="Write the natural logarithm.")] = False,
) -> None:
    """Write the Jacobian determinant of a warp: above 1 where the moving image is larger, 0 or less where it folds."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.transform_files import jacobian_file

    with working("computing"):
        jacobian_file(transform, output, log)
    _done([output], [])
