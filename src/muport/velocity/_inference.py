"""What a fitted field tells of its cells: where they go, how they end, and which features go with it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from muport.velocity.dynamics._embedding_projection import project
from muport.velocity.dynamics._manifold import knn_field
from muport.velocity.dynamics._start_cells import source_range
from muport.velocity.dynamics._trajectories import Trajectories, flow_particles, trace_trajectories
from muport.velocity.estimation._field import evaluate
from muport.velocity.fates._drivers import correlate_features, feature_velocity
from muport.velocity.fates._fate_probabilities import committor, fate_probabilities
from muport.velocity.fates._macrostates import MetaStates, meta_states
from muport.velocity.fates._terminal_states import terminal_states
from muport.velocity.fates._transition_matrix import cell_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from muport.velocity.estimation._field import Field

__all__ = ["FateMixin", "FlowMixin", "Population"]


@dataclass(frozen=True, eq=False)
class Population:
    """The cells of the fit, or, where the model has no data, its landmarks.

    Attributes
    ----------
    x
        (n, d) float32 coordinates.
    time
        (n,) float64 times.
    labels
        (n,) names of the labels, ``"unknown"`` for cells without one; None if no labels were set up.
    names
        Names of the cells.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float64]
    labels: NDArray[np.str_] | None
    names: pd.Index


class _Answering:
    """What the model gives to the answers."""

    @abstractmethod
    def _population(self) -> Population: ...

    @abstractmethod
    def _field(self) -> Field: ...

    @abstractmethod
    def _features(self, layer: str | None, modality: str | None) -> tuple[Any, pd.Index]: ...


class FlowMixin(_Answering):
    """Trajectories, flows and pictures of the field."""

    def compute_trajectories(
        self,
        start_cells: Any = None,
        start_cluster: str | None = None,
        target_cluster: str | None = None,
        start_pseudotime: float | None = None,
        end_pseudotime: float | None = None,
        n_trajectories: int = 20,
        n_steps: int = 200,
        step_size: float = 0.05,
        direction: Literal["forward", "backward", "both"] = "forward",
        k_velocity: int = 15,
        use_network: bool = True,
        evolve_pseudotime: bool = True,
        max_attempts_factor: int = 10,
        random_state: int = 42,
    ) -> Trajectories:
        """Follow the field from cells, forward or backward in time, by a Runge-Kutta solver of order 4.

        A path ends after `n_steps`, at either end of the data's time, at the target, or before it is more than ten
        nearest-neighbour distances from any cell.

        Parameters
        ----------
        start_cells
            Positions of cells to start from; the other conditions are then ignored.
        start_cluster
            Label to start from.
        target_cluster
            Keep only paths that come to this label.
        start_pseudotime, end_pseudotime
            Bounds of the start cells' time.
        n_trajectories
            Paths in each direction; with a target, paths that reach it.
        n_steps
            Most steps.
        step_size
            Step as a fraction of the range of time: its mean length is that fraction of the mean velocity.
        direction
            ``"forward"``, ``"backward"`` or ``"both"``.
        k_velocity, use_network
            With ``use_network=False`` the velocities of the `k_velocity` nearest cells are interpolated.
        evolve_pseudotime
            Whether time goes on along the path.
        max_attempts_factor
            With a target: most starts tried, as a multiple of `n_trajectories`.
        random_state
            Seed of the choice of start cells.

        Returns
        -------
        Paths (n, points, d) with their times, starts, ends, labels visited and the reason each one ends.

        Raises
        ------
        KeyError
            If a label does not exist.
        ValueError
            If no cell fulfils the conditions, the target was never reached, or a number is out of range.
        """
        cells, field = self._population(), self._field()
        return trace_trajectories(
            field if use_network else knn_field(cells.x, evaluate(field, cells.x, cells.time), k_velocity),
            cells.x,
            cells.time,
            labels=cells.labels,
            start_cells=start_cells,
            start_cluster=start_cluster,
            target_cluster=target_cluster,
            start_time=start_pseudotime,
            end_time=end_pseudotime,
            n_trajectories=n_trajectories,
            n_steps=n_steps,
            step_size=step_size,
            direction=direction,
            evolve_time=evolve_pseudotime,
            max_attempts_factor=max_attempts_factor,
            random_state=random_state,
        )

    def simulate_flow(
        self,
        n_particles: int = 200,
        source_cluster: str | None = None,
        source_pseudotime_min: float = 0.0,
        source_pseudotime_max: float = 0.1,
        n_steps: int = 300,
        step_size: float = 0.05,
        diffusion: float = 0.5,
        noise_scale: float = 0.0,
        random_state: int = 42,
    ) -> Trajectories:
        """Let particles flow through the field: x_{n+1} = x_n + dt v(x_n, t_n) + sqrt(2 D dt) eta.

        D is `diffusion` times the local speed and the median nearest-neighbour distance, and the noise lies in the
        tangent space of the data. Steps and ends are those of :meth:`compute_trajectories`.

        Parameters
        ----------
        n_particles
            Particles.
        source_cluster
            Label they start from.
        source_pseudotime_min, source_pseudotime_max
            Without a label: bounds of the source's time, as shares of the range of time; for a pseudotime in [0, 1]
            these are its values.
        n_steps
            Most steps.
        step_size
            Step as a fraction of the range of time.
        diffusion
            Strength of the noise: 0 for none, .1 to .5 is mild, 1 strong.
        noise_scale
            Standard deviation of noise added to the starts, in units of the representation.
        random_state
            Seed of starts and noise.

        Returns
        -------
        One forward path for each particle.

        Raises
        ------
        KeyError
            If the label does not exist.
        ValueError
            If no cell fulfils the conditions, or a number is out of range.
        """
        cells = self._population()
        low, high = source_range(cells.time, source_cluster, source_pseudotime_min, source_pseudotime_max)
        return flow_particles(
            self._field(),
            cells.x,
            cells.time,
            labels=cells.labels,
            n_particles=n_particles,
            source_cluster=source_cluster,
            source_time_min=low,
            source_time_max=high,
            n_steps=n_steps,
            step_size=step_size,
            diffusion=diffusion,
            noise_scale=noise_scale,
            random_state=random_state,
        )

    def project_to_embedding(self, embedding: Any, n_neighbors: int = 30) -> NDArray[np.float32]:
        """Carry the velocities into a picture of the same cells, such as UMAP, for drawing only.

        Parameters
        ----------
        embedding
            (n_obs, k) picture.
        n_neighbors
            Neighbours from which the map between the two is read.

        Returns
        -------
        (n_obs, k) float32 velocity in the picture, per unit of time.
        """
        cells = self._population()
        return project(cells.x, evaluate(self._field(), cells.x, cells.time), embedding, n_neighbors=n_neighbors)


