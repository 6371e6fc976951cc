"""The hierarchy: coarse registration G1, translation G2, fine registration G3, and what comes out of it."""

from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from crossmorph.functional import spatial
from crossmorph.functional.similarity import mi
from crossmorph.networks.affine import Affine, AffineNetwork, AffineSpec, move, same_place
from crossmorph.networks.pyramid import Pyramid, PyramidSpec
from crossmorph.networks.unet import UNet, UNetSpec, UNetVelocity

Stage = Literal["affine", "coarse", "translation", "fine"]
STAGES: tuple[Stage, ...] = ("affine", "coarse", "translation", "fine")
RIDGE = 1e-3  # of pictures with standard deviation 1: keeps the fit of nearly equal ones from cancelling them
RegistrationSpec = Annotated[UNetSpec | PyramidSpec, Field(discriminator="kind")]


class HierarchySpec(BaseModel):
    """What the networks are and what each of them sees.

    ``affine``: the network of the affine start; without one it is found by search.
    ``translator_sees``: ``pair`` is the paper's ``G2(F, M)``; ``moving`` shows it M alone, so that it cannot bake the
    coarse field's misalignment into the translation. ``appearances``: 0, as in the paper, makes the mask one output of
    G2; with n, G2 gives n channels of M, and the translation is their weighted sum that fits F best (see
    :func:`fit_appearance`), so that one network serves every contrast.
    ``fine_sees``: ``original`` is the paper's ``G3(F, M, T)``; ``aligned`` shows M and T already moved by the field so
    far, so that G3 finds what is left, ``fine_looks`` times.
    ``smoothness_range``: factors of the smoothness weights that conditioned networks learn, at 0 and at 1 of their
    smoothness input; ``smoothness`` is the input where none is given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dim: Literal[2, 3] = 2
    affine: AffineSpec | None = None
    coarse: RegistrationSpec = UNetSpec()
    translator: UNetSpec = UNetSpec()
    fine: RegistrationSpec = UNetSpec()
    translator_sees: Literal["pair", "moving"] = "pair"
    appearances: int = Field(default=0, ge=0)
    fine_sees: Literal["original", "aligned"] = "original"
    fine_looks: int = Field(default=1, ge=1)
    smoothness_range: tuple[float, float] = (1.0, 1.0)
    smoothness: float = Field(default=0.5, ge=0, le=1)
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
        drawn: the translation channels that ``T`` is a weighted sum of, ``(batch, channels, *space)``; ``mask`` itself
            where the translation network makes no others.
    """

    coarse: Flow
    fine: Flow
    final: Flow
    mask: Float[Tensor, "batch 1 *space"]
    translated: Float[Tensor, "batch 1 *space"]
    drawn: Float[Tensor, "batch channels *space"]


