"""Figures 2 to 5: registrations, translations, and the fields of the stages, all of the median pair."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
import scipy.ndimage
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy import ndarray

from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.errors import InputError
from crossmorph.evaluation.evaluate import Case, Outcome, load_case
from crossmorph.functional import metrics
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import load_model
from crossmorph.networks.hierarchy import Flow
from crossmorph.registration.register_images import register_networks
from crossmorph.reports.figure import UNDATED, draw_grid
from crossmorph.reports.planes import Plane, hung, hung_warp
from crossmorph.reproduction.plan import OURS, Entry, Found
from crossmorph.reproduction.scores import method
from crossmorph.reproduction.tables import label
from crossmorph.system.files import atomic_output
from crossmorph.transforms.warp import Warp, from_voxel_displacement, resample, resample_warp

FigureName = Literal["fig2", "fig3", "fig4", "fig5"]
FIRST = ("affine", "syn", "vm-lg", "vm-ncc", "vm-nmi")
SECOND = ("ours-lg", "ours-ncc", "ours-nmi", "crossmorph", "oracle")
TRANSLATORS = ("cyclegan", "ours-lg", "ours-ncc", "ours-nmi", "crossmorph")
WHITE_MATTER = 3  # the label of the masks, in the phantom and in BrainWeb
BOX = 3  # the side of a box is the image's side divided by this
# Blue-green and vermillion of Okabe and Ito's palette: a green and a red that colour-blind readers can distinguish.
GREEN, RED, BOTH = "#009E73", "#D55E00", "#D9D9D9"
WIDTH = 1.7  # inches of a panel


class Scene(NamedTuple):
    """A pair and the outcomes of the methods on it, each of which is run once."""

    pair: Pair
    case: Case
    outcome: Callable[[str], Outcome]


def write_figure(figure: FigureName, output: Path, found: Found) -> list[Path]:
    """Draw a figure of the median pair of ours (NMI), as PNG and PDF."""
    pair = median_pair(found)
    case = load_case(pair)
    scene = Scene(pair, case, cache(lambda name: method(found.entries[name])(case)))
    match figure:
        case "fig2" | "fig3":
            drawn = _draw_registrations(found, scene, masks=figure == "fig2")
        case "fig4":
            drawn = _draw_translations(found, scene)
        case "fig5":
            drawn = _draw_stages(found, scene)
    drawn.suptitle(f"{found.context.data.description}, {pair.name}", fontsize=8)
    paths = [output / f"{figure}{suffix}" for suffix in (".png", ".pdf")]
    for path in paths:
        with atomic_output(path) as temporary, matplotlib.rc_context({"pdf.fonttype": 42}):
            drawn.savefig(temporary, dpi=200, metadata=UNDATED.get(path.suffix))
    return paths


def median_pair(found: Found) -> Pair:
    """The pair whose Dice, or where there are no labels whose mono-modal error, is the median of ours (NMI)."""
    rows = found.rows[OURS]
    score = next((name for name in ("dice", "mse_percent") if all(name in row.scores for row in rows)), None)
    if score is None:
        raise InputError(f"{found.context.data.folder}: some test pairs have no score; expected one of each")
    ordered = sorted(rows, key=lambda row: row.scores[score])
    name = ordered[len(ordered) // 2].pair
    return next(pair for pair in read_pairs(found.context.data.pairs("test")) if pair.name == name)


# --- figures 2 and 3: registrations ----------------------------------------------------------------------------------


def _draw_registrations(found: Found, scene: Scene, masks: bool) -> Figure:
    """Two blocks of panels: the moved images, a box of each, and the masks or the error of the moved T1w."""
    case = scene.case
    shown = case.moving.scaled() if masks else _same(case)
    fixed = case.fixed.scaled()
    still = Warp.identity(case.fixed)
    blocks = [
        ["unregistered", *(name for name in FIRST if name in found.entries)],
        ["fixed", *(name for name in SECOND if name in found.entries)],
    ]
    warps = {name: scene.outcome(name).warp for block in blocks for name in block if name in found.entries}
    warps["unregistered"] = still
    corner = _worst_corner(_same(case), fixed, warps.get("affine", still))
    columns = max(map(len, blocks))
    figure = _figure(6, columns)
    axes = figure.subplots(6, columns)
    for axis in axes.flat:
        axis.set_axis_off()
    for block, names in enumerate(blocks):
        for column, name in enumerate(names):
            panels = axes[3 * block : 3 * block + 3, column]
            image = hung(fixed if name == "fixed" else resample(shown, warps[name])).data
            moving = "moving" if masks else "moving anatomy, as T1w"
            title = {"unregistered": moving, "fixed": "fixed"}.get(name) or label(name, found.smoothness)
            _show(panels[0], image, title)
            _frame(panels[0], corner, image.shape)
            box = tuple(slice(at, at + side // BOX) for at, side in zip(corner, image.shape, strict=True))
            _show(panels[1], image[box])
            _frame(panels[1], (0, 0), tuple(BOX * side for side in image[box].shape))
            if name != "fixed":
                draw = _draw_masks if masks else _draw_error
                draw(panels[2], case, warps[name])
            elif masks:
                _draw_masks(panels[2], case, None)
    if masks:
        _draw_legend(figure)
    else:
        figure.supxlabel(
            "below: absolute difference from the fixed image, 0 (black) to 0.5; its mean square", fontsize=7
        )
    return figure


def _draw_legend(figure: Figure) -> None:
    handles = [
        Patch(color=colour, label=name) for name, colour in (("fixed only", GREEN), ("moved only", RED), ("both", BOTH))
    ]
    title = "white matter"
    figure.legend(handles=handles, loc="outside lower center", ncols=3, title=title, fontsize=7, title_fontsize=7)


def _worst_corner(same: Image, fixed: Image, warp: Warp) -> tuple[int, int]:
    """The corner of the box, where the affinely moved T1w differs most from the fixed one; as displayed."""
    difference = np.abs(hung(resample(same, warp)).data - hung(fixed).data)
    side = [length // BOX for length in difference.shape]
    mean = scipy.ndimage.uniform_filter(difference, side, mode="constant")
    inside = tuple(slice(s // 2, length - (s - s // 2) + 1) for s, length in zip(side, difference.shape, strict=True))
    at = np.unravel_index(mean[inside].argmax(), mean[inside].shape)
    return int(at[0]), int(at[1])


def _draw_masks(axis: Axes, case: Case, warp: Warp | None) -> None:
    """White matter of the fixed image and of the moved one."""
    if case.moving_labels is None or case.fixed_labels is None:
        return
    fixed = hung(case.fixed_labels).data == WHITE_MATTER
    moved = fixed if warp is None else hung(resample(case.moving_labels, warp, "nearest")).data == WHITE_MATTER
    image = np.ones((*fixed.shape, 3))
    for where, colour in ((fixed & ~moved, GREEN), (moved & ~fixed, RED), (fixed & moved, BOTH)):
        image[where] = matplotlib.colors.to_rgb(colour)
    axis.imshow(image.transpose(1, 0, 2), interpolation="nearest")


def _draw_error(axis: Axes, case: Case, warp: Warp) -> None:
    """``|M_T1 o phi - F|``."""
    moved, fixed = resample(_same(case), warp).data, case.fixed.scaled().data
    _show(axis, hung(Image(np.abs(moved - fixed), case.fixed.affine)).data, cmap="magma", highest=0.5)
    error = metrics.mse_percent(moved, fixed)
    axis.text(
        0.98, 0.02, f"{error:.2f} %", color="white", fontsize=6, ha="right", va="bottom", transform=axis.transAxes
    )


# --- figure 4: translations ------------------------------------------------------------------------------------------


def _draw_translations(found: Found, scene: Scene) -> Figure:
    """The moving image, its translations and the ground truth; below, the errors of the translations."""
    truth = _same(scene.case)
    names = [name for name in TRANSLATORS if name in found.entries]
    figure = _figure(2, len(names) + 2)
    axes = figure.subplots(2, len(names) + 2)
    for axis in axes.flat:
        axis.set_axis_off()
    _show(axes[0, 0], hung(scene.case.moving.scaled()).data, "moving (T2w)")
    _show(axes[0, -1], hung(truth).data, "ground truth (T1w)")
    for column, name in enumerate(names, start=1):
        translated = scene.outcome(name).translated
        assert translated is not None
        _show(axes[0, column], hung(translated).data, label(name, found.smoothness))
        error = np.abs(translated.data - truth.data)
        _show(axes[1, column], hung(Image(error, truth.affine)).data, cmap="magma", highest=0.5)
        axes[1, column].set_title(f"{metrics.psnr(translated.data, truth.data):.2f} dB", fontsize=7)
    axes[1, 0].text(0.5, 0.5, "absolute error,\n0 (black) to 0.5", ha="center", va="center", fontsize=7)
    return figure


# --- figure 5: the stages --------------------------------------------------------------------------------------------


def _draw_stages(found: Found, scene: Scene) -> Figure:
    """Coarse, fine and final field of ours (NMI): arrows over their length, the warped grid, the moved image."""
    entry: Entry = found.entries[OURS]
    case = scene.case
    prepared, result, _ = register_networks(case.moving, case.fixed, load_model(str(entry.weights)), init="none")
    flows: dict[str, Flow] = {"coarse": result.coarse, "fine": result.fine, "final": result.final}
    figure = _figure(3, 4)
    axes = figure.subplots(3, 4)
    fixed = hung(case.fixed)
    warps = {}
    for name, flow in flows.items():
        field = from_voxel_displacement(flow.displacement[0].numpy(), prepared.grid.affine)
        warps[name] = resample_warp(field, case.fixed.affine, case.fixed.shape)
    farthest = max(float(np.linalg.norm(warp.displacement, axis=0).max()) for warp in warps.values())
    for row, (name, warp) in zip(axes, warps.items(), strict=True):
        _draw_arrows(row[0], hung_warp(warp), farthest)
        row[0].set_title(f"{name} field", fontsize=8)
        draw_grid(row[1], Plane(fixed, hung_warp(warp), None), farthest)
        row[1].set_title("warped grid; displacement, mm", fontsize=8)
        _show(
            row[2],
            hung(resample(case.moving.scaled(), warp)).data,
            f"moving, moved by the {name} field alone" if name == "fine" else f"moving, moved by the {name} field",
        )
        _show(row[3], hung(case.fixed.scaled()).data, "fixed")
    return figure


def _draw_arrows(axis: Axes, warp: Warp, farthest: float) -> None:
    """The length of the displacement as colour, its direction as arrows, in the plane of the screen."""
    length = np.linalg.norm(warp.displacement, axis=0)
    axis.imshow(length.T, cmap="viridis", vmin=0, vmax=farthest)
    step = max(1, max(length.shape) // 16)
    at = tuple(slice(step // 2, None, step) for _ in length.shape)
    places = np.indices(length.shape)[(slice(None), *at)]
    # Columns of the affine point along the axes of the screen, across and down.
    voxels = np.linalg.solve(warp.affine[:2, :2], warp.displacement[:2].reshape(2, -1)).reshape(2, *length.shape)
    axis.quiver(
        *places, *voxels[(slice(None), *at)], color="white", angles="xy", scale_units="xy", scale=1, width=0.005
    )
    axis.set_axis_off()


# --- panels ----------------------------------------------------------------------------------------------------------


def _figure(rows: int, columns: int) -> Figure:
    figure = Figure(figsize=(WIDTH * columns, 1.1 * WIDTH * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _same(case: Case) -> Image:
    """The moving anatomy in the fixed image's modality."""
    assert case.moving_same is not None
    return case.moving_same.scaled()


def _show(axis: Axes, image: ndarray, title: str = "", cmap: str = "gray", highest: float = 1.0) -> None:
    axis.imshow(image.T, cmap=cmap, vmin=0, vmax=highest)
    axis.set_title(title, fontsize=7)
    axis.set_axis_off()


def _frame(axis: Axes, corner: Sequence[int], shape: Sequence[int]) -> None:
    """The red box."""
    size = [side // BOX for side in shape]
    box = Rectangle((corner[0] - 0.5, corner[1] - 0.5), *size, fill=False, edgecolor=RED, linewidth=1.2)
    axis.add_patch(box)
