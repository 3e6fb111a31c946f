"""What a fitted velocity model says of the fates of cells, and of the features that change with them."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from muport._checks import check_integers, check_option, check_seed
from muport._tables import check_fates
from muport.data import in_memory, layer_of
from muport.velocity._course_columns import complete_column
from muport.velocity._inference import FittedCells, VelocityInference
from muport.velocity.fates._combined_kernel import CombinedKernel, fit_combined_kernel
from muport.velocity.fates._condition_fates import SampleDesign, check_design, compare_conditions, sample_shares
from muport.velocity.fates._drivers import correlate_features, feature_velocity
from muport.velocity.fates._fate_probabilities import committor, fate_probabilities
from muport.velocity.fates._macrostates import MetaStates, meta_states
from muport.velocity.fates._terminal_states import terminal_states
from muport.velocity.fates._transition_matrix import cell_kernel
from muport.velocity.timecourse._days import is_time_course

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

logger = logging.getLogger("muport")

__all__ = ["FateInference", "find_terminal_states", "has_label_of"]

Kernel = Literal["combined", "velocity", "coupling"]

_CANDIDATES = 3  # labels that a warning names
_LEAST_RANGE = 1e-5  # of probabilities that differ between cells


class FateInference(VelocityInference):
    """Methods of a trained model that read the Markov chain of cells: terminal states, fates, macrostates, drivers."""

    def get_transition_matrix(self, n_neighbors: int = 15, kernel: Kernel = "combined") -> sp.csr_matrix:
        """Return the transition matrix of the cells.

        Parameters
        ----------
        n_neighbors
            Number of cells to move to, for each kind of moves; of the couplings, those of the same day.
        kernel
            ``"velocity"``: each cell moves to the neighbors of the point its velocity leads to. ``"coupling"``, for
            cells that were measured at a few times: half of the moves of a cell lead to its descendants on the next
            day, as :meth:`~muport.Velocity.get_coupling` has them, and half to its neighbors of the same day, as in
            CellRank's ``RealTimeKernel``; cells of the last day move within it. ``"combined"``: equal parts of the
            moves along the velocity, of moves to the neighbors of the cell (more often to later ones) and, where cells
            were measured at a few times and the model has its data, of ``"coupling"``. Its fates are closer to the
            known ones of simulated courses than those of each kind alone.

        Returns
        -------
        (n_obs, n_obs) row-stochastic sparse matrix, in the order of the cells; CellRank's ``PrecomputedKernel`` takes
        it.
        """
        return self._transitions(self._cells(), n_neighbors, kernel)[0]

    def _transitions(self, cells: FittedCells, n_neighbors: int, kernel: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Transition matrix of the cells, and the one in which terminal states are found: that of the flow."""
        check_option("kernel", kernel, get_args(Kernel))
        check_integers(n_neighbors=n_neighbors)
        if kernel == "coupling":
            couplings = self._couplings(n_neighbors)
            return couplings, couplings
        if kernel == "velocity":
            flow = _transition_matrix(cells, n_neighbors)
            return flow, flow
        combined = self._combined_kernel(cells, n_neighbors)
        return combined.matrix, combined.flow.matrix

    def _combined_kernel(self, cells: FittedCells, n_neighbors: int) -> CombinedKernel:
        """Moves along the velocity and to neighbors, and by the couplings of the cells of measured days."""
        couplings = None
        if self.adata is not None and is_time_course(cells.time):
            couplings = self._couplings(n_neighbors)
        kinds = "the velocity and neighbors" if couplings is None else "the velocity, neighbors and couplings of days"
        logger.info("transition matrix: equal parts of moves by %s.", kinds)
        return fit_combined_kernel(cells.x, cells.velocity, cells.time, n_neighbors, couplings)

    def _couplings(self, n_neighbors: int) -> sp.csr_matrix:
        """Transition matrix by the plans between days, of the class that knows them."""
        raise NotImplementedError

    def get_fates(
        self, terminal_states: Sequence[str] | None = None, n_neighbors: int = 15, kernel: Kernel = "combined"
    ) -> pd.DataFrame:
        """Return the probability that each cell ends in each terminal state.

        Parameters
        ----------
        terminal_states
            Labels that are terminal states. By default these are the ends of the flow, computed from the transition
            matrix of ``"velocity"`` (of ``"coupling"`` with that kernel), and named after the most frequent label of
            their cells.
        n_neighbors, kernel
            As for :meth:`get_transition_matrix`.

        Returns
        -------
        Cells by terminal states; rows sum to 1. Cells that reach no terminal state have zeros, and a warning gives
        their number. If the flow has one end, every fate is 1, and a warning names the labels of the latest cells,
        which may be ends that it passes.

        Raises
        ------
        KeyError
            If a label does not exist.
        ValueError
            If labels are named but none were set up, or the chain has no terminal state; with couplings, as
            :meth:`~muport.Velocity.get_coupling`.
        """
        cells = self._cells()
        matrix, flow = self._transitions(cells, n_neighbors, kernel)
        codes, names = find_terminal_states(cells, flow, terminal_states)
        if terminal_states is None and len(names) == 1:
            _warn_of_one_end(cells, names[0])
        return pd.DataFrame(fate_probabilities(matrix, codes), index=cells.names, columns=names)

    def get_sample_fates(
        self, sample_key: str, fates: pd.DataFrame | None = None, population: str | Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return the mean fate probabilities of the cells of each sample.

        Parameters
        ----------
        sample_key
            Column of ``obs`` with the sample of each cell, such as the donor.
        fates
            What :meth:`get_fates` returned. Computed by default.
        population
            Label, or labels, of the cells whose fates are averaged, such as the progenitors; all cells by default. With
            all cells, a sample with more cells at one end has more of that fate.

        Returns
        -------
        One row for each sample: a column for each fate, of sum 1, and ``n_cells``. Cells without any fate are left out.

        Raises
        ------
        KeyError
            If the column or a label does not exist.
        ValueError
            If a cell has no sample, or a sample has no cell of the population.
        """
        shares, n_cells, names, columns = self._sample_fates(sample_key, fates, population)
        table = pd.DataFrame(shares, index=pd.Index(names, name=sample_key), columns=columns)
        return table.assign(n_cells=n_cells.astype(np.int64))

    def test_fates(
        self,
        condition_key: str,
        sample_key: str,
        fates: pd.DataFrame | None = None,
        population: str | Sequence[str] | None = None,
        strata_key: str | None = None,
        n_permutations: int = 10_000,
        random_state: int = 0,
    ) -> pd.DataFrame:
        """Test whether fates differ between two conditions, with the samples as replicates.

        The mean fates of each sample (:meth:`get_sample_fates`) are compared on the scale of logits by a t-test with
        a common variance. Cells of one sample are no replicates, so no p-value is computed over cells. With 3 against 3
        samples a permutation test has 10 different results, and no p-value below 0.1: the t-test can find large
        differences there, under the assumption that the logits of samples are normal. From 4 against 4 samples on
        (p of at least 0.03), the permutation test needs no such assumption; compare both. The field and the chain are
        the same for all samples, so differences in the dynamics themselves are found only as far as they change where
        cells of the population are.

        Parameters
        ----------
        condition_key
            Column of ``obs`` with two conditions. All cells of a sample have the same.
        sample_key, fates, population
            As for :meth:`get_sample_fates`.
        strata_key
            Column of ``obs`` with a stratum of each sample, such as the sequencing batch: conditions are compared, and
            permuted, within strata.
        n_permutations
            Largest number of permutations; all are taken if there are fewer.
        random_state
            Seed of the permutations.

        Returns
        -------
        One row for each fate, by name: the mean share in each condition (columns ``share <condition>``), ``log_odds``
        (second condition against the first, in sorted order), ``t``, ``p``, ``q`` (false discovery rate over fates) and
        ``p_permutation``.

        Raises
        ------
        KeyError
            If a column or label does not exist.
        ValueError
            If there are not two conditions with two samples or more each, a sample has cells of both, no stratum has
            both, or as :meth:`get_sample_fates`.
        """
        check_integers(1, n_permutations=n_permutations)
        check_seed(random_state)
        shares, n_cells, samples, columns = self._sample_fates(sample_key, fates, population)
        condition, names = self._of_samples(condition_key, sample_key)
        stratum = np.zeros(len(samples), np.int64)
        if strata_key is not None:
            stratum = self._of_samples(strata_key, sample_key)[0]
        design = SampleDesign(condition, stratum)
        check_design(design, names, condition_key)
        table = compare_conditions(shares, n_cells, design, n_permutations, random_state)
        table.index = pd.Index(columns, name="fate")
        return table.rename(columns={f"share_{i}": f"share {name}" for i, name in enumerate(names)})

    def _sample_fates(
        self, sample_key: str, fates: pd.DataFrame | None, population: str | Sequence[str] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...], pd.Index]:
        """Mean fates (S, f), numbers of cells (S,), names of the samples, and of the fates."""
        data = self._own_data("load it with its data, which hold the samples")
        sample = complete_column(data, sample_key, "sample_key")
        cells = self._cells()
        table = self.get_fates() if fates is None else check_fates(fates, data.obs_names)
        weight = np.ones(len(cells.x))
        if population is not None:
            weight = has_label_of(cells, population).astype(np.float64)
        values = table.to_numpy(dtype=np.float64)
        shares, n_cells = sample_shares(values, weight, sample.codes, len(sample.names))
        if not n_cells.all():
            absent = [name for name, n in zip(sample.names, n_cells, strict=True) if n == 0]
            raise ValueError(f"samples {absent} have no cell of population={population!r} with a fate: leave them out.")
        return shares, n_cells, sample.names, table.columns

    def _of_samples(self, key: str, sample_key: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """(S,) value of a column for each sample, and the names; ValueError if a sample has several."""
        data = self._own_data("load it with its data, which hold the columns")
        column, sample = complete_column(data, key, "column"), complete_column(data, sample_key, "sample_key")
        pairs = np.unique(np.stack([sample.codes, column.codes]), axis=1)
        several = np.flatnonzero(np.bincount(pairs[0]) > 1)
        if len(several):
            raise ValueError(
                f"sample {sample.names[several[0]]!r} has cells of several values of {key!r}: it needs one."
            )
        return pairs[1], column.names

    def get_committor(self, source: str, sink: str, n_neighbors: int = 15, kernel: Kernel = "combined") -> pd.Series:
        """Return the probability that each cell reaches one label before another.

        Parameters
        ----------
        source, sink
            Labels: 0 in the first, 1 in the second.
        n_neighbors, kernel
            As for :meth:`get_transition_matrix`.

        Returns
        -------
        One number in 0..1 for each cell.

        Raises
        ------
        KeyError
            If a label does not exist.
        ValueError
            If no labels were set up; with couplings, as :meth:`~muport.Velocity.get_coupling`.
        """
        cells = self._cells()
        groups = [has_label(cells, name) for name in (source, sink)]
        values = committor(self._transitions(cells, n_neighbors, kernel)[0], *groups)
        return pd.Series(values, index=cells.names, name=f"{source} to {sink}")

    def get_states(self, n_states: int | None = None, n_neighbors: int = 15, random_state: int = 0) -> MetaStates:
        """Coarse-grain the transition matrix into a few soft macrostates, with a directed graph and a role for each.

        The matrix is that of ``kernel="velocity"``: flux and roles are those of the flow.

        Parameters
        ----------
        n_states
            Number of states; by default at the largest gap between the slow modes of the chain.
        n_neighbors
            As for :meth:`get_transition_matrix`.
        random_state
            Seed of the k-means.

        Returns
        -------
        Memberships, chain, flux and roles (initial, terminal, branching, cycling, transient), in the order of the flow.
        """
        cells = self._cells()
        if n_states is not None:
            check_integers(n_states=n_states)
            if n_states > len(cells.x):
                raise ValueError(f"n_states={n_states} must be at most {len(cells.x)}, the number of cells.")
        states = meta_states(_transition_matrix(cells, n_neighbors), cells.x, n_states, random_state=random_state)
        return replace(states, names=cells.names.to_numpy())

    def get_drivers(
        self, fates: pd.DataFrame | None = None, layer: str | None = None, modality: str | None = None
    ) -> pd.DataFrame:
        """Rank features by their correlation with fate probabilities.

        Parameters
        ----------
        fates
            What :meth:`get_fates` returned, or some of its columns; rows are matched by cell name. Computed by default.
        layer
            Layer of the features; ``X`` by default.
        modality
            Modality of the features, for a MuData; by default that of the representation.

        Returns
        -------
        One row for each fate and feature: ``fate``, ``feature``, ``correlation``, ``p_value``, ``q_value``; within a
        fate the largest correlation comes first.

        Raises
        ------
        KeyError
            If the layer or modality does not exist.
        TypeError
            If `fates` is not a DataFrame.
        ValueError
            If a cell has no row in `fates`, or several, a column does not hold probabilities, or every cell has the
            same fates, with which no feature can correlate.
        """
        values, names = self._features(layer, modality)
        table = self.get_fates() if fates is None else check_fates(fates, self.adata.obs_names)
        if np.ptp(table.to_numpy(dtype=np.float64), axis=0).max(initial=0) <= _LEAST_RANGE:
            raise ValueError(
                f"fates: all cells have the same probabilities of {list(table.columns)}, so no feature correlates with "
                "them: name at least two ends, get_drivers(model.get_fates(terminal_states=[...]))."
            )
        scores = correlate_features(in_memory(values), table.to_numpy(dtype=np.float64))
        ranked = []
        for i, fate in enumerate(table.columns):
            columns = {name: getattr(scores, name)[:, i] for name in ("correlation", "p_value", "q_value")}
            rows = pd.DataFrame({"fate": fate, "feature": names, **columns})
            ranked.append(rows.sort_values("correlation", ascending=False, kind="stable"))
        return pd.concat(ranked, ignore_index=True)

    def get_feature_velocity(self, loadings: Any) -> NDArray[np.float32]:
        """Return velocities in the space of features, through the loadings of the representation.

        Parameters
        ----------
        loadings
            (n_features, d) loadings, such as ``adata.varm["PCs"]``.

        Returns
        -------
        (n_obs, n_features) change of each feature per unit of time.

        Raises
        ------
        ValueError
            If the loadings have another width than the representation.
        """
        return feature_velocity(self._cells().velocity, loadings)

    def _features(self, layer: str | None, modality: str | None) -> tuple[Any, pd.Index]:
        """Features of the cells, in the order of the model's data, and their names."""
        features = data = self._own_data("load it with its data, which hold the features")
        mods = getattr(data, "mod", None)
        if mods is None and modality is not None:
            raise KeyError(f"modality={modality!r}: the data are an AnnData, which has no modalities; leave it out.")
        if mods is not None:
            name = modality or self._modalities[0]
            if name not in mods:
                raise KeyError(f"modality={name!r} has no features: use one of {list(mods)}.")
            features = mods[name]
        values = layer_of(features, layer)
        position = features.obs_names.get_indexer(data.obs_names)
        if (position < 0).any():
            raise ValueError(f"{int((position < 0).sum())} cells are not in modality {name!r}: name one that has all.")
        same_order = np.array_equal(position, np.arange(len(position)))
        return (values if same_order else in_memory(values)[position]), features.var_names


def _transition_matrix(cells: FittedCells, n_neighbors: int) -> sp.csr_matrix:
    check_integers(n_neighbors=n_neighbors)
    return cell_kernel(cells.x, cells.velocity, time=cells.time, k=n_neighbors)


def has_label(cells: FittedCells, name: str) -> NDArray[np.bool_]:
    """(n,) whether each cell has the label; KeyError if none has."""
    if cells.labels is None:
        raise ValueError(f"{name!r} names a label, but there are none: set the data up with a labels_key.")
    has_label: NDArray[np.bool_] = cells.labels == name
    if not has_label.any():
        raise KeyError(f"{name!r} is not a label: there are {sorted(set(map(str, cells.labels)))}.")
    return has_label


def has_label_of(cells: FittedCells, population: str | Sequence[str]) -> NDArray[np.bool_]:
    """(n,) whether each cell has the label, or one of the labels, of a population."""
    names = [population] if isinstance(population, str) else list(population)
    inside: NDArray[np.bool_] = np.logical_or.reduce([has_label(cells, name) for name in names])
    return inside


def find_terminal_states(
    cells: FittedCells, matrix: sp.csr_matrix, labels: Sequence[str] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """(n,) code of each cell's terminal state, -1 elsewhere, and the names of the states."""
    if labels is not None:
        names = [labels] if isinstance(labels, str) else list(labels)
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"terminal_states={names} must be at least one label, and each label once.")
        codes = np.full(len(cells.x), -1, np.int64)
        for code, name in enumerate(names):
            codes[has_label(cells, name)] = code
        return codes, names
    codes = terminal_states(matrix)
    if codes.max() < 0:
        raise ValueError("the flow has no end (it is a cycle, or at rest): name labels in terminal_states.")
    return codes, _name_states(codes, cells.labels)


def _warn_of_one_end(cells: FittedCells, end: str) -> None:
    """Warn that all cells have one fate; name the labels of the latest cells."""
    advice = "set the data up with a labels_key, and name ends in terminal_states"
    if cells.labels is not None:
        times = pd.Series(cells.time).groupby(pd.Series(cells.labels)).median().drop(end, errors="ignore")
        latest = times.nlargest(_CANDIDATES).index.tolist()
        advice = f"of the other labels, {latest} have the latest cells; name ends in terminal_states=[{end!r}, ...]"
    warnings.warn(
        f"The flow has one end, {end!r}, so all fates are 1. If it passes other ends, {advice}.",
        UserWarning,
        stacklevel=3,
    )


def _name_states(codes: NDArray[np.int64], labels: NDArray[np.str_] | None) -> list[str]:
    """The most frequent label of each state, numbered where several states have the same."""
    names: list[str] = []
    for code in range(int(codes.max()) + 1):
        if labels is None:
            names.append(f"end {code + 1}")
            continue
        present, count = np.unique(labels[codes == code], return_counts=True)
        name = str(present[count.argmax()])
        n_before = sum(before == name or before.startswith(f"{name} (") for before in names)
        names.append(f"{name} ({n_before + 1})" if n_before else name)
    return names
