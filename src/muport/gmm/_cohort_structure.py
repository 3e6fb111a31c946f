"""The methods that describe a cohort: nearest patients, the mean mixture of a group, and trajectories of patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from muport._checks import check_flags, check_integers, check_seed
from muport._parallel import single_threaded
from muport.gmm._inference import row_samples
from muport.gmm._sample_tables import SampleTables
from muport.gmm.distances._mixture_wasserstein import compute_plans, pair_costs
from muport.gmm.distances._nearest_patients import nearest_patients
from muport.gmm.interpretation._component_groups import check_number_of_groups, find_groups, match_components
from muport.gmm.interpretation._features import axis_loadings, order_loadings
from muport.gmm.interpretation._mixture_barycenter import fit_barycenter
from muport.gmm.interpretation._patient_trajectory import (
    PatientTrajectory,
    component_programs,
    distances_without,
    feature_programs,
    find_end,
    log_odds,
    patient_affinities,
    time_from,
)
from muport.gmm.interpretation._state_effects import merge_groups, state_coordinates
from muport.pp.cell_graphs._pseudotime import diffusion_coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm._fitted_state import GMMState
    from muport.gmm.interpretation._component_groups import ComponentGroups
    from muport.gmm.interpretation._mixture_barycenter import Barycenter
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["CohortStructure"]

_MIN_PATIENTS = 4


class CohortStructure(SampleTables):
    """Mean mixtures of groups, and trajectories of patients."""

    def get_barycenter(
        self, group: str | Sequence[str] | None = None, n_components: int | None = None, random_state: int = 0
    ) -> Barycenter:
        """Return the mean mixture of a group of patients, from which synthetic cells can be drawn.

        It is the mixture of least mean squared MW2 distance from the patients, of those whose weights are the mean
        shares of the matched components. A mean of cells would blur the states; here components are averaged.

        Parameters
        ----------
        group
            Name of a condition, or names of samples; by default all patients.
        n_components
            Number of components; by default the largest number of components of a patient.
        random_state
            Seed of the matching of components.

        Returns
        -------
        Weights, means and covariances, with ``sample(n_cells)`` for synthetic cells.

        Raises
        ------
        KeyError
            If there is no such condition or sample.
        ValueError
            If the group is empty, or `n_components` is not positive or above the number of components of the group.

        References
        ----------
        Delon and Desolneux (2020), A Wasserstein-type distance in the space of Gaussian mixture models, section 5.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_cohort(n_patients=8, n_cells=60, n_dims=5, random_state=0)
        >>> muport.GMM.setup_anndata(adata, labels_key="condition")
        >>> model = muport.GMM(adata)
        >>> model.fit_gmm(k_comps=3, verbose=False)
        >>> case = model.get_barycenter("case")
        >>> cells, component = case.sample(100)
        >>> len(case), cells.shape
        (3, (100, 5))
        """
        state: GMMState = self._fitted()
        check_seed(random_state)
        patients = self._group_members(group)
        mixtures = state.cohort.mixtures.subset(patients)
        if n_components is not None:
            check_number_of_groups(mixtures, n_components=n_components)
        groups = match_components(mixtures, n_components, random_state=random_state)
        return fit_barycenter(mixtures, groups, [state.samples[i] for i in patients])

    def get_sample_neighbors(
        self, n_neighbors: int = 15, learnt: bool = True, n_candidates: int | None = None, random_state: int = 0
    ) -> pd.DataFrame:
        """Return the nearest patients of each patient in MW2 distance, without the distances of all pairs.

        Candidates are the nearest patients by ``get_sample_distances("linear")``; their distances are exact. For large
        cohorts: the matrix of all pairs takes a time quadratic in the number of patients.

        Parameters
        ----------
        n_neighbors
            Number of neighbors, below the number of patients.
        learnt
            Whether distances are those in the learned subspace, if there is one.
        n_candidates
            Number of candidates for each patient; by default twice the number of neighbors.
        random_state
            Seed of the candidates.

        Returns
        -------
        One row per patient and neighbor, nearest first: ``sample``, ``neighbor``, ``distance``.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        state: GMMState = self._fitted()
        check_flags(learnt=learnt)
        check_integers(n_neighbors=n_neighbors)
        check_seed(random_state)
        if n_candidates is not None:
            check_integers(n_neighbors, n_candidates=n_candidates)
        if n_neighbors >= (n := len(state.samples)):
            raise ValueError(f"n_neighbors={n_neighbors} must be below {n}, the number of patients.")
        w = state.predictor.metric.w if learnt and state.predictor is not None else None
        found = nearest_patients(
            state.cohort.mixtures, n_neighbors, w, n_candidates=n_candidates, random_state=random_state
        )  # fmt: skip
        names = np.array(state.samples, dtype=object)
        columns = {"sample": np.repeat(names, n_neighbors), "neighbor": names[found.indices.ravel()]}
        return pd.DataFrame({**columns, "distance": found.distances.ravel()})

    @single_threaded()
    def get_trajectory(
        self,
        root: str | None = None,
        learnt: bool = False,
        n_neighbors: int = 5,
        loadings: Any | None = None,
        features: Sequence[str] | None = None,
        groups: ComponentGroups | None = None,
        n_permutations: int = 999,
        random_state: int = 0,
    ) -> PatientTrajectory:
        r"""Order the patients along a trajectory, and test which components and features change along it.

        The pseudotime is the diffusion distance from the root (Haghverdi et al. 2016) on a graph of all patients, with
        affinities :math:`\exp(-D_{ij}^2 / (\sigma_i \sigma_j))` of the MW2 distances D. It follows the largest
        differences between patients, which need not be those of the outcome.

        A component takes part in the distances, so a test of its change along them would find changes in pure noise.
        Each component is therefore tested against a pseudotime of its own, computed without the component. The root,
        which all components choose, is left out of the tests.

        Parameters
        ----------
        root
            Name of a sample; or of a condition, whose most central patient is then the root. By default the end of the
            slowest diffusion coordinate at which the outcome is lowest: the first condition, the lowest level or
            number, the least hazard.
        learnt
            Whether distances are those in the learned subspace. The conditions enter it, so that the pseudotime then
            follows them by construction.
        n_neighbors
            The distance of a patient from this neighbor is its unit; at most a quarter of the patients.
        loadings, features
            Loadings and names of features, as for :meth:`rank_features`; without them, only components are tested.
        groups
            Result of :meth:`match_components`; computed by default.
        n_permutations
            Number of permutations of the patients, for the tests of states.
        random_state
            Seed.

        Returns
        -------
        Pseudotime of each patient, and tables of the components and features with intervals and p-values.

        Raises
        ------
        KeyError
            If the root is no sample and no condition.
        ValueError
            If there are fewer than four patients, or only one of `loadings` and `features` is given.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_cohort(n_patients=8, n_cells=60, n_dims=5, random_state=0)
        >>> muport.GMM.setup_anndata(adata, labels_key="condition")
        >>> model = muport.GMM(adata)
        >>> model.fit_gmm(k_comps=3, verbose=False)
        >>> trajectory = model.get_trajectory(root="control", n_permutations=99)
        >>> patients = model.to_adata()
        >>> patients.obs["pseudotime"] = trajectory.pseudotime
        >>> float(trajectory.pseudotime.min()), len(trajectory.components)
        (0.0, 3)
        """
        state: GMMState = self._fitted()
        check_flags(learnt=learnt)
        check_integers(n_neighbors=n_neighbors, n_permutations=n_permutations)
        check_seed(random_state)
        if (loadings is None) != (features is None):
            raise ValueError("loadings and features must be given together.")
        if len(state.samples) < _MIN_PATIENTS:
            raise ValueError(f"a trajectory needs at least {_MIN_PATIENTS} patients, not {len(state.samples)}.")
        n_cells = np.bincount(row_samples(self._fitted_rows())).astype(np.float64)
        mixtures = state.cohort.mixtures
        if loadings is not None and features is not None:
            loadings = order_loadings(loadings, features)
            axis_loadings(mixtures.means[0], loadings)
        costs, distances = self._pair_distances(learnt)
        coordinates = _diffusion(distances, n_neighbors, random_state)
        position = self._find_root(root, coordinates, distances)
        matched = find_groups(groups, mixtures, random_state)
        times = _times_without_components(mixtures, matched, costs, position, n_neighbors, random_state)
        names = [f"component {i}" for i in range(len(matched))]
        mean, spread, present = state_coordinates(mixtures, matched)
        odds = log_odds(matched.shares, n_cells)
        by_component = component_programs(
            odds, np.concatenate([mean, spread], axis=2), present, times, names, n_permutations, random_state
        )
        by_feature = None
        if loadings is not None and features is not None:
            means = merge_groups(mixtures, matched, present)[0]
            by_feature = feature_programs(
                means, present, times, np.asarray(loadings, dtype=np.float64), features, names
            )  # fmt: skip
        pseudotime = pd.Series(time_from(coordinates, position), index=list(state.samples), name="pseudotime")
        return PatientTrajectory(pseudotime, state.samples[position], by_component, by_feature)

    def _pair_distances(self, learnt: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Costs between the components of all pairs of patients, and the MW2 distances of the patients."""
        mixtures = self._fitted().cohort.mixtures
        costs = pair_costs(mixtures, w=self._metric("learnt=True needs a metric") if learnt else None)
        squared = (compute_plans(mixtures, None, costs) * costs).sum((2, 3))
        distances = np.sqrt(np.maximum((squared + squared.T) / 2, 0))
        if not distances.any():
            raise ValueError("all patients have the same mixture: there is no order of them.")
        return costs, distances

    def _group_members(self, group: str | Sequence[str] | None) -> NDArray[np.int64]:
        """Positions of the patients of a condition, or of the named ones."""
        state: GMMState = self._fitted()
        if group is None:
            return np.arange(len(state.samples))
        if isinstance(group, str):
            if group not in state.conditions:
                raise KeyError(
                    f"group={group!r} is no condition: use one of {list(state.conditions)}, or names of samples."
                )
            return np.flatnonzero(state.condition == state.conditions.index(group))
        if not isinstance(group, Sequence | np.ndarray | pd.Index) or not len(group):
            raise ValueError(f"group={group!r} must be the name of a condition, or a list of one or more samples.")
        if absent := [name for name in group if name not in state.samples]:
            raise KeyError(f"group: {absent[0]!r} is no sample; there are {list(state.samples[:3])} ...")
        return np.unique([state.samples.index(name) for name in group])

    def _find_root(
        self, root: str | None, coordinates: NDArray[np.float64], distances: NDArray[np.float64]
    ) -> int:  # fmt: skip
        """Position of the root of a trajectory."""
        state: GMMState = self._fitted()
        if root is None:
            return find_end(coordinates, self._outcome_numbers())
        if root in state.samples:
            return state.samples.index(root)
        if root not in state.conditions:
            raise KeyError(
                f"root={root!r} is no sample and no condition: samples are {list(state.samples[:3])} ..., conditions "
                f"{list(state.conditions)}."
            )
        members = np.flatnonzero(state.condition == state.conditions.index(root))
        return int(members[distances[np.ix_(members, members)].sum(axis=1).argmin()])

    def _outcome_numbers(self) -> NDArray[np.float64] | None:
        """(P,) numbers of the outcome, NaN where it is not known; None without one."""
        state: GMMState = self._fitted()
        if state.outcome is None:
            return np.where(state.condition >= 0, state.condition > 0, np.nan) if len(state.conditions) > 1 else None
        target, known = np.full(len(state.samples), np.nan), state.outcome.known()
        if len(known):
            target[known] = state.outcome.subset(known).target()
        return target


def _diffusion(distances: NDArray[np.float64], n_neighbors: int, random_state: int) -> NDArray[np.float64]:
    """Diffusion coordinates of patients; they are in the order of their names."""
    graph = sparse.csr_array(patient_affinities(distances, n_neighbors))
    return diffusion_coordinates(graph, np.arange(len(distances)), random_state)


def _times_without_components(
    mixtures: Mixtures,
    groups: ComponentGroups,
    costs: NDArray[np.float64],
    root: int,
    n_neighbors: int,
    random_state: int,
) -> NDArray[np.float64]:
    """(P, M) pseudotime of each patient without each component; NaN for the root and where it cannot be computed."""
    times = np.full(groups.shares.shape, np.nan)
    for m in range(len(groups)):
        distances, kept = distances_without(m, mixtures, groups, costs)
        if kept[root] and len(distances) >= _MIN_PATIENTS and distances.any():
            start = int(kept[:root].sum())
            times[kept, m] = time_from(_diffusion(distances, n_neighbors, random_state), start)
    times[root] = np.nan
    return times
