"""What the user sets: the six hyperparameters from 0 to 1, and the options of the fit."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from muport._checks import check_numbers

if TYPE_CHECKING:
    from muport.integration._batch_design import BatchDesign

__all__ = ["FitOptions", "Hyperparameters"]

# Fraction at 1; at 1/2 it is .02, with which cells keep all but a hundredth of the neighbors within their batch.
_MOST_SHARPENING = 0.63


@dataclass(frozen=True)
class Hyperparameters:
    """The user's hyperparameters, checked, and the quantities that the method derives from them.

    - `strength`: How far cells move toward the other batches; 0 leaves every cell where it is.
    - `conservation`: How much of the structure of the input is kept: displacements that few batches support are shrunk,
      changes of shape are damped, and data without a batch effect stay as they are; 0 applies every move in full.
    - `prototypes`: How finely the batches are resolved; 0 moves each batch as one block.
    - `sharpen`: Pull toward cluster centers; 0 for none.
    - `supervision`: Weight of known labels in the transport; 0 ignores them.
    - `projector`: Fraction of the distance between mutual nearest neighbors of different batches that is removed; 0 for
      none.

    Examples
    --------
    >>> Hyperparameters(strength=0.25).step
    0.5
    """

    strength: float = 0.5
    conservation: float = 0.5
    prototypes: float = 0.5
    sharpen: float = 0.5
    supervision: float = 0.5
    projector: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            check_numbers(0, 1, **{field.name: value})
            object.__setattr__(self, field.name, float(value))

    @property
    def step(self) -> float:
        """Fraction of the estimated displacement that is applied."""
        return min(1.0, 2 * self.strength)

    @property
    def theta(self) -> float:
        """Theta of the first iteration: marginal relaxation divided by regularization, lambda / epsilon."""
        return float(2 * 4 ** max(0.0, 2 * self.strength - 1))

    @property
    def resolution(self) -> float:
        """Factor of the numbers of prototypes and centers."""
        return 2 * self.prototypes

    @property
    def full_agreement(self) -> float:
        """Ratio of the proportions of two groups at a center from which their agreement counts as 1 (gamma)."""
        return self.conservation

    @property
    def shape_fraction(self) -> float:
        """Fraction of the change of scale and shape that is applied."""
        return min(1.0, 2 * (1 - self.conservation))

    @property
    def mnn_fraction(self) -> float:
        """Fraction of the distance between mutual nearest neighbors that each of them moves; at 1/2 they coincide."""
        return self.projector**2 / 2

    @property
    def sharpening(self) -> float:
        """Fraction of the way to the cluster centers that cells move."""
        return _MOST_SHARPENING * self.sharpen**5

    def move_fraction(self, batch_effect: float) -> float:
        """Fraction (0..1) of an estimated displacement that is applied, given the evidence of a batch effect (0..1)."""
        return self.step * self.step_factor(batch_effect)

    def step_factor(self, batch_effect: float) -> float:
        """Fraction of the whole move that is applied, given the evidence of a batch effect from 0 to 1."""
        return 1 - min(1.0, 2 * self.conservation) * (1 - batch_effect)


@dataclass(frozen=True)
class FitOptions:
    """How to fit, beyond the hyperparameters.

    - `max_iter`: Maximum number of outer iterations.
    - `approximate`: Stop the inner transport early, after at most 10 instead of 200 Sinkhorn iterations.
    - `fixed_groups`: Groups that stay in place; if empty, all groups are transported to the barycenter.
    - `seed`: Seed of every random draw.
    - `device`: Torch device.
    - `tol`: Root mean square change of the displacements, in units of the standardized data, at which the outer
      iterations stop.
    - `match_shapes`: Give the residuals of all groups one shape, not only one scale: for modalities, whose noise
      differs in direction.
    - `design`: Several batch variables, of which each group has levels; None for one.
    """

    max_iter: int = 15
    approximate: bool = False
    fixed_groups: tuple[int, ...] = ()
    seed: int = 0
    device: str = "cpu"
    tol: float = 5e-3
    match_shapes: bool = False
    design: BatchDesign | None = None

    @property
    def max_sinkhorn_iter(self) -> int:
        """Maximum number of Sinkhorn iterations of one transport."""
        return 10 if self.approximate else 200

    @property
    def search_device(self) -> str | None:
        """Torch device of the neighbor search; None stands for faiss, which runs on the CPU."""
        return None if self.device == "cpu" else self.device
