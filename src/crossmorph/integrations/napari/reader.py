"""napari's reader of medical images: every format of :func:`crossmorph.read_image` that napari cannot place by itself.

PNG and TIFF have no millimetres, and napari reads them.
"""

from collections.abc import Callable
from pathlib import Path

from crossmorph.images.dicom import is_dicom
from crossmorph.images.io import read_series
from crossmorph.images.label_maps import holds_labels
from crossmorph.integrations.napari.layers import LayerData, series_layer

Reader = Callable[[str | list[str]], list[LayerData]]


def get_reader(path: str | list[str]) -> Reader | None:
    """What reads a file or a folder of DICOM slices, or None for several files at once and for any other folder.

    The manifest says which names of files napari asks for.
    """
    if isinstance(path, list):
        return None
    folder = Path(path)
    if folder.is_dir() and not any(map(is_dicom, sorted(folder.iterdir()))):
        return None
    return _read


def _read(path: str | list[str]) -> list[LayerData]:
    """One layer, of labels where the file evidently holds labels.

    Raises:
        InputError: as of :func:`crossmorph.images.io.read_series`.
    """
    images = read_series(str(path), exact=True)
    kind = "labels" if all(holds_labels(image.data) for image in images) else "image"
    return [series_layer(images, Path(str(path)).name.partition(".")[0], kind)]
