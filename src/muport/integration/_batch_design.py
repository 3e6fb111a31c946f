"""What is asked of each batch variable, and the levels of the variables in each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._checks import check_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["MODALITY", "BatchDesign", "Strengths", "encode_levels", "number_variables"]

MODALITY = "(modality)"  # the variable that several modalities are, beside those of the batches
_DEFAULT = 0.5  # strength of a variable that is not named


@dataclass(frozen=True)
class Strengths:
    """Strengths of the batch variables and the covariates, each 0..1.

    - `of_batches`, `of_covariates`: Name -> strength.
    - `fit`: Strength with which the transport is fitted: the largest of the batch variables.
    """

    of_batches: dict[str, float] = field(default_factory=dict)
    of_covariates: dict[str, float] = field(default_factory=dict)
    fit: float = _DEFAULT

    @classmethod
    def of(cls, strength: Any, batches: Sequence[str], covariates: Sequence[str] = ()) -> Strengths:
        """Check and complete the argument: a number for all variables, or a dict with a number for some of them.

        - `batches`: The batch variables, with `MODALITY` if there are several modalities.

        Examples
        --------
        >>> Strengths.of({"donor": 0.3}, ["donor", "platform"], []).of_batches
        {'donor': 0.3, 'platform': 0.5}
        """
        if not isinstance(strength, Mapping):
            check_numbers(0, 1, strength=strength)
            given = dict.fromkeys([*batches, *covariates], float(strength))
            fit = float(strength)
        else:
            known = [name for name in (*batches, *covariates) if name != MODALITY]
            if unknown := [name for name in strength if name not in known]:
                raise ValueError(
                    f"strength names {unknown[0]!r}, which is no batch variable or covariate of the set-up, {known}: "
                    "correct the name, or add the column to batch_key or continuous_covariate_keys."
                )
            for name, value in strength.items():
                check_numbers(0, 1, **{f"strength[{name!r}]": value})
            given = {name: float(strength.get(name, _DEFAULT)) for name in (*batches, *covariates)}
            fit = max((given[name] for name in batches), default=_DEFAULT)
        return cls({name: given[name] for name in batches}, {name: given[name] for name in covariates}, fit)

    @property
    def are_equal(self) -> bool:
        """Whether all batch variables, and the modalities, are removed alike."""
        return all(self.fraction_of(name) == 1 for name in self.of_batches)

    @property
    def fractions_of_covariates(self) -> tuple[float, ...]:
        """Fraction (0..1) of the effect of each covariate that is removed."""
        return tuple(min(1.0, 2 * strength) for strength in self.of_covariates.values())

    def fraction_of(self, name: str) -> float:
        """Fraction (0..1) of what the transport moves that is applied for a batch variable, or the modalities."""
        whole = min(1.0, 2 * self.fit)
        return min(1.0, 2 * self.of_batches[name]) / whole if whole > 0 else 1.0


@dataclass(frozen=True, eq=False)
class BatchDesign:
    """The batch variables, and their levels in each group.

    - `names`: (V,) names of the variables.
    - `levels`: (V,) names of the levels of each.
    - `fractions`: (V,) fraction (0..1) of the displacements of each that is applied.
    - `of_group`: Name of a group -> (L,) fraction of its cells that have each level, over all levels of all variables.
    - `n_cells`: Combination of levels -> number of its cells.
    """

    names: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    fractions: tuple[float, ...]
    of_group: dict[str, NDArray[np.float64]]
    n_cells: dict[tuple[str, ...], float]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        fractions: Sequence[float],
        groups: Mapping[str, Mapping[tuple[str, ...], float]],
    ) -> BatchDesign:
        """Build from the levels of the cells of each group.

        - `groups`: Name of a group -> combination of levels, in the order of `names` -> number of its cells.

        Examples
        --------
        >>> groups = {"a|x": {("a", "x"): 3}, "b|x": {("b", "x"): 2}}
        >>> BatchDesign.of(["donor", "platform"], [1, 0], groups).of_group["b|x"]
        array([0., 1., 1.])
        """
        n_cells: dict[tuple[str, ...], float] = {}
        for held in groups.values():
            for combination, n in held.items():
                n_cells[combination] = n_cells.get(combination, 0) + n
        levels = tuple(tuple(sorted({row[v] for row in n_cells})) for v in range(len(names)))
        empty = cls(tuple(names), levels, tuple(map(float, fractions)), {}, n_cells)
        of_group = {}
        for group, held in groups.items():
            total = sum(held.values())
            of_group[group] = np.sum([n / total * empty.encode(row) for row, n in held.items()], axis=0)
        return replace(empty, of_group=of_group)

    def encode(self, combination: Sequence[str]) -> NDArray[np.float64]:
        """Return (L,) 1 for the levels of a combination; an unknown level has no place."""
        return encode_levels(combination, self.levels)

    @property
    def variable(self) -> NDArray[np.int64]:
        """(L,) variable of each level."""
        return number_variables(self.levels)


def number_variables(levels: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Return (L,) the variable of each level."""
    return np.repeat(np.arange(len(levels)), [len(names) for names in levels])


def encode_levels(combination: Sequence[str], levels: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return (L,) 1 for the levels of a combination; an unknown level has no place."""
    return np.array(
        [float(name == own) for own, names in zip(combination, levels, strict=True) for name in names], dtype=np.float64
    )
