"""The commands that make datasets. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crossmorph.cli.options import FolderOption
from crossmorph.errors import InputError

if TYPE_CHECKING:
    from crossmorph.datasets.brainweb.heads import Brain

app = typer.Typer(rich_markup_mode=None, help="Make a dataset: images and a pairs.csv.", no_args_is_help=True)

SeedOption = Annotated[int, typer.Option(min=0, metavar="N", help="Seed.")]
PdOption = Annotated[bool, typer.Option("--pd", help="Add PDw images and lists of PDw to T1w pairs.")]


@app.command()
def phantom(
    output: FolderOption,
    dim: Annotated[int, typer.Option(min=2, max=3, metavar="N", help="3: brain volumes, without training images.")] = 2,
    seed: SeedOption = 0,
    rough: Annotated[bool, typer.Option("--rough", help="Add a second, harder test split.")] = False,
    pd: PdOption = False,
    extra: Annotated[
        str, typer.Option(metavar="NAMES", help="More test splits, comma-separated: contrasts,heads,far.")
    ] = "",
    train: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Training images per modality.", show_default="396")
    ] = None,
    test: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Test pairs.", show_default="96; volumes 10")
    ] = None,
    validation: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Validation pairs.", show_default="24; volumes 6")
    ] = None,
) -> None:
    """Simulate T2w and T1w brain slices or volumes with known deformations, from tissue maps that nilearn ships."""
    if dim == 3:
        from crossmorph.datasets.phantom_3d import prepare_volumes

        if rough or pd or extra or train:
            raise InputError("prepare phantom --dim 3: expected none of --rough, --pd, --extra, --train")
        lists = prepare_volumes(output, seed, validation or 6, test or 10)
    else:
        from crossmorph.datasets.phantom import prepare_phantom
        from crossmorph.datasets.test_splits import default_pairs

        added = default_pairs(extra.split(",") if extra else [])
        lists = prepare_phantom(
            output, seed, rough, pd, train=train or 396, test=test or 96, validation=validation or 24, extra=added
        )
    _tell(lists)


@app.command()
def brainweb(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder with files from BrainWeb: .mnc, .rawb, .raws, .nii.gz.")
    ],
    output: FolderOption,
    seed: SeedOption = 0,
    train: Annotated[int, typer.Option(min=1, metavar="N", help="Training images per modality.")] = 396,
    test: Annotated[int, typer.Option(min=1, metavar="N", help="Test pairs.")] = 96,
    validation: Annotated[int, typer.Option(min=1, metavar="N", help="Validation pairs.")] = 24,
    brain: Annotated[
        str | None,
        typer.Option(
            metavar="normal|msles1|msles2|msles3|subjects",
            help="Which head.",
            show_default="the one in SOURCE; with --download, normal",
        ),
    ] = None,
    noise: Annotated[
        int, typer.Option(metavar="N", help="Percent of noise; pn3 in the names of volumes; for models, to simulate.")
    ] = 3,
    inu: Annotated[
        int,
        typer.Option(
            metavar="N", help="Percent of non-uniformity; rf20 in the names of volumes; for models, to simulate."
        ),
    ] = 20,
    pd: PdOption = False,
    download: Annotated[
        bool, typer.Option("--download", help="First download the files of that head that SOURCE lacks.")
    ] = False,
) -> None:
    """Deform T2w and T1w slices of BrainWeb, from its volumes or simulated from its models, by known fields."""
    from crossmorph.datasets.brainweb.dataset import check_choice, prepare_brainweb
    from crossmorph.datasets.brainweb.download import download_brainweb

    chosen: Brain | None = check_choice(brain or ("normal" if download else None), noise, inu)
    if download:
        assert chosen is not None
        download_brainweb(source, chosen, noise, inu, ("t2", "t1", "pd") if pd else ("t2", "t1"))
    _tell(prepare_brainweb(source, output, seed, train, test, validation, chosen, noise, inu, pd))


@app.command()
def brats(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder with cases of BraTS, 2015 to 2023 and later.")
    ],
    output: FolderOption,
    seed: SeedOption = 0,
    train: Annotated[int, typer.Option(min=1, metavar="N", help="Training images per modality.")] = 1416,
    test: Annotated[int, typer.Option(min=1, metavar="N", help="Test pairs.")] = 294,
    validation: Annotated[int, typer.Option(min=1, metavar="N", help="Validation pairs.")] = 24,
) -> None:
    """Pair T2w and T1w slices of BraTS, subject to subject."""
    from crossmorph.datasets.brats.dataset import prepare_brats

    _tell(prepare_brats(source, output, seed, train, test, validation))


@app.command()
def anatomies(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Folders of label maps, at any depth.")],
    output: FolderOption,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="CSV label,structure,tissue,signal.",
            show_default="recognised: aseg, MUSE, tissues",
        ),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(metavar="PATH", help="CSV person,split.", show_default="by a hash, 8 : 1 : 1")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Bring label maps of people (FreeSurfer, SynthSeg, MUSE, tissues) into one set, to train on and test with."""
    from crossmorph.datasets.anatomies import SPLITS, prepare_anatomies

    prepared = prepare_anatomies(sources, output, table, splits, seed)
    for path, reason in prepared.refused.items():
        print(f"refused {path}: {reason}")
    people = prepared.anatomies.people
    counts = ", ".join(f"{sum(person.split == split for person in people)} {split}" for split in SPLITS)
    print(f"wrote {output}: {len(people)} label maps ({counts}), {len(prepared.anatomies.structures)} structures")


@app.command()
def people(
    source: Annotated[Path, typer.Argument(metavar="ANATOMIES", help="Folder made by prepare anatomies.")],
    output: FolderOption,
    split: Annotated[
        str, typer.Option(metavar="train|validation|test", help="Split whose people are shown.")
    ] = "validation",
    pairs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of pairs.", show_default="as many as people")
    ] = None,
    spacing: Annotated[float, typer.Option(metavar="MM", help="Voxel size.")] = 2.0,
    show: Annotated[
        str, typer.Option(metavar="all|heads|brains", help="heads: whole heads only; brains: skull-stripped.")
    ] = "all",
    aligned: Annotated[bool, typer.Option("--aligned", help="Align people by their affine maps.")] = False,
    moving: Annotated[str, typer.Option(metavar="t1|t2|flair|pd|ct", help="Contrast of the moving images.")] = "t2",
    fixed: Annotated[str, typer.Option(metavar="t1|t2|flair|pd|ct", help="Contrast of the fixed images.")] = "t1",
    seed: SeedOption = 0,
) -> None:
    """Simulate pairs of different people with labels, from label maps."""
    from crossmorph.datasets.people_pairs import pairs_spec, prepare_people

    spec = pairs_spec(
        split=split,
        pairs=pairs,
        spacing=spacing,
        show=show,
        aligned=aligned,
        moving=moving,
        fixed=fixed,
        seed=seed,
    )
    _tell({split: prepare_people(source, output, spec)})


@app.command()
def learn2reg(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="Folder of a task, with its NAME_dataset.json.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PATH", help="List to write.", show_default="TASK/pairs.csv"),
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test"],
        typer.Option(metavar="train|validation|test", help="Which of the task's pairs."),
    ] = "validation",
) -> None:
    """Write the list of a Learn2Reg task's pairs, for evaluate and register --pairs."""
    from crossmorph.datasets.learn2reg import prepare_learn2reg

    _tell({split: prepare_learn2reg(task, output, split)})


def _tell(lists: dict[str, Path]) -> None:
    for path in lists.values():
        print(f"wrote {path}")
