"""The six hyperparameters of 0..1 and what each sets; 0 switches the part it names off."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Real

__all__ = ["Hyperparameters"]


@dataclass(frozen=True)
class Hyperparameters:
    """The user's hyperparameters, checked, and the quantities the method reads from them.

    Parameters
    ----------
    strength
        How far cells move toward the other batches; 0 leaves every cell where it is.
    conservation
        How much of the input's structure is kept: displacements that few batches support are shrunk, shape changes are
        damped and data without a batch effect are left alone; 0 keeps nothing back.
    prototypes
        How finely the batches are resolved; 0 moves each batch as one block.
    sharpen
        Pull toward cluster centres; 0 for none.
    supervision
        Weight of known labels in the transport; 0 ignores them.
    projector
        Share of the residual between mutual nearest neighbours of different batches that is removed; 0 for none.

    Raises
    ------
    ValueError
        If a hyperparameter is not a number between 0 and 1.

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
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
                raise ValueError(f"{field.name}={value!r} must be a number between 0 (off) and 1.")
            object.__setattr__(self, field.name, float(value))

    @property
    def step(self) -> float:
        """Share of the estimated displacement that is applied."""
        return min(1.0, 2 * self.strength)

    @property
    def theta(self) -> float:
        """First marginal relaxation over regularisation, lambda / epsilon, of the annealed transport."""
        return float(2 * 4 ** max(0.0, 2 * self.strength - 1))

    @property
    def resolution(self) -> float:
        """Multiplier of the numbers of prototypes and centres."""
        return 2 * self.prototypes

    @property
    def agreement(self) -> float:
        """Ratio of a group's share of cells at a centre and the others' from which it is fully trusted."""
        return self.conservation

    @property
    def shape(self) -> float:
        """Share of the residual change of scale and shape that is applied."""
        return min(1.0, 2 * (1 - self.conservation))

    @property
    def meeting(self) -> float:
        """Share of the residual between mutual neighbours that each of them covers; at 1/2 they meet."""
        return self.projector * (2 - self.projector) / 2

    @property
    def pull(self) -> float:
        """Share of the way to the cluster centres that cells go."""
        return float(self.sharpen ** (2 / 3))

    def caution(self, evidence: float) -> float:
        """Share of the whole move that is applied, given the evidence (0..1) that there is a batch effect."""
        return 1 - min(1.0, 2 * self.conservation) * (1 - evidence)
