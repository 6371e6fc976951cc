"""VoxelMorph, trained by our own loop: one U-Net (VM-2), diffeomorphic, 7 integration steps at half resolution.

Balakrishnan et al., IEEE TMI 2019, doi:10.1109/TMI.2019.2897538, and Dalca et al., Med. Image Anal. 2019,
doi:10.1016/j.media.2019.07.006. It minimises ``a smooth(phi) - b sim(M o phi, F)``: the coarse stage of the hierarchy
without the backward term, at the same ``b``. The weight of smoothness is chosen for every similarity and data set by
short runs on the training pairs, scored on the validation pairs.

In the evaluation it is the run of ``configs/voxelmorph.yaml``, which has to be trained first. The affine search of
crossmorph precedes it, since VoxelMorph expects pairs that are affinely aligned.
"""

from functools import cache
from pathlib import Path

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import Model, load_model
from crossmorph.training.config import StageSpec, StageSpecs, TrainConfig
from crossmorph.training.losses import Weights

RUN = Path("runs/voxelmorph-2d")


def voxelmorph_config(recipe: TrainConfig, smoothness: float, iterations: int) -> TrainConfig:
    """VoxelMorph on the data, with the similarity, step and batch of a recipe for the hierarchy.

    Args:
        recipe: the hierarchy's configuration; its networks are U-Nets of the same widths.
        smoothness: weight of the smoothness term.
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
def load_trained() -> Model:
    """The trained network. Raises InputError where it is not trained."""
    if not RUN.exists():
        raise InputError(f"{RUN}: no such folder; train VoxelMorph first: crossmorph train configs/voxelmorph.yaml")
    return load_model(str(RUN))