class FateMixin(_Answering):
    """The chain of cells along the flow: its ends, fates, macrostates and drivers."""

    def get_transition_matrix(self, n_neighbors: int = 15) -> sp.csr_matrix:
        """Return the chain of cells: from each to the neighbours of the place where the field takes it.

        Parameters
        ----------
        n_neighbors
            Cells to move to.

        Returns
        -------
        (n_obs, n_obs) row-stochastic sparse matrix, in the order of the cells; CellRank's ``PrecomputedKernel`` takes
        it.
        """
        cells = self._population()
        velocity = evaluate(self._field(), cells.x, cells.time)
        return cell_kernel(cells.x, velocity, time=cells.time, k=n_neighbors)

    def get_fates(self, terminal_states: Sequence[str] | None = None, n_neighbors: int = 15) -> pd.DataFrame:
        """Return the probability that each cell ends in each terminal state.

        Parameters
        ----------
        terminal_states
            Labels that are ends. By default the ends are found in the flow, and named after the most frequent label of
            their cells.
        n_neighbors
            As for :meth:`get_transition_matrix`.

        Returns
        -------
        Cells by terminal states; rows sum to 1. Cells that reach no end have zeros, and a warning counts them.

        Raises
        ------
        KeyError
            If a label does not exist.
        ValueError
            If no labels were set up, or the flow has no end.
        """
        cells = self._population()
        kernel = self.get_transition_matrix(n_neighbors)
        codes, names = _ends(cells, kernel, terminal_states)
        return pd.DataFrame(fate_probabilities(kernel, codes), index=cells.names, columns=names)

    def get_committor(self, source: str, sink: str, n_neighbors: int = 15) -> pd.Series:
        """Return the probability of each cell to come to one label before another.

        Parameters
        ----------
        source, sink
            Labels: 0 on the first, 1 on the second.
        n_neighbors
            As for :meth:`get_transition_matrix`.

        Returns
        -------
        One number in 0..1 for each cell.

        Raises
        ------
        KeyError
            If a label does not exist.
        ValueError
            If no labels were set up.
        """
        cells = self._population()
        at = [_of_label(cells, name) for name in (source, sink)]
        values = committor(self.get_transition_matrix(n_neighbors), *at)
        return pd.Series(values, index=cells.names, name=f"{source} to {sink}")

    def get_states(self, n_states: int | None = None, n_neighbors: int = 15, random_state: int = 0) -> MetaStates:
        """Coarse-grain the flow into a few soft states with a directed graph and a role for each.

        Parameters
        ----------
        n_states
            Number of states; by the largest gap of the flow's slow modes if not given.
        n_neighbors
            As for :meth:`get_transition_matrix`.
        random_state
            Seed of the k-means beneath.

        Returns
        -------
        Memberships, chain, flux and roles (initial, terminal, branching, cycling, transient), in the order of the flow.
        """
        kernel = self.get_transition_matrix(n_neighbors)
        return meta_states(kernel, self._population().x, n_states, random_state=random_state)

    def get_drivers(
        self, fates: pd.DataFrame | None = None, layer: str | None = None, modality: str | None = None
    ) -> pd.DataFrame:
        """Rank features by their correlation with fate probabilities.

        Parameters
        ----------
        fates
            What :meth:`get_fates` returned; computed if not given.
        layer
            Layer of the features; ``X`` by default.
        modality
            Modality of the features, for a MuData; the one the model works on by default.

        Returns
        -------
        One row for each fate and feature: ``fate``, ``feature``, ``correlation``, ``p_value``, ``q_value``; within a
        fate the largest correlation comes first.

        Raises
        ------
        KeyError
            If the layer or modality does not exist.
        ValueError
            If the fates are not of these cells.
        """
        values, names = self._features(layer, modality)
        found = self.get_fates() if fates is None else fates
        if len(found) != values.shape[0]:
            raise ValueError(
                f"fates has {len(found)} rows, but there are {values.shape[0]} cells: pass those of get_fates."
            )
        scores = correlate_features(values, found.to_numpy())
        tables = [
            pd.DataFrame(
                {
                    "fate": fate,
                    "feature": names,
                    "correlation": scores.correlation[:, i],
                    "p_value": scores.p_value[:, i],
                    "q_value": scores.q_value[:, i],
                }
            ).sort_values("correlation", ascending=False, kind="stable")
            for i, fate in enumerate(found.columns)
        ]
        return pd.concat(tables, ignore_index=True)

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
        cells = self._population()
        return feature_velocity(evaluate(self._field(), cells.x, cells.time), loadings)


