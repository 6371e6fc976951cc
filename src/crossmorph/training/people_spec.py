"""What is drawn where pairs show people (see :mod:`crossmorph.training.people`)."""

from pydantic import BaseModel, ConfigDict, Field

Range = tuple[float, float]


class PeopleSpec(BaseModel):
    """What to draw of people. Every range is uniform.

    Attributes:
        same: chance that both images of a pair show one person.
        whole: chance that a person is drawn from those whose whole head is labelled, rather than from the others.
        structures: that the objectives compare, beside the tissues, drawn for each pair from those in both images.
        stripped: chance that an image shows the brain alone, each image on its own.
        margin: mm around grey and white matter that are left in such an image.
        calm: factor of ``elastic_strain`` where the two images show two people, who differ already.
        lesions: chance that an image has lesions drawn into its white matter.
        cut: chance that an image ends somewhere inside the grid.
        slices: mm, thickness and distance of the slices of an image that has thick ones (see ``coarse``).
        texture: largest relative variation of the signal within a tissue, from place to place.
        uncertain: largest relative departure of a tissue's signal from its sequence's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    same: float = Field(default=0.2, ge=0, le=1)
    whole: float = Field(default=0.35, ge=0, le=1)
    structures: int = Field(default=8, ge=0)
    stripped: float = Field(default=0.45, ge=0, le=1)
    margin: Range = (1.0, 9.0)
    calm: float = Field(default=0.5, ge=0)
    lesions: float = Field(default=0.2, ge=0, le=1)
    cut: float = Field(default=0.2, ge=0, le=1)
    slices: Range = (3.0, 6.0)
    texture: float = Field(default=0.08, ge=0)
    uncertain: float = Field(default=0.06, ge=0)
