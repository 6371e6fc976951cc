"""Options of `register` alone. Imports nothing heavy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from crossmorph.workflows.outputs import LabelFiles


def _label_files(value: tuple[str, str]) -> "LabelFiles":
    from crossmorph.workflows.outputs import LabelFiles

    return LabelFiles(Path(value[0]), Path(value[1]))


PairMovingArgument = Annotated[
    Path | None,
    typer.Argument(metavar="MOVING", help="Image to move: NIfTI, MetaImage, NRRD, MINC, DICOM folder, PNG, TIFF."),
]
PairFixedArgument = Annotated[Path | None, typer.Argument(metavar="FIXED", help="Image to move it to.")]
MovedOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="Required. Moved image, on the grid of the fixed image; with --pairs or --bids, a folder.",
    ),
]
TransformOption = Annotated[
    Path | None,
    typer.Option(
        "-t",
        "--transform",
        metavar="PATH",
        help="Transform for ITK, ANTs and 3D Slicer, .h5 or .nii.gz; of linear stages also .mat, .tfm, .txt, .lta.",
    ),
]
InverseOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Inverse transform, on the grid of the moving image.")
]
TranslatedOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Translated image, on the grid of the moving image.")
]
LabelsOption = Annotated[
    list[Any] | None,
    typer.Option(metavar="IN OUT", parser=_label_files, help="Also move a label map, by nearest voxel. Repeatable."),
]
ReportOption = Annotated[Path | None, typer.Option(metavar="PATH", help="Page (.html) or picture (.png, .pdf, .svg).")]
ErrorMapOption = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Expected error of every voxel, on the grid of the fixed image."),
]
AntsPrefixOption = Annotated[
    Path | None,
    typer.Option(
        metavar="P",
        help="The files that ANTs would write: P0GenericAffine.mat, P1Warp.nii.gz, P1InverseWarp.nii.gz.",
    ),
]
BeginOption = Annotated[
    str,
    typer.Option(
        metavar="affine|centers|none|FILE",
        help="Where to begin: initial affine estimated, centre on centre, as the headers say; or the file of a "
        "transform to go on from, a matrix or a warp.",
    ),
]
MovingMaskOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Where to look in the moving image: above 0. Any grid in its space.")
]
FixedMaskOption = Annotated[Path | None, typer.Option(metavar="PATH", help="Where to look in the fixed image.")]
IgnoreMovingOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="What to ignore in the moving image: above 0. A lesion, a cavity, an electrode; the field stays smooth.",
    ),
]
IgnoreFixedOption = Annotated[Path | None, typer.Option(metavar="PATH", help="What to ignore in the fixed image.")]
IgnoreOption = Annotated[
    str,
    typer.Option(
        metavar="none|auto",
        help="auto: register twice, and ignore what the images show differently after the first time.",
    ),
]
IgnoredOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="What was ignored in the fixed image, on its grid: 0 and 1.")
]
FurtherMovingOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--moving",
        metavar="PATH",
        help="A moving image of another contrast, in the place of MOVING; each with a --fixed. Repeatable.",
    ),
]
FurtherFixedOption = Annotated[
    list[Path] | None,
    typer.Option("--fixed", metavar="PATH", help="The fixed image that it goes with. Repeatable."),
]
PointsOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        metavar="MOVING FIXED",
        help="Tables of the same places in both images, row by row, that pull the field: .csv, .fcsv, .mrk.json.",
    ),
]
AccuracyOption = Annotated[
    float, typer.Option(metavar="MM", help="The field leads each point to within so many millimetres.")
]
PairsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Register every pair of a pairs.csv into folders of -o; finished pairs are skipped."
    ),
]
BidsOption = Annotated[
    bool, typer.Option("--bids", help="-o is a folder for moved image, transforms and sidecars with BIDS names.")
]
JobsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Processes for --pairs.")]
SchedulerOption = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask cluster for --pairs.")]
ProgressOption = Annotated[
    bool, typer.Option("--progress", help="Print each stage on standard error as it begins, for other programs.")
]
