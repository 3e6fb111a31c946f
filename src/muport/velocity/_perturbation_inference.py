"""What a fitted velocity model says of cells whose features are changed: their fates from the new position."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._checks import check_integers, check_numbers, check_seed
from muport._tables import rows_by_name
from muport.neighbors import as_points, knn
from muport.velocity._course_columns import complete_column
from muport.velocity._fate_inference import FateInference, find_terminal_states, has_label_of
from muport.velocity.estimation._field import evaluate
from muport.velocity.fates._perturbation import mean_change, perturbed_fates
from muport.velocity.fates._transition_matrix import fit_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.velocity._inference import FittedCells

__all__ = ["Perturbation", "PerturbationInference"]

_FAR = 10.0  # nearest-neighbor distances from any cell: as far as paths may leave the data
_LARGEST = 1e12  # change of a coordinate; squares of larger ones leave the range of float32
_MAX_LEVEL = 0.999


@dataclass(frozen=True, eq=False)
class Perturbation:
    """Fates of cells after a change of some of their features.

    Attributes
    ----------
    table
        One row for each fate: mean probability ``before`` and ``after``, ``change``, its bounds ``lower`` and
        ``upper``, and ``n_cells``, the number of cells in the mean.
    change
        (cells, fates) change of the probabilities of each cell; 0 in terminal states, NaN for cells without a fate.
    distance
        (cells,) distance of the changed cell to the nearest cell, in median distances between nearest cells.
    """

    table: pd.DataFrame
    change: pd.DataFrame
    distance: pd.Series

    def __repr__(self) -> str:
        """Describe the change of each fate in one line."""
        each = ", ".join(f"{name} {value:+.3f}" for name, value in self.table["change"].items())
        return f"Perturbation of {len(self.change)} cells: {each}"


class PerturbationInference(FateInference):
    """Methods of a trained model that change cells and follow them."""

    def perturb(
        self,
        features: str | int | Sequence[str] | Sequence[int],
        amount: float | Sequence[float] | Mapping[str, float] | pd.Series,
        loadings: Any = None,
        population: str | Sequence[str] | None = None,
        terminal_states: Sequence[str] | None = None,
        sample_key: str | None = None,
        n_neighbors: int = 15,
        n_members: int = 10,
        n_bootstrap: int = 200,
        level: float = 0.9,
        random_state: int = 0,
    ) -> Perturbation:
        """Change features of all cells, follow each from its new position, and return how its fates change.

        Each cell is moved in the representation by the amounts times the loadings of the features. From there it makes
        one move of those that :meth:`get_fates` combines: along the velocity at its new position, to its neighbors
        there, or, between measured days, to the descendants of the nearest cell of its day. Then it goes on by the
        chain of :meth:`get_fates`. Without a change, its fates are those of :meth:`get_fates`.

        Limits: the change is a single push, not a lasting one. The field stays as it is: what a gene regulates is not
        known to the model, so only the features that are named change at once, and others only as the cells do that the
        changed ones resemble. A change of correlated features answers which fates cells of such a position have; it
        is no evidence that the feature is their cause. Loadings act linearly, and a decrease below 0 counts is not
        prevented. Far from all cells the field is extrapolated: a warning says how many cells are there. The intervals
        contain the sampling of windows and of cells or samples, not the choice of the model.

        Parameters
        ----------
        features
            Names of features, or positions of coordinates of the representation; one or several.
        amount
            Change of each, added to all cells: of coordinates in their own unit, of features on the scale that the
            loadings belong to, such as log counts for a representation of :func:`muport.pp.prepare`. One number, or one
            for each; a dict or a Series is matched by name.
        loadings
            Of named features: a table (features, d), or an array in the order of the features of the data, such as
            ``adata.varm["PCs"]``. By default those of the representation, if :func:`muport.pp.prepare` computed it.
        population
            Label, or labels, of the cells in the mean change; all cells by default. Cells of terminal states are left
            out of it.
        terminal_states, n_neighbors
            As for :meth:`get_fates`.
        sample_key
            Column of ``obs`` with the sample of each cell. The intervals are then those of a bootstrap over samples.
        n_members
            Number of refits of the field that enter the intervals, of those that ``n_bootstrap`` of :meth:`train` made.
        n_bootstrap
            Number of bootstrap replicates; without any, the intervals are NaN.
        level
            Coverage of the intervals, in (0, 1).
        random_state
            Seed of the bootstrap.

        Returns
        -------
        muport.velocity.Perturbation
            With ``table``, one row for each fate, and ``change``, one row for each cell.

        Raises
        ------
        KeyError
            If a feature, label or column does not exist; or a feature is not among those that the representation was
            computed from.
        TypeError
            If features are neither names nor positions.
        ValueError
            If an amount is not finite, or there are not as many as features; features are named and there are no
            loadings of them; the representation is no linear map of the features; or no cell of the population has a
            fate to change.

        Warns
        -----
        UserWarning
            If changed cells are more than ten nearest-neighbor distances from any cell.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=600, random_state=0)
        >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="time", labels_key="branch")
        >>> model = muport.Velocity(adata)
        >>> model.train(n_steps=50, n_bootstrap=5, progress=False)
        >>> changed = model.perturb(0, 0.5, population="trunk", terminal_states=["A", "B"])
        >>> list(changed.table.columns)
        ['before', 'after', 'change', 'lower', 'upper', 'n_cells']
        """
        check_integers(0, n_bootstrap=n_bootstrap, n_members=n_members)
        check_integers(1, n_neighbors=n_neighbors)
        check_numbers(1 - _MAX_LEVEL, _MAX_LEVEL, level=level)
        check_seed(random_state)
        cells = self._cells()
        shift = self._shift(features, amount, loadings, cells.x.shape[1])
        in_population = np.full(len(cells.x), True)
        if population is not None:
            in_population = has_label_of(cells, population)
        group = self._bootstrap_groups(sample_key, len(cells.x))
        if np.abs(shift).max() > _LARGEST:
            raise ValueError(f"amount={amount!r} moves cells by {np.abs(shift).max():.3g}: pass a smaller amount.")
        positions = (cells.x + shift).astype(np.float32)
        distance = _distance_to_cells(cells.x, positions)
        velocities = _velocities(cells, positions, n_members)
        kernel = self._combined_kernel(cells, n_neighbors)
        codes, names = find_terminal_states(cells, kernel.flow.matrix, terminal_states)
        in_population &= codes < 0
        _warn_if_far(distance[in_population])
        pairs = [perturbed_fates(kernel, codes, positions, velocities[0][1])]
        for own, moved in velocities[1:]:
            refit = replace(kernel, flow=fit_kernel(cells.x, own, time=cells.time, k=n_neighbors))
            pairs.append(perturbed_fates(refit, codes, positions, moved))
        has_fate = [(before.sum(axis=1) > 0) & (after.sum(axis=1) > 0) for before, after in pairs]
        kept = [in_population & mask for mask in has_fate]
        if not kept[0].any():
            raise ValueError(
                f"population={population!r} has no cell with a fate to change: all are in the terminal states {names}, "
                "or reach none of them."
            )
        changes = [after - before for before, after in pairs]
        mean, lower, upper = mean_change(changes, kept, group, n_bootstrap, level, random_state)
        before = pairs[0][0][kept[0]].mean(axis=0)
        columns = {"before": before, "after": before + mean, "change": mean, "lower": lower, "upper": upper}
        table = pd.DataFrame(columns, index=pd.Index(names, name="fate")).assign(n_cells=int(kept[0].sum()))
        each = np.where(has_fate[0][:, None], changes[0], np.nan)
        return Perturbation(
            table,
            pd.DataFrame(each, index=cells.names, columns=names),
            pd.Series(distance, index=cells.names, name="distance"),
        )

    def _bootstrap_groups(self, sample_key: str | None, n_cells: int) -> NDArray[np.int64]:
        """(n,) sample of each cell; each cell its own without a column."""
        if sample_key is None:
            return np.arange(n_cells)
        column = complete_column(
            self._own_data("load it with its data, which hold the samples"), sample_key, "sample_key"
        )
        if len(column.names) < 2:
            raise ValueError(
                f"sample_key={sample_key!r}: all cells are of one sample, from which no interval can be estimated: "
                "leave sample_key out for a bootstrap over cells."
            )
        return column.codes

    def _shift(self, features: Any, amount: Any, loadings: Any, width: int) -> NDArray[np.float64]:
        """(d,) change of the coordinates."""
        single = isinstance(features, str) or not isinstance(features, Iterable)
        chosen = [features] if single else list(features)
        if not chosen:
            raise ValueError("features is empty: name at least one feature, or the position of a coordinate.")
        if repeated := [name for i, name in enumerate(chosen) if name in chosen[:i]]:
            raise ValueError(f"features={features!r} name {repeated[0]!r} twice: add up its amounts.")
        amounts = _check_amounts(amount, chosen)
        if all(isinstance(name, str) for name in chosen):
            directions = self._loadings_of(chosen, loadings, width)
        elif all(isinstance(name, (int, np.integer)) and not isinstance(name, bool) for name in chosen):
            if min(chosen) < 0 or max(chosen) >= width:
                raise KeyError(f"features={features!r}: coordinates are numbered 0 to {width - 1}.")
            directions = np.eye(width)[chosen]
        else:
            raise TypeError(f"features={features!r} must be names of features, or positions of coordinates (integers).")
        shift: NDArray[np.float64] = amounts @ directions
        return shift

    def _loadings_of(self, names: list[str], loadings: Any, width: int) -> NDArray[np.float64]:
        """(m, d) loadings of features, from a table or from the recipe of the representation."""
        if loadings is not None:
            if not isinstance(loadings, pd.DataFrame):
                loadings, index = as_points(loadings, "loadings"), self._features(None, None)[1]
                if len(loadings) != len(index):
                    raise ValueError(
                        f"loadings have {len(loadings)} rows, the data {len(index)} features: pass a table."
                    )
                loadings = pd.DataFrame(loadings, index=index)
            named = rows_by_name(loadings, pd.Index(names), "loadings", row="feature")
            table: NDArray[np.float64] = named.to_numpy(np.float64)
            if table.shape[1] != width or not np.isfinite(table).all():
                raise ValueError(f"loadings have {table.shape[1]} columns, or NaN: {width} coordinates need as many.")
        else:
            recipes = [recipe for of_modality in self.projections_.values() for recipe in of_modality.values()]
            if not recipes:
                raise ValueError(
                    f"features={names}: the representation has no stored loadings: pass them, for example "
                    'loadings=adata.varm["PCs"], or compute it with muport.pp.prepare.'
                )
            owner = next((recipe for recipe in recipes if set(names) <= set(recipe.features)), recipes[0])
            table = owner.loadings_of(names)
        silent = [name for name, row in zip(names, table, strict=True) if not row.any()]
        if silent:
            raise KeyError(f"features {silent} have no loading: the representation was computed without them.")
        return table


def _check_amounts(amount: Any, features: list[Any]) -> NDArray[np.float64]:
    """(n,) finite amounts, from one number or one for each feature; by name from a Series or dict."""
    n, given = len(features), pd.Series(amount) if isinstance(amount, Mapping) else amount
    if isinstance(given, pd.Series) and (isinstance(amount, Mapping) or not isinstance(given.index, pd.RangeIndex)):
        given = rows_by_name(given, pd.Index(features), "amount", row="feature")
    amounts = np.full((), np.nan)
    if np.asarray(given).dtype.kind in "iufO":
        try:
            amounts = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            pass
    if amounts.shape not in ((), (n,)) or not np.isfinite(amounts).all():
        raise ValueError(f"amount={amount!r} must be one finite number, or one for each of {n} features.")
    return np.broadcast_to(amounts, n)


def _velocities(
    cells: FittedCells, positions: NDArray[np.float32], n_members: int
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Velocities of the cells, and of the changed cells, of the field and of each of its first members."""
    field = cells.field
    members = [
        evaluate(field, x, cells.time, lambda x, t: field.members(x, t)[:n_members].transpose(0, 1))
        for x in (cells.x, positions)
    ]
    pairs = [(cells.velocity, evaluate(field, positions, cells.time))]
    return pairs + [(members[0][:, i], members[1][:, i]) for i in range(members[0].shape[1])]


def _distance_to_cells(x: NDArray[np.float32], positions: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) distance of each position to the nearest cell, in median distances between nearest cells."""
    spacing = float(np.median(knn(x, 1).distances))
    nearest = knn(x, 1, query=positions).distances[:, 0].astype(np.float64)
    scaled: NDArray[np.float64] = nearest / (spacing or 1.0)
    return scaled


def _warn_if_far(distance: NDArray[np.float64]) -> None:
    n_far = int((distance > _FAR).sum())
    if n_far:
        warnings.warn(
            f"{n_far} of {len(distance)} changed cells are more than {_FAR:g} nearest-neighbor distances from any "
            "cell, where the field is extrapolated: choose a smaller amount.",
            UserWarning,
            stacklevel=3,
        )
