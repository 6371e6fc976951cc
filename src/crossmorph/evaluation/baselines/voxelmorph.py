"""VoxelMorph, trained by our own loop: one U-Net (VM-2), diffeomorphic, 7 integration steps at half resolution.

Balakrishnan et al., IEEE TMI 2019, doi:10.1109/TMI.2019.2897538, and Dalca et al., Med. Image Anal. 2019,
doi:10.1016/j.media.2019.07.006. It minimises ``a smooth(phi) - b sim(M o phi, F)``: the coarse stage of the hierarchy
without the backward term, at the same ``b``. The weight of smoothness is chosen for every similarity and data set by
short runs on the training pairs, scored on the validation pairs.

As a peer of the evaluation it is the run of ``configs/voxelmorph.yaml``, which has to be trained first; it begins where
our search for an affine map leads, since VoxelMorph expects pairs that lie alike.
"""

import time
from functools import cache
from pathlib import Path

from crossmorph.errors import InputError
from crossmorph.evaluation.baselines.common import Timed
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import Model, load_model
from crossmorph.registration.register_images import register_coarse
from crossmorph.training.config import StageSpec, StageSpecs, TrainConfig
from crossmorph.training.losses import Weights

RUN = Path("runs/voxelmorph-2d")
SMOOTHNESS = (0.02, 0.005, 0.08)  # the paper's, with a similarity of 0.15; a quarter of it; four times as much


def voxelmorph_config(recipe: TrainConfig, smoothness: float, iterations: int) -> TrainConfig:
    """VoxelMorph on the data, with the similarity, step and batch of a recipe for the hierarchy.

    Args:
        recipe: the hierarchy's configuration; its networks are U-Nets of the same widths.
        smoothness: weight of the smoothness term, one of ``SMOOTHNESS`` or any other.
        iterations: of its only stage.
    """
    never = StageSpec(iterations=0)
    only = recipe.stages.coarse.model_copy(update={"iterations": iterations})
    return recipe.model_copy(
        update={
            "weights": Weights(coarse_smoothness=smoothness, coarse_backward=0),
            "stages": StageSpecs(coarse=only, translation=never, fine=never),
        }
    )


@cache
def load() -> Model:
    """The trained peer. Raises InputError where it is not trained."""
    if not RUN.exists():
        raise InputError(f"{RUN}: no such folder; train VoxelMorph first: crossmorph train configs/voxelmorph.yaml")
    return load_model(str(RUN))


def register(moving: Image, fixed: Image) -> Timed:
    """Affine search and network, on as many threads as torch has; raises as :func:`load` and ``register_coarse``."""
    model = load()
    began = time.perf_counter()
    warp = register_coarse(moving, fixed, model)
    return Timed(warp, time.perf_counter() - began)