def _of_label(cells: Population, name: str) -> NDArray[np.bool_]:
    if cells.labels is None:
        raise ValueError(f"{name!r} names a label, but there are none: set the data up with a labels_key.")
    chosen: NDArray[np.bool_] = cells.labels == name
    if not chosen.any():
        raise KeyError(f"{name!r} is not a label: there are {sorted(set(cells.labels))}.")
    return chosen


def _ends(
    cells: Population, kernel: sp.csr_matrix, wanted: Sequence[str] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """(n,) code of each cell's terminal state, -1 elsewhere, and the names of the states."""
    if wanted is not None:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        codes = np.full(len(cells.x), -1, np.int64)
        for code, name in enumerate(names):
            codes[_of_label(cells, name)] = code
        return codes, names
    codes = terminal_states(kernel)
    if codes.max() < 0:
        raise ValueError("the flow has no end (it turns in a circle, or rests): name labels in terminal_states.")
    return codes, _names_of_ends(codes, cells.labels)


def _names_of_ends(codes: NDArray[np.int64], labels: NDArray[np.str_] | None) -> list[str]:
    names: list[str] = []
    for code in range(int(codes.max()) + 1):
        if labels is None:
            names.append(f"end {code + 1}")
            continue
        found, count = np.unique(labels[codes == code], return_counts=True)
        name = str(found[count.argmax()])
        again = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(name if not again else f"{name} ({again + 1})")
    return names
