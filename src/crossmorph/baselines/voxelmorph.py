"""VoxelMorph, trained by our own loop: one U-Net (VM-2), diffeomorphic, 7 integration steps at half resolution.

Balakrishnan et al., IEEE TMI 2019, doi:10.1109/TMI.2019.2897538, and Dalca et al., Med. Image Anal. 2019,
doi:10.1016/j.media.2019.07.006. It minimises ``a smooth(phi) - b sim(M o phi, F)``: the coarse stage of the hierarchy
without the backward term, at the same ``b``. The weight of smoothness is chosen for every similarity and data set by
short runs on the training pairs, scored on the validation pairs.
"""

from crossmorph.config import StageSpec, StageSpecs, TrainConfig
from crossmorph.objective import Weights

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
