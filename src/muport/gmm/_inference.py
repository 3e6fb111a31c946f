"""The methods of the model after training: distances, embeddings, and the meaning of components."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from muport._checks import check_flags, check_integers, check_option, check_seed
from muport._tables import take_cells
from muport.data import MuDataModel, Setup, joined_column, read_rows
from muport.gmm._fitted_state import cell_codes, check_strata, label_samples
from muport.gmm.distances._cell_distances import exact_wasserstein, sliced_wasserstein
from muport.gmm.distances._classical_scaling import embed_distances
from muport.gmm.distances._mixture_wasserstein import mixture_wasserstein
from muport.gmm.distances._moment_distances import moment_coordinates
from muport.gmm.distances._nearest_patients import linear_coordinates
from muport.gmm.interpretation._cell_types import component_types, sum_by_group
from muport.gmm.interpretation._component_groups import find_groups, match_components
from muport.gmm.interpretation._condition_effects import condition_effects
from muport.gmm.interpretation._enrichment import enrichment
from muport.gmm.interpretation._features import axis_loadings, component_shifts, order_loadings, rank_features
from muport.gmm.metric._ground_metric import metric_distances
from muport.gmm.mixtures._em_settings import EMSettings
from muport.gmm.mixtures._mixtures import responsibilities
from muport.gmm.mixtures._pooled_prior import fit_pooled_priors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.gmm._fitted_state import Cohort, GMMState
    from muport.gmm.interpretation._cell_types import ComponentTypes
    from muport.gmm.interpretation._component_groups import ComponentGroups
    from muport.gmm.mixtures._mixtures import Mixtures

    type Data = mudata.MuData | anndata.AnnData

__all__ = [
    "PACKAGE",
    "CohortInference",
    "read_cell_types",
    "row_samples",
    "row_types",
    "row_weights",
    "sample_conditions",
]

PACKAGE = str(Path(__file__).parents[1])

type Distance = Literal["mw2", "sliced", "emd", "linear", "moments", "learnt"]


class CohortInference(MuDataModel):
    """Distances between patients, embeddings of patients and cells, and the meaning of components."""

    def get_latent_representation(self, mdata: Data | None = None, indices: Any = None) -> NDArray[np.float32]:
        """Return cells in the learned subspace.

        Parameters
        ----------
        mdata
            Cells; by default those of the set-up.
        indices
            Cells to return, by position, name or mask; by default all.

        Returns
        -------
        (n_obs, n_comps) float32, ``x W'`` with the metric of :meth:`get_metric`; if there is no metric, the
        representation itself, (n_obs, d).

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        state: GMMState = self._fitted()
        rows = self._rows(mdata, require_sample=False)
        rows.check_width(state.cohort.mixtures.means.shape[2])
        latent = rows.x if state.predictor is None else state.predictor.metric.latent(rows.x)
        cells: NDArray[np.float32] = np.array(rows.to_cells(latent))
        return take_cells(cells, indices, rows.obs_names)

    def get_responsibilities(self) -> NDArray[np.float32]:
        """Return the probabilities of the components of each cell's patient, for the cells of the fit.

        Returns
        -------
        (n_obs, K) float32; rows sum to 1, and components that a patient does not have are 0.
        """
        state: GMMState = self._fitted()
        rows = self._fitted_rows()
        return rows.to_cells(responsibilities(rows.x, state.cohort.mixtures, row_samples(rows)))

    def get_metric(self) -> NDArray[np.float64]:
        """Return W, the axes of the learned subspace: orthogonal, the longest first, their largest entries positive.

        Returns
        -------
        (n_comps, d) float64. In the subspace a cell x is at W x, and a component with covariance S has covariance
        W S W'.

        Raises
        ------
        ValueError
            Before :meth:`train_gmm`.
        """
        return self._metric("there is no metric").copy()

    def get_sample_distances(
        self, metric: Distance = "mw2", learnt: bool = True, random_state: int = 0
    ) -> pd.DataFrame:
        """Return the distances between patients.

        Parameters
        ----------
        metric
            ``"mw2"``: Wasserstein distance between mixtures, with means and covariances. ``"sliced"``: sliced
            Wasserstein distance between the cells, over random directions. ``"emd"``: exact Wasserstein distance
            between at most 250 cells of each patient. ``"linear"``: linearized transport of the mixtures, which
            approximates ``"mw2"`` in a time that is nearly linear in the number of patients. ``"moments"``: Euclidean
            distance of the shares, means and variances of the cohort's components in each patient, in units of the
            standard deviation of its cells, without the sampling error; the choice where patients have few cells, since
            small differences of shares weigh much in ``"mw2"``. ``"learnt"``: the learned distance of the smallest
            held-out loss among those with a state distance; it combines the distance of states and that of
            compositions.
        learnt
            Whether all but the last are computed in the learned subspace, if there is one.
        random_state
            Seed of directions and of the choice of cells.

        Returns
        -------
        (P, P) distances, not squared, by the names of the samples.

        Raises
        ------
        ValueError
            If the metric is unknown, or ``"learnt"`` before `train_gmm`.
        """
        check_seed(random_state)
        check_flags(learnt=learnt)
        check_option("metric", metric, ("mw2", "sliced", "emd", "linear", "moments", "learnt"))
        state: GMMState = self._fitted()
        w = state.predictor.metric.w if learnt and state.predictor is not None else None
        if metric == "mw2":
            values = mixture_wasserstein(state.cohort.mixtures, w=w)
        elif metric == "linear":
            coordinates = linear_coordinates(state.cohort.mixtures, w, random_state)
            values = cdist(coordinates, coordinates)
        elif metric == "moments":
            rows = self._fitted_rows()
            moments = moment_coordinates(
                rows.x, row_samples(rows), self._pooled_mixture(rows), weight=row_weights(rows), w=w
            )
            values = cdist(moments, moments)
        elif metric == "learnt":
            if state.predictor is None:
                raise ValueError("metric='learnt' needs a metric: set up a labels_key, and call train_gmm.")
            values = metric_distances(state.cohort.mixtures, None, state.predictor.metric)
            # plans are solved up to a tolerance
            values = (values + values.T) / 2
            np.fill_diagonal(values, 0)
        else:
            rows = self._fitted_rows()
            distance = sliced_wasserstein if metric == "sliced" else exact_wasserstein
            values = distance(rows.x, row_samples(rows), weight=row_weights(rows), w=w, random_state=random_state)
        return pd.DataFrame(values, index=list(state.samples), columns=list(state.samples))

    def get_sample_embedding(
        self, n_components: int = 2, metric: Distance | None = None, learnt: bool = True
    ) -> pd.DataFrame:
        """Return coordinates of patients that preserve their distances: classical multidimensional scaling.

        Parameters
        ----------
        n_components
            Number of coordinates, at most the number of patients.
        metric
            As for :meth:`get_sample_distances`; ``"learnt"`` by default if there is a metric, else ``"mw2"``.
        learnt
            False: without the learned metric, which separates even permuted conditions.

        Returns
        -------
        (P, n_components) coordinates by the names of the samples; the first has the largest variance.

        Raises
        ------
        ValueError
            If `n_components` is out of range.
        """
        state: GMMState = self._fitted()
        n = len(state.samples)
        if isinstance(n_components, bool | float) or n_components not in range(1, n + 1):
            raise ValueError(f"n_components={n_components!r} must be an integer from 1 to {n}, the number of patients.")
        check_flags(learnt=learnt)
        distance: Distance = metric or ("learnt" if learnt and state.predictor is not None else "mw2")
        coordinates = embed_distances(self.get_sample_distances(distance, learnt).to_numpy(), n_components)
        columns = [f"MDS{i + 1}" for i in range(n_components)]
        return pd.DataFrame(coordinates, index=list(state.samples), columns=columns)

    def match_components(self, n_groups: int | None = None, random_state: int = 0) -> ComponentGroups:
        """Group the components of all patients, so that they can be compared across patients.

        Parameters
        ----------
        n_groups
            Number of groups, at most that of all components; by default the largest number of components of a patient.
        random_state
            Seed.

        Returns
        -------
        Group of each component, Wasserstein barycenters of the groups, and the fraction of each group in each patient.
        """
        check_seed(random_state)
        return match_components(self._fitted().cohort.mixtures, n_groups, random_state=random_state)

    def get_component_types(
        self, types_key: str, groups: ComponentGroups | None = None, random_state: int = 0
    ) -> ComponentTypes:
        """Return the cell types of the matched components; a cell counts by its responsibilities.

        Parameters
        ----------
        types_key
            Column with the type of each cell; cells without one are left out.
        groups
            Result of :meth:`match_components`; computed by default.
        random_state
            Seed of the matching.

        Returns
        -------
        Fractions of the types in each group, with its mass, purity and entropy.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If no cell has a type.
        """
        matched = find_groups(groups, self._fitted().cohort.mixtures, random_state)
        sample = self._fitted_rows().sample
        code, types = self._read_labels(types_key, "types_key")
        r = sum_by_group(self.get_responsibilities(), cast("NDArray[np.int64]", sample), matched)
        return component_types(r, np.array([*types, None], dtype=object)[code])

    def test_components(
        self,
        groups: ComponentGroups | None = None,
        n_permutations: int = 999,
        random_state: int = 0,
        strata_key: str | None = None,
    ) -> pd.DataFrame:
        """Test which components differ between conditions, in their mean or in their fraction of cells.

        The tests permute the conditions of patients, so patients, not cells, are the samples.

        Parameters
        ----------
        groups
            Result of :meth:`match_components`; computed by default.
        n_permutations
            Number of permutations.
        random_state
            Seed.
        strata_key
            Column with the stratum of each cell, within which conditions are permuted: the person, for samples before
            and after, or the center.

        Returns
        -------
        One row per group: ``state_shift``, ``state_effect``, ``state_p`` and ``state_q`` of the mean, and the same
        columns with ``share_`` of the fraction of cells.

        Raises
        ------
        ValueError
            If fewer than two conditions are known, or samples have no stratum.
        """
        check_integers(n_permutations=n_permutations)
        check_seed(random_state)
        state: GMMState = self._fitted()
        known = np.flatnonzero(state.condition >= 0)
        strata = self._read_strata(strata_key, known)
        matched = find_groups(groups, state.cohort.mixtures, random_state)
        return condition_effects(
            state.cohort.mixtures.subset(known), matched.subset(known), state.condition[known],
            n_permutations=n_permutations, random_state=random_state, strata=strata,
        )  # fmt: skip

    def rank_features(
        self,
        loadings: Any,
        features: Sequence[str],
        of: Literal["axes", "components"] = "axes",
        n: int | None = None,
        by: Literal["magnitude", "up", "down"] = "magnitude",
    ) -> pd.DataFrame:
        """Rank features by their weight on the axes of the learned subspace, or by their shift in a component.

        Parameters
        ----------
        loadings
            (n_features, d) loadings of the representation, such as ``adata.varm["PCs"]``.
        features
            Names of the features, such as ``adata.var_names``.
        of
            ``"axes"``, or ``"components"`` (matched across patients).
        n
            Number of features for each axis or component; all by default.
        by
            Order: by the ``"magnitude"`` of the score, from the highest score (``"up"``) or from the lowest
            (``"down"``).

        Returns
        -------
        Table of ``item`` (axis or component), ``rank``, ``feature`` and ``score``.

        Raises
        ------
        ValueError
            If shapes do not fit, or axes are asked for before `train_gmm`.
        """
        if n is not None:
            check_integers(n=n)
        scores, names = self._feature_scores(order_loadings(loadings, features), of)
        return rank_features(scores, features, names, n=n, by=by)

    def enrichment(
        self,
        loadings: Any,
        features: Sequence[str],
        sets: Mapping[str, Iterable[str]] | pd.DataFrame,
        of: Literal["axes", "components"] = "axes",
        method: str = "ulm",
        min_features: int = 5,
    ) -> pd.DataFrame:
        """Test sets of features for enrichment on the axes or components, with decoupler; nothing is downloaded.

        Parameters
        ----------
        loadings, features, of
            As for :meth:`rank_features`.
        sets
            Name of a set -> its features, or a table with the columns ``source`` and ``target``.
        method
            A method of ``decoupler.mt``.
        min_features
            Minimum number of the features in a set; smaller sets are left out.

        Returns
        -------
        Table of ``item``, ``set``, ``score``, ``padj`` and ``n_features``.

        Raises
        ------
        ImportError
            If decoupler is not installed: it comes with ``muport[enrich]``.
        ValueError
            As for :meth:`rank_features`, or if no set has enough features.
        """
        scores, names = self._feature_scores(order_loadings(loadings, features), of)
        return enrichment(scores, features, sets, names, method=method, min_features=min_features)

    def _feature_scores(self, loadings: Any, of: str) -> tuple[NDArray[np.float64], list[str]]:
        """(g, r) scores of the features, and the names of the axes or components."""
        check_option("of", of, ("axes", "components"))
        if of == "axes":
            w = self._metric("of='axes' needs a metric")
            return axis_loadings(w, loadings), [f"axis {i + 1}" for i in range(len(w))]
        groups = self.match_components()
        shifts = component_shifts(groups.means, groups.shares.mean(axis=0))
        return axis_loadings(shifts, loadings), [f"component {i}" for i in range(len(shifts))]

    def _metric(self, problem: str) -> NDArray[np.float64]:
        """The learned metric W; if there is none, the error starts with `problem`."""
        state: GMMState = self._fitted()
        if state.predictor is None:
            raise ValueError(f"{problem}: set up a labels_key, and call train_gmm.")
        return state.predictor.metric.w

    def _pooled_mixture(self, rows: Rows) -> Mixtures:
        """One mixture of all patients, of their median number of components."""
        cohort: Cohort = self._fitted().cohort
        k, own = int(np.median(cohort.best_k)), cohort.mixtures
        # the priors of aligned patients are not a mixture of their cells
        if str(k) in cohort.priors and cohort.shared_states is None:
            return cohort.priors[str(k)].mixture
        if cohort.sharing == "global":
            return replace(own.subset(0), weights=own.weights.mean(axis=0, keepdims=True))
        settings = EMSettings(own.covariance_type, random_state=self.settings_["fit_gmm"]["random_state"])
        return fit_pooled_priors(rows.x, row_samples(rows), [k], settings, weight=row_weights(rows))[k].mixture

    def _fitted_rows(self) -> Rows:
        """Cells of the fit; the data may have changed since, and those of a loaded model may be others."""
        rows, state = self._rows(), self._fitted()
        state.check_cells(rows.samples, cell_codes(rows.x, row_samples(rows), row_weights(rows)))
        return rows

    @classmethod
    def _read(cls, data: Data, setup_args: dict[str, Any], required: bool) -> Rows:
        return read_rows(data, Setup.from_args({**cls._setup_defaults, **setup_args}), require_labels=required)

    def _read_labels(self, key: str, argument: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Codes (n_cells,) of another column, which `argument` names, -1 where missing; and the names."""
        column = joined_column(self.adata, key, argument).without(self._setup.unlabeled_category)
        return column.codes, column.names

    def _read_types(
        self, data: Data | None, known: tuple[str, ...] | None = None
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        """Codes (n_cells,) of the annotated types, and their names; `known` are the types of the fit."""
        # models of earlier versions were set up without the argument
        key: str | None = self.registry_["setup_args"].get("cell_type_key")
        if key is None:
            return None, ()
        cells = self._own_data() if data is None else data
        return read_cell_types(cells, key, known)

    def _read_groups(
        self, key: str | None, rows: Rows, argument: str = "group_key", what: str = "person"
    ) -> NDArray[np.int64] | None:
        """(P,) person, or whatever the argument names, of each sample; None without a key."""
        if key is None:
            return None
        person, people = self._read_labels(key, argument)
        sample = cast("NDArray[np.int64]", rows.sample)
        group = label_samples(sample, person, rows.samples, people, f"{argument}={key!r}", what)
        if (group < 0).any():
            raise ValueError(f"{argument}={key!r}: {int((group < 0).sum())} samples have no {what}: give them one.")
        return group

    def _read_strata(self, key: str | None, patients: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Stratum of each of the patients, within which conditions are permuted; None without a key."""
        strata = None if key is None else self._read_groups(key, self._fitted_rows(), "strata_key", "stratum")
        return None if strata is None else check_strata(strata[patients], self._fitted().condition[patients], key)


def read_cell_types(
    data: Data, key: str, known: tuple[str, ...] | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes (n_cells,) of annotated types, -1 for a cell without one, and the names of the types.

    - `known`: Types of the fit; cells of other types then count as cells without a type, with a warning.

    Raises KeyError if there is no such column; ValueError if it has fewer than two types, or about one for each cell.
    """
    column = joined_column(data, key, "cell_type_key")
    if known is None:
        if not 2 <= len(column.names) <= max(2, data.n_obs // 2):
            raise ValueError(
                f"cell_type_key={key!r} holds {len(column.names)} types in {data.n_obs} cells: name a column of cell "
                "types, of which there are at least two, or pass None."
            )
        return column.codes, column.names
    column = column.with_names_of(known)
    if new := [name for name in column.names if name not in known]:
        warnings.warn(
            f"cell_type_key={key!r} holds {new}, which no cell of the fit has: these cells count as cells without "
            "a type.",
            UserWarning,
            skip_file_prefixes=(PACKAGE,),
        )
    lookup = np.array([known.index(name) if name in known else -1 for name in column.names] + [-1], dtype=np.int64)
    return lookup[column.codes], known


def row_types(codes: NDArray[np.int64] | None, rows: Rows) -> NDArray[np.int64] | None:
    """Type of each row, if cells have types."""
    return None if codes is None else codes[rows.cell]


def row_samples(rows: Rows) -> NDArray[np.int64]:
    """Sample of each row; the set-up always has samples."""
    return cast("NDArray[np.int64]", rows.sample)[rows.cell]


def row_weights(rows: Rows) -> NDArray[np.float64] | None:
    """Weight of each row, if there are weights."""
    return None if rows.weight is None else rows.weight[rows.cell]


def sample_conditions(rows: Rows, key: str) -> NDArray[np.int64]:
    """(P,) condition of each sample, -1 if it is not known; `key` is the column of the conditions."""
    if rows.sample is None:
        return np.zeros(0, dtype=np.int64)
    return label_samples(rows.sample, rows.label, rows.samples, rows.labels, f"labels_key={key!r}")
