"""The methods that treat patients as the samples of a table: as AnnData, and in tests of abundance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import anndata
import numpy as np
import pandas as pd

from muport._checks import check_columns, check_integers, check_option, check_seed
from muport.data import holds_numbers, joined_column, joined_numbers
from muport.gmm._fitted_state import check_confounding, label_samples
from muport.gmm._inference import PACKAGE, CohortInference, Distance, row_samples, row_weights
from muport.gmm.interpretation._abundance import Covariate, abundance_effects
from muport.gmm.interpretation._cell_types import sum_by_group
from muport.gmm.interpretation._component_groups import find_groups
from muport.gmm.interpretation._neighborhood_abundance import count_neighbors, neighborhood_effects
from muport.gmm.interpretation._state_effects import state_effects
from muport.gmm.metric._log_ratios import centered_log_ratios
from muport.gmm.metric._nuisance import CovariateCode
from muport.gmm.mixtures._mixtures import responsibilities
from muport.neighbors import knn
from muport.pp.samples._pseudobulk import find_counts, to_pseudobulk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.gmm._fitted_state import GMMState
    from muport.gmm._inference import Data
    from muport.gmm.interpretation._component_groups import ComponentGroups

__all__ = ["SampleTables"]

_MAX_COORDINATES = 10  # coordinates of patients by default


class SampleTables(CohortInference):
    """Patients as an AnnData, and tests with samples as replicates."""

    def to_adata(
        self, metric: Distance | None = None, n_components: int | None = None, random_state: int = 0
    ) -> anndata.AnnData:
        """Return the patients as an AnnData, for scanpy and other packages.

        ``scanpy.pp.neighbors(patients, use_rep="X_mds")`` and all that follows it work on patients as on cells.

        Parameters
        ----------
        metric
            Distance, as for :meth:`get_sample_embedding`.
        n_components
            Number of coordinates; by default 10, or one less than the number of patients.
        random_state
            Seed of the matching of components.

        Returns
        -------
        AnnData with one row for each patient. ``X``: fractions of the matched components. ``obs``: ``n_cells``, and all
        columns of the cells that have one value in each patient. ``obsm["X_mds"]``: coordinates that preserve the
        distances; ``obsm["X_types"]``: shares of the annotated types, a DataFrame, if the set-up names them.
        ``obsp["sample_distances"]``: distances.

        Raises
        ------
        ValueError
            As :meth:`get_sample_embedding`, or if the data of the model do not have the samples of its fit.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_cohort(n_patients=8, n_cells=60, n_dims=5, random_state=0)
        >>> muport.GMM.setup_anndata(adata, labels_key="condition", cell_type_key="cell_type")
        >>> model = muport.GMM(adata)
        >>> model.fit_gmm(k_comps=3, verbose=False)
        >>> patients = model.to_adata()
        >>> patients.shape, list(patients.obs), patients.obsm["X_mds"].shape
        ((8, 3), ['n_cells', 'sample', 'condition'], (8, 7))
        """
        state: GMMState = self._fitted()
        n = len(state.samples)
        distance: Distance = metric or ("mw2" if state.predictor is None else "learnt")
        count = min(_MAX_COORDINATES, max(n - 1, 1)) if n_components is None else n_components
        coordinates = self.get_sample_embedding(count, distance)
        shares = self.match_components(random_state=random_state).shares
        names = [f"component {i}" for i in range(shares.shape[1])]
        obs = self._sample_columns()
        adata = anndata.AnnData(shares.astype(np.float32), obs=obs, var=pd.DataFrame(index=names))
        adata.obsm["X_mds"] = coordinates.to_numpy()
        if state.types and state.counts is not None:
            types = state.counts.types / np.maximum(state.counts.types.sum(axis=1, keepdims=True), 1e-12)
            adata.obsm["X_types"] = pd.DataFrame(types, index=obs.index, columns=list(state.types))
        adata.obsp["sample_distances"] = self.get_sample_distances(distance).to_numpy()
        return adata

    def test_abundance(
        self,
        by: Literal["types", "components", "neighborhoods"] | None = None,
        covariate_keys: Sequence[str] = (),
        groups: ComponentGroups | None = None,
        random_state: int = 0,
        n_neighbors: int | None = None,
    ) -> pd.DataFrame:
        """Test which types, components or neighborhoods are more or less frequent in a condition.

        The samples are the replicates, not the cells.

        Parameters
        ----------
        by
            ``"types"``: the annotated types of the set-up. ``"components"``: the matched components.
            ``"neighborhoods"``: the nearest cells of each cell, which also finds changes inside a type. By default the
            types if there are any, else the components.
        covariate_keys
            Columns of the cells, with one value in each sample, whose effects are removed: numbers, or categories such
            as the batch. With the person as covariate, samples of one person are compared with each other.
        groups
            Result of :meth:`match_components`; computed by default.
        random_state
            Seed of the matching, and of an approximate search of neighbors.
        n_neighbors
            Number of cells in a neighborhood, with the cell itself; by default five for each sample, at least 30 and at
            most a fifth of all cells.

        Returns
        -------
        One row for each type or component and each condition but the first, in the order of the names: ``effect``, the
        natural logarithm of the fold change against most others, ``se``, ``t``, ``p``, and ``q`` of Benjamini and
        Hochberg over all rows; mean shares in the condition and in the first one (``reference``). Of neighborhoods: one
        row for each cell and condition, by the name of the cell, with ``F`` and ``dispersion`` in place of ``se`` and
        ``t``, and ``q`` weighted as in Milo; with two conditions, ``adata.obs["abundance"] = table["effect"]`` colors
        a map of the cells.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If fewer than two conditions are known, there are no types, samples have no or several values of a
            covariate, the covariates cannot be distinguished from the condition, or samples are too few.

        References
        ----------
        Zhou et al. (2022), LinDA: linear models for differential abundance analysis of microbiome compositional data,
        Genome Biology 23, 95. Dann et al. (2022), Differential abundance testing on single-cell data using k-nearest
        neighbor graphs, Nature Biotechnology 40, 245.
        """
        state: GMMState = self._fitted()
        by_types = by != "neighborhoods" and _counts_types(by, state, "neighborhoods")
        known = self._known_patients()
        check_seed(random_state)
        if not isinstance(covariate_keys, Sequence) or covariate_keys:
            check_columns("covariate_keys", covariate_keys, "() for no covariates")
        covariates = {key: self._read_covariate(key, known) for key in covariate_keys}
        if by == "neighborhoods":
            matched = find_groups(groups, self._fitted().cohort.mixtures, random_state)
            return self._neighborhood_table(known, covariates, matched, n_neighbors, random_state)
        if state.counts is None:
            raise ValueError("this model was saved by an earlier version: fit it again.")
        if not by_types:
            matched = find_groups(groups, self._fitted().cohort.mixtures, random_state)
            shares, total = matched.shares[known], state.counts.total[known]
            names = [f"component {i}" for i in range(len(matched))]
        else:
            shares, names = state.counts.types[known], list(state.types)
            total = shares.sum(axis=1)
            if (lacking := np.flatnonzero(total == 0)).size:
                raise ValueError(f"sample {state.samples[known[lacking[0]]]!r} has no cell with a type: annotate some.")
        ratios = centered_log_ratios(shares, total)
        fractions = shares / shares.sum(axis=1, keepdims=True)
        return abundance_effects(ratios, fractions, state.condition[known], state.conditions, names, covariates)

    def _neighborhood_table(
        self,
        known: NDArray[np.int64],
        covariates: dict[str, Covariate],
        groups: ComponentGroups,
        n_neighbors: int | None,
        random_state: int,
    ) -> pd.DataFrame:
        """Test the neighborhoods of all cells, between patients of known condition."""
        state: GMMState = self._fitted()
        check_seed(random_state)
        rows = self._fitted_rows()
        sample, weight, n = row_samples(rows), row_weights(rows), len(rows.x)
        size = min(max(5 * len(state.samples), 30), max(n // 5, 2)) if n_neighbors is None else n_neighbors
        check_integers(2, n_neighbors=size)
        if size > n:
            raise ValueError(f"n_neighbors={size} must be at most {n}, the number of cells.")
        neighbors = knn(rows.x, size - 1, include_self=False, random_state=random_state)
        members = np.hstack([np.arange(n)[:, None], neighbors.indices])
        counts = count_neighbors(members, sample, len(state.samples), weight)[:, known]
        total = np.bincount(sample, weight, len(state.samples)).astype(np.float64)[known]
        states = sum_by_group(responsibilities(rows.x, state.cohort.mixtures, sample), sample, groups)
        return neighborhood_effects(
            counts, total, state.condition[known], state.conditions, list(rows.obs_names[rows.cell]), covariates,
            neighbors.distances[:, -1].astype(np.float64), states,
        )  # fmt: skip

    def test_state(
        self,
        covariate_keys: Sequence[str] = (),
        strata_key: str | None = None,
        groups: ComponentGroups | None = None,
        n_permutations: int = 999,
        random_state: int = 0,
    ) -> pd.DataFrame:
        """Test which matched components move between conditions, in their mean or covariance.

        The movement is the Wasserstein distance of the component in a sample from its barycenter, along the geodesic:
        means and roots of covariances, in standard deviations of its cells. Conditions of samples are permuted, so the
        samples are the replicates.

        Parameters
        ----------
        covariate_keys
            Columns whose linear effects are removed, as in :meth:`test_abundance`.
        strata_key
            Column with the stratum of each cell, within which conditions are permuted: the person, for samples before
            and after.
        groups
            Result of :meth:`match_components`; computed by default.
        n_permutations
            Number of permutations; the smallest p-value is 1 / (`n_permutations` + 1).
        random_state
            Seed.

        Returns
        -------
        One row per component: ``n_samples`` that have it; ``shift``, the largest distance between two conditions,
        ``p``, and ``q`` of Benjamini and Hochberg; and the same of means (``mean_shift`` ...) and covariances
        (``covariance_shift`` ...) alone.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If fewer than two conditions are known, samples lack a covariate or a stratum, or the covariates determine
            the condition.
        """
        state: GMMState = self._fitted()
        check_integers(n_permutations=n_permutations)
        check_seed(random_state)
        known = self._known_patients()
        columns = self._fit_covariates(covariate_keys, known)[1]
        if columns is not None:
            check_confounding(np.eye(len(state.conditions))[state.condition[known]], columns, covariate_keys)
        strata = self._read_strata(strata_key, known)
        matched = find_groups(groups, self._fitted().cohort.mixtures, random_state)
        return state_effects(
            state.cohort.mixtures.subset(known), matched.subset(known), state.condition[known],
            [f"component {i}" for i in range(len(matched))], columns=columns,
            strata=strata, n_permutations=n_permutations, random_state=random_state,
        )  # fmt: skip

    def to_pseudobulk(
        self,
        by: Literal["types", "components"] | None = None,
        layer: str | None = None,
        min_cells: int = 10,
        modality: str | None = None,
        groups: ComponentGroups | None = None,
        random_state: int = 0,
    ) -> anndata.AnnData:
        """Add up the counts of the cells of each sample and component, or type, with :func:`muport.pp.to_pseudobulk`.

        Tests of differential expression, such as those of pydeseq2 and edgeR, take the result, with samples as
        replicates.

        Parameters
        ----------
        by
            As for :meth:`test_abundance`. A cell counts for its most probable component.
        layer, min_cells
            As for :func:`muport.pp.to_pseudobulk`.
        modality
            Modality of a MuData that has the counts; ``"rna"`` by default.
        groups
            Result of :meth:`match_components`; computed by default.
        random_state
            Seed of the matching.

        Returns
        -------
        AnnData with a row for each sample and component (or type) of at least `min_cells` cells; ``obs`` has both, and
        all columns of the cells that have one value in each row, such as the condition.

        Raises
        ------
        KeyError, ValueError
            As :func:`muport.pp.to_pseudobulk`, or if there are no types.
        """
        state: GMMState = self._fitted()
        by_types = _counts_types(by, state)
        rows, data = self._fitted_rows(), self.adata
        adata = find_counts(data, modality)
        sample = cast("NDArray[np.int64]", rows.sample)
        if not by_types:
            matched = find_groups(groups, self._fitted().cohort.mixtures, random_state)
            code = sum_by_group(self.get_responsibilities(), sample, matched).argmax(axis=1).astype(np.int64)
            names, key = [f"component {i}" for i in range(len(matched))], "component"
        else:
            types, names = self._read_types(None, state.types)[0], list(state.types)
            code, key = cast("NDArray[np.int64]", types), str(self.registry_["setup_args"]["cell_type_key"])
        columns = {
            str(self._setup.sample_key): pd.Categorical.from_codes(sample, list(rows.samples)),
            key: pd.Categorical.from_codes(code, names),
        }
        own = pd.DataFrame(columns, index=rows.obs_names).loc[adata.obs_names]
        obs = pd.DataFrame(_named_columns(data, adata)).loc[adata.obs_names]
        obs = obs.drop(columns=own.columns, errors="ignore").join(own)
        layers = {} if layer is None or layer not in adata.layers else {layer: adata.layers[layer]}
        cells = anndata.AnnData(adata.X, obs=obs, var=adata.var, layers=layers)
        return to_pseudobulk(cells, str(self._setup.sample_key), key, layer, min_cells)

    def _known_patients(self) -> NDArray[np.int64]:
        """Patients of known condition, of which there must be two or more."""
        state: GMMState = self._fitted()
        known = np.flatnonzero(state.condition >= 0)
        if len(np.unique(state.condition[known])) < 2:
            raise ValueError(
                f"labels_key={self._setup.labels_key!r}: a test needs patients of at least two conditions."
            )
        return known

    def _read_covariate(self, key: str, patients: NDArray[np.int64]) -> Covariate:
        """Values of a column in some of the patients, in each of which it has one value."""
        values, levels = self._read_sample_values(key, self._fitted_rows(), self.adata)
        self._check_values(key, values[patients])
        return Covariate(values[patients], bool(levels))

    def _read_sample_values(
        self, key: str, rows: Rows, data: Data, known: tuple[str, ...] = ()
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Number of each sample (NaN if there is none), or its position in the levels, which are returned, too.

        - `known`: Levels of the fit; a sample with another one gets -1.
        """
        sample, what = cast("NDArray[np.int64]", rows.sample), f"covariate_keys={key!r}"
        if holds_numbers(data, key, "covariate_keys") and not known:
            numbers, codes = np.unique(joined_numbers(data, key, "covariate_keys"), return_inverse=True)
            code = label_samples(sample, codes, rows.samples, tuple(map(str, numbers)), what, "value")
            return np.append(numbers, np.nan)[code], ()
        column = joined_column(data, key, "covariate_keys").without(self._setup.unlabeled_category)
        column = column.with_names_of(known) if known else column
        code = label_samples(sample, column.codes, rows.samples, column.names, what, "value")
        if not known:
            return np.where(code < 0, np.nan, code), column.names
        if new := [name for name in column.names if name not in known]:
            warnings.warn(
                f"{what} holds {new}, which no sample of the fit has: their effects are not removed.",
                UserWarning,
                skip_file_prefixes=(PACKAGE,),
            )
        lookup = np.array([known.index(name) if name in known else -1 for name in column.names] + [np.nan])
        return lookup[code], known

    @staticmethod
    def _check_values(key: str, values: NDArray[np.float64]) -> None:
        """Raise a ValueError if a sample has no value."""
        if missing := int(np.isnan(values).sum()):
            raise ValueError(f"covariate_keys={key!r}: {missing} samples have no value: give them one.")

    def _fit_covariates(
        self, keys: Sequence[str], patients: NDArray[np.int64]
    ) -> tuple[tuple[CovariateCode, ...], NDArray[np.float64] | None]:
        """Codes of covariates in some of the patients, and their columns (P, q); None without covariates."""
        if not isinstance(keys, Sequence) or keys:
            check_columns("covariate_keys", keys, "() for no covariates")
        codes, columns = [], []
        for key in keys:
            values, levels = self._read_sample_values(key, self._fitted_rows(), self.adata)
            self._check_values(key, values[patients])
            codes.append(CovariateCode.fit(key, values[patients], levels))
            columns.append(codes[-1].columns(values[patients]))
        return tuple(codes), np.hstack(columns) if columns else None

    def _covariate_columns(self, rows: Rows, data: Data) -> NDArray[np.float64] | None:
        """Columns (Q, q) of the covariates of the fit for the samples of some cells; None without covariates."""
        columns = []
        for code in self._fitted().covariates:
            if not code.levels and not holds_numbers(data, code.key, "covariate_keys"):
                raise TypeError(
                    f"covariate_keys={code.key!r} holds numbers in the fit, but text or categories in these cells: "
                    "convert the column with .astype(float)."
                )
            values, _ = self._read_sample_values(code.key, rows, data, code.levels)
            self._check_values(code.key, values)
            columns.append(code.columns(values))
        return np.hstack(columns) if columns else None

    def _sample_columns(self) -> pd.DataFrame:
        """Number of cells of each sample, and the columns of the cells that have one value in each."""
        rows = self._fitted_rows()
        sample = cast("NDArray[np.int64]", rows.sample)
        first = np.unique(sample, return_index=True)[1]
        table = pd.DataFrame({"n_cells": np.bincount(sample)}, index=list(rows.samples))
        for name, values in _named_columns(self.adata, *getattr(self.adata, "mod", {}).values()).items():
            codes = pd.factorize(values)[0]
            if name != "n_cells" and (codes == codes[first][sample]).all():
                table[name] = values.iloc[first].array
        return table


def _named_columns(data: Data, *modalities: anndata.AnnData) -> dict[str, pd.Series]:
    """Columns of all cells, by name: those of the object, and of some of its modalities where it has no such column."""
    columns: dict[str, pd.Series] = {}
    for part in (data, *modalities):
        for name, values in part.obs.items():
            if not str(name).startswith("_scvi_") and str(name) not in columns:
                columns[str(name)] = values if part is data else values.reindex(data.obs_names)
    return columns


def _counts_types(by: str | None, state: GMMState, *others: str) -> bool:
    """Whether `by` means the annotated types, the default if there are any, and not the components or `others`."""
    check_option("by", by, (None, "types", "components", *others))
    if by == "types" and not state.types:
        raise ValueError("by='types' needs annotated types: set up a cell_type_key, or pass by='components'.")
    return by != "components" and bool(state.types)
