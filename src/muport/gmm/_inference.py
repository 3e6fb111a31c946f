"""What a fitted cohort tells of its patients and components."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from muport._checks import check_seed
from muport.gmm.distances._cell_distances import emd_cells, sliced
from muport.gmm.distances._mixture_wasserstein import mw2
from muport.gmm.interpretation._component_groups import ComponentGroups, match_components
from muport.gmm.interpretation._enrichment import enrichment
from muport.gmm.interpretation._features_and_types import (
    axis_loadings,
    component_shifts,
    component_types,
    condition_effects,
    group_responsibilities,
    rank_features,
)
from muport.gmm.metric._ground_metric import distances

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.gmm._fitted_state import GMMState
    from muport.gmm.interpretation._features_and_types import ComponentTypes

__all__ = ["CohortMixin"]

type Distance = Literal["mw2", "sliced", "emd", "learnt"]


class CohortMixin:
    """Distances, embedding and interpretation."""

    if TYPE_CHECKING:
        # the model's: at run time they must not stand before it

        def _fitted(self) -> GMMState: ...

        def get_responsibilities(self) -> NDArray[np.float32]: ...

    @abstractmethod
    def _cells(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64] | None]: ...

    @abstractmethod
    def _own_rows(self) -> Rows: ...

    @abstractmethod
    def _labels(self, key: str) -> tuple[NDArray[np.int64], tuple[str, ...]]: ...

    def _w(self, learnt: bool) -> NDArray[np.float64] | None:
        classifier = self._fitted().classifier
        return classifier.metric.w if learnt and classifier is not None else None

    def get_metric(self) -> NDArray[np.float64]:
        """Return W, the axes of the learnt subspace: orthogonal, the longest first, the largest entry of each positive.

        Returns
        -------
        (n_comps, d) float64; a cell x lies at W x, a component of covariance S has W S W' there.

        Raises
        ------
        ValueError
            Before :meth:`train_gmm`.
        """
        w = self._w(True)
        if w is None:
            raise ValueError("there is no metric: set up a labels_key, and call train_gmm.")
        return w.copy()

    def get_sample_distances(
        self, metric: Distance = "mw2", learnt: bool = True, random_state: int = 0
    ) -> pd.DataFrame:
        """Return the distances between patients.

        Parameters
        ----------
        metric
            ``"mw2"``: Wasserstein distance between mixtures, means and covariances. ``"sliced"``: between the cells,
            over random directions. ``"emd"``: between the cells, exactly, on at most 250 of each patient. ``"learnt"``:
            the distance of the metric of least held-out loss in which the states have a part: state under its own
            plans, and composition.
        learnt
            Whether the first three are taken in the learnt subspace, if there is one.
        random_state
            Seed of directions and of cells.

        Returns
        -------
        (P, P) distances, not squared, by the names of the samples.

        Raises
        ------
        ValueError
            If the metric is unknown, or ``"learnt"`` before `train_gmm`.
        """
        check_seed(random_state)
        state = self._fitted()
        w = self._w(learnt)
        if metric == "mw2":
            values = mw2(state.cohort.mixtures, w=w)
        elif metric in ("sliced", "emd"):
            x, sample, weight = self._cells()
            if weight is not None:
                # cells without weight are as if they were not there
                x, sample, weight = x[weight > 0], sample[weight > 0], weight[weight > 0]
            between = sliced if metric == "sliced" else emd_cells
            values = between(x, sample, weight=weight, w=w, random_state=random_state)
        elif metric == "learnt":
            if state.classifier is None:
                raise ValueError("metric='learnt' needs a metric: set up a labels_key, and call train_gmm.")
            values = distances(state.cohort.mixtures, None, state.classifier.metric)
            # plans are found to a tolerance
            values = (values + values.T) / 2
            np.fill_diagonal(values, 0)
        else:
            raise ValueError(f"metric={metric!r} is unknown: use 'mw2', 'sliced', 'emd' or 'learnt'.")
        return pd.DataFrame(values, index=list(state.samples), columns=list(state.samples))

    def get_sample_embedding(self, n_components: int = 2, metric: Distance | None = None) -> pd.DataFrame:
        """Return patients as points whose distances are like theirs: classical multidimensional scaling.

        Parameters
        ----------
        n_components
            Coordinates, at most the number of patients.
        metric
            As for :meth:`get_sample_distances`; ``"learnt"`` by default if there is a metric, else ``"mw2"``.

        Returns
        -------
        (P, n_components) coordinates by the names of the samples; the first spreads the patients most.

        Raises
        ------
        ValueError
            If `n_components` is out of range.
        """
        state = self._fitted()
        n = len(state.samples)
        if not isinstance(n_components, int | np.integer) or not 1 <= n_components <= n:
            raise ValueError(f"n_components={n_components!r} must be a number from 1 to {n}, that of the patients.")
        chosen: Distance = metric or ("mw2" if state.classifier is None else "learnt")
        squared = np.square(self.get_sample_distances(chosen).to_numpy())
        centre = np.eye(n) - 1 / n
        values, vectors = np.linalg.eigh(-0.5 * centre @ squared @ centre)
        order = np.argsort(-values)[:n_components]
        # the constant vector has the eigenvalue 0, up to rounding: it is no axis
        held = np.where(values[order] > n * np.finfo(np.float64).eps * values.max(), values[order], 0)
        place = vectors[:, order] * np.sqrt(np.maximum(held, 0))
        place *= np.sign(np.take_along_axis(place, np.abs(place).argmax(axis=0)[None], 0) + 1e-300)
        return pd.DataFrame(place, index=list(state.samples), columns=[f"MDS{i + 1}" for i in range(n_components)])

    def match_components(self, n_groups: int | None = None, random_state: int = 0) -> ComponentGroups:
        """Group the components of all patients, so that they can be compared.

        Parameters
        ----------
        n_groups
            Groups; the most components that a patient has by default.
        random_state
            Seed.

        Returns
        -------
        Group of each component, with the groups' Wasserstein barycentres and the patients' shares of them.
        """
        return match_components(self._fitted().cohort.mixtures, n_groups, random_state=random_state)

    def get_component_types(
        self, types_key: str, groups: ComponentGroups | None = None, random_state: int = 0
    ) -> ComponentTypes:
        """Tell which cell types the matched components hold, every cell by its responsibilities.

        Parameters
        ----------
        types_key
            Column with the type of each cell; cells without one are left out.
        groups
            From :meth:`match_components`; computed if not given.
        random_state
            Seed of the matching.

        Returns
        -------
        Shares of the types in each group, with its mass, purity and entropy.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If no cell has a type.
        """
        found = groups if groups is not None else self.match_components(random_state=random_state)
        sample = self._own_rows().sample
        assert sample is not None
        code, types = self._labels(types_key)
        r = group_responsibilities(self.get_responsibilities(), sample, found)
        return component_types(r, np.array([*types, None], dtype=object)[code])

    def test_components(
        self, groups: ComponentGroups | None = None, n_permutations: int = 999, random_state: int = 0
    ) -> pd.DataFrame:
        """Test which components move, and which change their share, between conditions; patients are the sample.

        Parameters
        ----------
        groups
            From :meth:`match_components`; computed if not given.
        n_permutations
            Permutations of the patients.
        random_state
            Seed.

        Returns
        -------
        One row for each group: ``state_shift``, ``state_effect``, ``state_p``, ``state_q``, and the same of the share.

        Raises
        ------
        ValueError
            If fewer than two conditions are known.
        """
        state = self._fitted()
        known = np.flatnonzero(state.condition >= 0)
        mixtures = state.cohort.mixtures.subset(known)
        found = groups if groups is not None else self.match_components(random_state=random_state)
        part = ComponentGroups(
            found.group[known], found.means, found.covariances, found.shares[known], found.distance[known]
        )
        return condition_effects(
            mixtures, part, state.condition[known], n_permutations=n_permutations, random_state=random_state
        )

    def rank_features(
        self,
        loadings: Any,
        features: Sequence[str],
        of: Literal["axes", "components"] = "axes",
        n: int | None = None,
        by: Literal["magnitude", "up", "down"] = "magnitude",
    ) -> pd.DataFrame:
        """Rank features on the axes of the learnt subspace, or by how a component differs from the rest.

        Parameters
        ----------
        loadings
            (n_features, d) loadings of the representation, such as ``adata.varm["PCs"]``.
        features
            Their names, such as ``adata.var_names``.
        of
            ``"axes"`` or ``"components"`` (matched across patients).
        n
            Features kept for each; all by default.
        by
            ``"magnitude"`` of the score, or from the highest (``"up"``) or lowest (``"down"``) on.

        Returns
        -------
        ``item``, ``rank``, ``feature`` and ``score``.

        Raises
        ------
        ValueError
            If shapes do not fit, or axes are asked for before `train_gmm`.
        """
        scores, names = self._scores(loadings, of)
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
        """Test which sets of features go with the axes or components, through decoupler; nothing is downloaded.

        Parameters
        ----------
        loadings, features, of
            As for :meth:`rank_features`.
        sets
            Name of a set -> its features, or a table with the columns ``source`` and ``target``.
        method
            A method of ``decoupler.mt``.
        min_features
            Sets with fewer of the features are left out.

        Returns
        -------
        ``item``, ``set``, ``score``, ``padj`` and ``n_features``.

        Raises
        ------
        ImportError
            If decoupler is not installed: it comes with ``muport[enrich]``.
        ValueError
            As for :meth:`rank_features`, or if no set has enough features.
        """
        scores, names = self._scores(loadings, of)
        return enrichment(scores, features, sets, names, method=method, min_features=min_features)

    def _scores(self, loadings: Any, of: str) -> tuple[NDArray[np.float64], list[str]]:
        """(g, r) scores and their names."""
        if of == "axes":
            w = self._w(True)
            if w is None:
                raise ValueError("of='axes' needs a metric: set up a labels_key, and call train_gmm.")
            return axis_loadings(w, loadings), [f"axis {i + 1}" for i in range(len(w))]
        if of != "components":
            raise ValueError(f"of={of!r} is unknown: use 'axes' or 'components'.")
        groups = self.match_components()
        shifts = component_shifts(groups.means, groups.shares.mean(axis=0))
        return axis_loadings(shifts, loadings), [f"component {i}" for i in range(len(shifts))]
