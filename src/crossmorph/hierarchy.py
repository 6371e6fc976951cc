"""The hierarchy: coarse registration G1, translation G2, fine registration G3, and what comes out of it."""

from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from crossmorph import spatial
from crossmorph.networks import PyramidSpec, UNet, UNetSpec, velocity_network

Stage = Literal["coarse", "translation", "fine"]
STAGES: tuple[Stage, ...] = ("coarse", "translation", "fine")
RegistrationSpec = Annotated[UNetSpec | PyramidSpec, Field(discriminator="kind")]


class HierarchySpec(BaseModel):
    """What the three networks are and what each of them sees.

    ``translator_sees``: ``pair`` is the paper's ``G2(F, M)``; ``moving`` shows it M alone, so that it cannot bake the
    coarse field's misalignment into the translation. ``fine_sees``: ``original`` is the paper's ``G3(F, M, T)``;
    ``aligned`` shows M and T already moved by the coarse field, so that G3 looks for what is left.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dim: Literal[2, 3] = 2
    coarse: RegistrationSpec = UNetSpec()
    translator: UNetSpec = UNetSpec()
    fine: RegistrationSpec = UNetSpec()
    translator_sees: Literal["pair", "moving"] = "pair"
    fine_sees: Literal["original", "aligned"] = "original"
    integration_steps: int = Field(default=7, ge=1)


class Flow(NamedTuple):
    """A diffeomorphism and its inverse: two displacements ``(batch, dim, *space)``, voxels, pull-back."""

    displacement: Float[Tensor, "batch dim *space"]
    inverse: Float[Tensor, "batch dim *space"]


class Registration(NamedTuple):
    """Everything the hierarchy has to say about a pair; fields in voxels on the images' common grid.

    Attributes:
        coarse: ``phi0`` and its inverse.
        fine: ``phi1`` and its inverse.
        final: ``phi = phi0 o phi1`` and ``phi^-1 = phi1^-1 o phi0^-1``.
        mask: what was added to the moving image, ``(batch, 1, *space)``; may be negative.
        translated: ``T = M + mask``, the moving image in the fixed image's modality, on the moving image's own grid.
    """

    coarse: Flow
    fine: Flow
    final: Flow
    mask: Float[Tensor, "batch 1 *space"]
    translated: Float[Tensor, "batch 1 *space"]


class Hierarchy(nn.Module):
    """G1 -> G2 -> G3. Both images ``(batch, 1, *space)`` in [0, 1], on one grid, sides multiples of ``divisor``."""

    def __init__(self, spec: HierarchySpec) -> None:
        super().__init__()
        self.spec = spec
        self.coarse = velocity_network(spec.coarse, spec.dim, 1, 1)
        self.translation = UNet(spec.translator, spec.dim, 2 if spec.translator_sees == "pair" else 1, 1)
        self.fine = velocity_network(spec.fine, spec.dim, 1, 2)

    @property
    def divisor(self) -> int:
        """Every side of an image must be a multiple of this."""
        specs = (self.spec.coarse, self.spec.fine)
        depths = [len(s.encoder if isinstance(s, UNetSpec) else s.features) for s in specs]
        return 2 ** max(*depths, len(self.spec.translator.encoder))

    def forward(self, moving: Float[Tensor, "batch 1 *space"], fixed: Float[Tensor, "batch 1 *space"]) -> Registration:
        """All three stages; the image that is finally moved is warped once, by ``final.displacement``."""
        coarse = self.register_coarse(moving, fixed)
        mask = self.translate(moving, fixed)
        translated = moving + mask
        fine = self.register_fine(moving, fixed, translated, coarse)
        return Registration(coarse, fine, chain(coarse, fine), mask, translated)

    def register_coarse(self, moving: Tensor, fixed: Tensor) -> Flow:
        """``phi0 = G1(F, M)``."""
        return self.flow(self.coarse(fixed, moving), moving)

    def translate(self, moving: Tensor, fixed: Tensor) -> Float[Tensor, "batch 1 *space"]:
        """``Mask = G2(F, M)``, or ``G2(M)`` where the specification shows it the moving image alone."""
        sees = [fixed, moving] if self.spec.translator_sees == "pair" else [moving]
        return self.translation(torch.cat(sees, dim=1))

    def register_fine(self, moving: Tensor, fixed: Tensor, translated: Tensor, coarse: Flow) -> Flow:
        """``phi1 = G3(F, M, T)``."""
        both = torch.cat([moving, translated], dim=1)
        if self.spec.fine_sees == "aligned":
            both = spatial.warp(both, coarse.displacement)
        return self.flow(self.fine(fixed, both), moving)

    def flow(self, velocity: Tensor, like: Tensor) -> Flow:
        """The flow of a stationary velocity at the resolution of ``like``, and its inverse, the flow of ``-v``."""
        both = torch.cat([velocity, -velocity])
        displacement = spatial.resize(spatial.integrate(both, self.spec.integration_steps), tuple(like.shape[2:]))
        return Flow(*displacement.chunk(2))


def chain(coarse: Flow, fine: Flow) -> Flow:
    """``phi0 o phi1`` with its inverse ``phi1^-1 o phi0^-1``."""
    return Flow(spatial.compose(coarse.displacement, fine.displacement), spatial.compose(fine.inverse, coarse.inverse))