class Hierarchy(nn.Module):
    """G1 -> G2 -> G3. Both images ``(batch, 1, *space)`` in [0, 1], on one grid, sides multiples of ``divisor``."""

    def __init__(self, spec: HierarchySpec) -> None:
        super().__init__()
        self.spec = spec
        self.affine = AffineNetwork(spec.affine, spec.dim) if spec.affine else None
        self.coarse = velocity_network(spec.coarse, spec.dim, 1, 1)
        channels = 2 if spec.translator_sees == "pair" else 1
        spread = 1e-1 if spec.appearances else 1e-5
        self.translation = UNet(spec.translator, spec.dim, channels, spec.appearances or 1, spread)
        self.fine = velocity_network(spec.fine, spec.dim, 1, 2)

    @property
    def divisor(self) -> int:
        """Every side of an image must be a multiple of this."""
        specs = (self.spec.coarse, self.spec.fine)
        depths = [len(s.encoder if isinstance(s, UNetSpec) else s.features) for s in specs]
        return 2 ** max(*depths, len(self.spec.translator.encoder))

    def forward(
        self,
        moving: Float[Tensor, "batch 1 *space"],
        fixed: Float[Tensor, "batch 1 *space"],
        smoothness: Float[Tensor, " batch"] | None = None,
    ) -> Registration:
        """Coarse, translation, fine; the image that is finally moved is warped once, by ``final.displacement``.

        Args:
            moving: the moving image, where the affine start put it.
            fixed: the fixed image.
            smoothness: 0 (detailed) to 1 (stiff) for each pair, for conditioned networks; None is the specification's.
        """
        return self.go_on(moving, fixed, self.register_coarse(moving, fixed, smoothness), smoothness)

    def go_on(self, moving: Tensor, fixed: Tensor, coarse: Flow, smoothness: Tensor | None = None) -> Registration:
        """Translation and fine, after the coarse field."""
        drawn = self.draw(moving, fixed)
        mask = self.mask_of(drawn, moving, fixed, coarse)
        fine = self.register_fine(moving, fixed, moving + mask, coarse, smoothness)
        return Registration(coarse, fine, chain(coarse, fine), mask, moving + mask, drawn)

    def register_affine(self, moving: Tensor, fixed: Tensor, start: Affine) -> Affine:
        """The affine network's map: the best, by mutual information, of the given one and those of its iterations.

        An iteration can err, most of all on images unlike the training images.

        Args:
            moving: the moving image; its grid may have another shape than the fixed one's.
            fixed: the fixed image.
            start: the map to begin with.
        """
        assert self.affine is not None  # else the map is searched for: registration.initialization
        shape, side = tuple(fixed.shape[2:]), self.affine.spec.canvas
        candidates = [start, *self.affine(moving, fixed, start)]
        still = move(fixed, same_place(fixed), shape, side)
        seen = torch.cat([move(moving, candidate, shape, side) for candidate in candidates])
        scores = mi(seen, still.repeat(len(candidates), *[1] * (still.ndim - 1))).view(len(candidates), -1)
        best, pairs = scores.argmax(0), torch.arange(len(fixed), device=fixed.device)
        return Affine(*(torch.stack(parts)[best, pairs] for parts in zip(*candidates, strict=True)))

    def register_coarse(self, moving: Tensor, fixed: Tensor, smoothness: Tensor | None = None) -> Flow:
        """``phi0 = G1(F, M)``."""
        return self.flow(self.coarse(self.coarse.encode(fixed), moving, self._smoothness(moving, smoothness)), moving)

    def translate(self, moving: Tensor, fixed: Tensor, coarse: Flow) -> Float[Tensor, "batch 1 *space"]:
        """``Mask = G2(F, M)``, or ``G2(M)`` where the specification shows it the moving image alone."""
        return self.mask_of(self.draw(moving, fixed), moving, fixed, coarse)

    def draw(self, moving: Tensor, fixed: Tensor) -> Float[Tensor, "batch channels *space"]:
        """What the translation network makes: the mask, or channels to be weighed."""
        sees = [fixed, moving] if self.spec.translator_sees == "pair" else [moving]
        drawn: Tensor = self.translation(torch.cat(sees, dim=1))
        return drawn

    def mask_of(self, drawn: Tensor, moving: Tensor, fixed: Tensor, coarse: Flow) -> Float[Tensor, "batch 1 *space"]:
        """``Mask`` of what the translation network made."""
        if not self.spec.appearances:
            return drawn
        return fit_appearance(torch.cat([moving, drawn], dim=1), fixed, coarse.displacement) - moving

    def register_fine(
        self, moving: Tensor, fixed: Tensor, translated: Tensor, coarse: Flow, smoothness: Tensor | None = None
    ) -> Flow:
        """``phi1 = G3(F, M, T)``, from ``fine_looks`` passes composed."""
        both = torch.cat([moving, translated], dim=1)
        smoothness = self._smoothness(moving, smoothness)
        encoded = self.fine.encode(fixed)
        fine = None
        for _ in range(self.spec.fine_looks):
            seen = both
            if self.spec.fine_sees == "aligned":
                so_far = coarse.displacement
                seen = spatial.warp(both, spatial.compose(so_far, fine.displacement) if fine else so_far)
            step = self.flow(self.fine(encoded, seen, smoothness), moving)
            fine = chain(fine, step) if fine else step
        assert fine is not None
        return fine

    def _smoothness(self, moving: Tensor, smoothness: Tensor | None) -> Tensor:
        return moving.new_full((len(moving),), self.spec.smoothness) if smoothness is None else smoothness

    def flow(self, velocity: Tensor, like: Tensor) -> Flow:
        """The flow of a stationary velocity at the resolution of ``like``, and its inverse, the flow of ``-v``."""
        both = torch.cat([velocity, -velocity])
        displacement = spatial.resize(spatial.integrate(both, self.spec.integration_steps), tuple(like.shape[2:]))
        return Flow(*displacement.chunk(2))


def chain(coarse: Flow, fine: Flow) -> Flow:
    """``phi0 o phi1`` with its inverse ``phi1^-1 o phi0^-1``."""
    return Flow(spatial.compose(coarse.displacement, fine.displacement), spatial.compose(fine.inverse, coarse.inverse))


def fit_appearance(
    pictures: Float[Tensor, "batch pictures *space"],
    fixed: Float[Tensor, "batch 1 *space"],
    displacement: Float[Tensor, "batch dim *space"],
) -> Float[Tensor, "batch 1 *space"]:
    """The weighted sum of pictures of the moving anatomy that, moved, is nearest to the fixed image.

    ``T = w . P`` with ``w = argmin |w . (P o phi0) - F|^2 + r |w|^2``, one w for the whole image, a constant picture
    included. All geometry of T comes from the moving image, and no more of the fixed one than a few numbers; so T can
    have any contrast, but cannot hide where ``phi0`` is wrong.
    """
    # Of one size about zero: else the ridge would weigh them differently, and large constants drown the rest. (In two
    # steps, since torch.std_mean takes six times as long.)
    space = tuple(range(2, pictures.ndim))
    pictures = pictures - pictures.mean(space, keepdim=True)
    pictures = pictures / (pictures * pictures).mean(space, keepdim=True).sqrt().clamp_min(1e-3)
    pictures = torch.cat([pictures, torch.ones_like(fixed)], dim=1)
    moved = spatial.warp(pictures, displacement).flatten(2)
    count = moved.shape[2]
    ridge = RIDGE * torch.eye(moved.shape[1]).to(moved)
    normal = moved @ moved.transpose(1, 2) / count + ridge
    weights = torch.linalg.solve(normal, moved @ fixed.flatten(2).transpose(1, 2) / count)
    return torch.einsum("bp...,bpo->bo...", pictures, weights)


def velocity_network(
    spec: UNetSpec | PyramidSpec, dim: int, channels_fixed: int, channels_moving: int
) -> UNetVelocity | Pyramid:
    """The registration network that a specification describes."""
    if isinstance(spec, UNetSpec):
        return UNetVelocity(spec, dim, channels_fixed, channels_moving)
    return Pyramid(spec, dim, channels_fixed, channels_moving)
