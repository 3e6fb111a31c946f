"""What a fitted velocity model says of its cells and of others: velocities, their uncertainty, and paths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from muport._checks import check_flags, check_option
from muport._keys import UNLABELED_CATEGORY
from muport._tables import rows_by_name, take_cells
from muport.data import MuDataModel
from muport.velocity._fitted_state import (
    FittedRawVelocity,
    VelocityState,
    check_landmarks,
    check_query,
    estimate_time,
    speed_and_uncertainty,
)
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity.dynamics._embedding_projection import project_velocity
from muport.velocity.dynamics._manifold import interpolate_field
from muport.velocity.dynamics._start_cells import ClusteredCells, FlowSource, StartCells
from muport.velocity.dynamics._trajectories import FlowOptions, TrajectoryOptions, flow_particles, trace_trajectories
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._pipeline import InputCells, pair_windows, transport_cells
from muport.velocity.timecourse._growth import mass_along

if TYPE_CHECKING:
    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.velocity.dynamics._path_clusters import Trajectories
    from muport.velocity.estimation._field import Field
    from muport.velocity.estimation._raw_velocity import RawVelocity
    from muport.velocity.timecourse._growth import GrowthField

    type Data = mudata.MuData | anndata.AnnData

__all__ = ["FittedCells", "VelocityInference"]


@dataclass(frozen=True, eq=False)
class FittedCells:
    """The cells of the fit, or, if the model has no data, its landmarks.

    - `field`: The field that was fitted to them.
    - `x`: (n, d) float32 coordinates.
    - `time`: (n,) float64 times.
    - `labels`: (n,) names of the labels, ``"unknown"`` for cells without one; None if no labels were set up.
    - `names`: Names of the cells.
    """

    field: Field
    x: NDArray[np.float32]
    time: NDArray[np.float64]
    labels: NDArray[np.str_] | None
    names: pd.Index

    @cached_property
    def velocity(self) -> NDArray[np.float32]:
        """(n, d) float32 values of the field."""
        return evaluate(self.field, self.x, self.time)

    @property
    def clustered(self) -> ClusteredCells:
        """The cells among which paths run."""
        return ClusteredCells.create(self.x, self.time, self.labels, self.names)


class VelocityInference(MuDataModel):
    """Methods of a trained model that evaluate the field, or follow it."""

    _state_class: ClassVar[type] = VelocityState
    #: Raw velocities of the cells of the fit, computed when first needed.
    _raw: FittedRawVelocity | None = None

    def get_velocity(
        self, mdata: Data | None = None, indices: Any = None, kind: Literal["smooth", "raw"] = "smooth"
    ) -> NDArray[np.float32]:
        """Return the velocity of each cell.

        Parameters
        ----------
        mdata
            Cells; by default those the model was set up with. Other cells need not be set up; without a time they get
            the median time of the nearest cells of the fit.
        indices
            Cells to return, by position, name or mask; by default all.
        kind
            ``"smooth"``: the field at the cell. ``"raw"``: the difference quotient of the transports, for the cells
            of the fit only; 0 where a cell is in no window.

        Returns
        -------
        (n_obs, d) float32, in units of the representation per unit of time.

        Raises
        ------
        ValueError
            If `kind` is unknown, or ``"raw"`` is passed with other cells, or after a change of the cells, their
            coordinates, times or batches.
        """
        check_option("kind", kind, ("smooth", "raw"))
        if kind == "smooth":
            rows, time = self._rows_and_times(mdata)
            return take_cells(rows.to_cells(evaluate(self._field(), rows.x, time)), indices, rows.obs_names)
        if mdata is not None:
            raise ValueError("kind='raw' is known for the cells of the fit only: leave mdata out, or use 'smooth'.")
        velocity = self._raw_velocity().velocity
        return velocity if indices is None else take_cells(velocity, indices, self._rows().obs_names)

    def get_confidence(self, mdata: Data | None = None) -> NDArray[np.float32]:
        """Return the confidence in the velocity of each cell: ``|v|^2 / (|v|^2 + sd^2)``, with sd the uncertainty.

        Parameters
        ----------
        mdata
            Cells, as in :meth:`get_velocity`.

        Returns
        -------
        (n_obs,) float32 in 0..1.
        """
        speed, uncertainty = self._speed_and_uncertainty(mdata)
        total = np.maximum(speed**2 + uncertainty**2, np.finfo(np.float32).tiny)
        confidence: NDArray[np.float32] = speed**2 / total
        return confidence

    def get_uncertainty(self, mdata: Data | None = None) -> NDArray[np.float32]:
        """Return the standard deviation of the velocity of each cell.

        Its square is the variance over refits on resampled windows, summed over all dimensions, plus the mean square
        difference between the field and the raw velocities averaged over neighbors. Where branches overlap, the motion
        of a single cell may differ more from the field.

        Parameters
        ----------
        mdata
            Cells, as in :meth:`get_velocity`.

        Returns
        -------
        (n_obs,) float32, in units of the representation per unit of time.
        """
        return self._speed_and_uncertainty(mdata)[1]

    def get_growth(
        self, mdata: Data | None = None, kind: Literal["smooth", "raw"] | None = None
    ) -> NDArray[np.float32]:
        """Return the growth rate of each cell: logarithmic change of mass per unit of time.

        A rate of log(2) = 0.69 is one division per unit of time; negative rates are death. ``"smooth"`` are the rates
        between the days of a time course, for which mass is the number of measured cells. If these numbers do not
        follow the size of the population, rates are right up to a constant in each interval. Where cells may have moved
        as well as divided, the split between both depends on ``growth_relaxation`` of :meth:`train`.

        Parameters
        ----------
        mdata
            Cells, as in :meth:`get_velocity`.
        kind
            ``"smooth"``: the rates that ``train(growth=True)`` estimates. ``"raw"``: those of the windows of the field,
            relative to the mean of the cell's window, for the cells of the fit only. By default the first if they were
            estimated, otherwise the second.

        Returns
        -------
        (n_obs,) float32, per unit of time.

        Raises
        ------
        ValueError
            If ``"smooth"`` was not estimated; or for ``"raw"``, if the model was trained with ``tau=1``, which changes
            no cell's mass, has no data, the data have changed, or other cells are passed.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=600, random_state=0)
        >>> adata.obs["day"] = (adata.obs["time"] * 3).round()
        >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="day")
        >>> model = muport.Velocity(adata)
        >>> model.train(n_steps=50, growth=True, n_bootstrap=5, progress=False)
        >>> model.get_growth().shape
        (600,)
        """
        state: VelocityState = self._fitted()
        if kind is not None:
            check_option("kind", kind, ("smooth", "raw"))
        if kind == "smooth" or (kind is None and state.growth is not None):
            rows, time = self._rows_and_times(mdata)
            return rows.to_cells(self._growth().evaluate(rows.x, time)[0][:, None])[:, 0]
        if mdata is not None:
            raise ValueError(
                "growth rates of other cells need those of a time course: train with growth=True, or leave mdata out."
            )
        if self.settings_["tau"] == 1:
            raise ValueError("growth needs unbalanced transport: train with tau below 1, for example tau=0.95.")
        return self._raw_velocity().growth

    def query_growth(
        self, positions: Any, pseudotime_values: Any = None, return_std: bool = False
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Evaluate the growth rate at any positions and times of a time course.

        Parameters
        ----------
        positions, pseudotime_values
            As for :meth:`query_velocity`.
        return_std
            Return the uncertainty too: the standard deviation over ``n_bootstrap`` replicates of :meth:`train`, in
            which the cells of each day are drawn anew. It does not contain the choice of ``growth_relaxation``.

        Returns
        -------
        (n,) float32 logarithmic change of mass per unit of time; with `return_std` also (n,) float32, its standard
        deviation, NaN with fewer than two replicates. Before the first day and after the last one, rates are those of
        these days.

        Raises
        ------
        ValueError
            If the model was not trained with ``growth=True``; or as :meth:`query_velocity`.
        """
        check_flags(return_std=return_std)
        landmarks = self._fitted().landmarks
        x, time = check_query(positions, pseudotime_values, landmarks.x.shape[1], float(np.median(landmarks.time)))
        rate, sd = self._growth().evaluate(x, time)
        return (rate, sd) if return_std else rate

    def get_latent_representation(self, mdata: Data | None = None, indices: Any = None) -> NDArray[np.float32]:
        """Return the network's bottleneck: the velocity is an affine function of these coordinates.

        Parameters
        ----------
        mdata, indices
            Cells, and those of them to return, as in :meth:`get_velocity`.

        Returns
        -------
        (n_obs, n_latent) float32, row i for ``mdata.obs_names[i]``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        rows, time = self._rows_and_times(mdata)
        field = self._field()
        return take_cells(rows.to_cells(evaluate(field, rows.x, time, field.latent)), indices, rows.obs_names)

    def query_velocity(
        self, positions: Any, pseudotime_values: Any = None, return_std: bool = False
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Evaluate the field at any positions and times.

        Parameters
        ----------
        positions
            (n, d) coordinates in the representation.
        pseudotime_values
            (n,) times, or one for all; the median time of the fit by default. A Series is matched by name to positions
            in a DataFrame.
        return_std
            Return the uncertainty too.

        Returns
        -------
        (n, d) float32 velocity, in units of the representation per unit of time; with `return_std` also (n,) float32,
        its standard deviation.

        Raises
        ------
        ValueError
            If the positions have another width than the model, or there is neither one time nor one for each.
        """
        check_flags(return_std=return_std)
        state: VelocityState = self._fitted()
        landmarks = state.landmarks
        x, time = check_query(positions, pseudotime_values, landmarks.x.shape[1], float(np.median(landmarks.time)))
        velocity = evaluate(self._field(), x, time)
        return (velocity, speed_and_uncertainty(self._field(), x, time)[1]) if return_std else velocity

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
        stop_pseudotime: float | None = None,
    ) -> Trajectories:
        """Follow the field from cells, forward or backward in time, by a Runge-Kutta solver of order 4.

        A path ends after `n_steps`, at `stop_pseudotime`, at either end of the data's time, at the target, or before it
        is more than ten nearest-neighbor distances from any cell.

        Parameters
        ----------
        start_cells
            Cells to start from: their names or rows, or a mask over all cells (a Series of booleans is matched by
            name), in place of the other conditions on the start.
        start_cluster
            Label to start from.
        target_cluster
            Keep only paths that reach this label.
        start_pseudotime, end_pseudotime
            Bounds of the start cells' time, not of the paths: see `stop_pseudotime`.
        n_trajectories
            Number of paths in each direction; with a target, of paths that reach it.
        n_steps
            Largest number of steps.
        step_size
            Step as a fraction of the range of time: its mean length is that fraction of the mean velocity.
        direction
            ``"forward"``, ``"backward"`` or ``"both"``.
        k_velocity, use_network
            With ``use_network=False`` the velocities of the `k_velocity` nearest cells are interpolated.
        evolve_pseudotime
            Whether time advances along the path.
        max_attempts_factor
            With a target: largest number of starts, as a multiple of `n_trajectories`.
        random_state
            Seed of the choice of start cells.
        stop_pseudotime
            Time at which paths end.

        Returns
        -------
        Paths (n, points, d) with their times, starts (also by name), ends, labels visited and the reason each one ends.

        Raises
        ------
        KeyError
            If a label or a start cell does not exist.
        ValueError
            If no cell satisfies the conditions, start cells and conditions are both given, the target was never
            reached, no path can end at `stop_pseudotime`, or a number is out of range.
        """
        options = TrajectoryOptions.from_arguments(locals())
        cells = self._cells()
        field = cells.field if use_network else interpolate_field(cells.x, cells.velocity, k_velocity)
        start = StartCells(rows=start_cells, cluster=start_cluster, time_min=start_pseudotime, time_max=end_pseudotime)
        return trace_trajectories(field, cells.clustered, start, options)

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
        """Simulate particles that follow the field with noise: x_{n+1} = x_n + dt v(x_n, t_n) + sqrt(2 D dt) eta.

        D is `diffusion` times the local speed and the median distance between neighboring cells within the tangent
        spaces of the data. The noise is in these tangent spaces, too, and particles stay among the cells ahead of them.
        Steps and ends are those of :meth:`compute_trajectories`.

        Parameters
        ----------
        n_particles
            Number of particles.
        source_cluster
            Label they start from.
        source_pseudotime_min, source_pseudotime_max
            Without a label: bounds of the source's time, as fractions of the range of time; for a pseudotime in [0, 1]
            these are its values.
        n_steps
            Largest number of steps.
        step_size
            Step as a fraction of the range of time.
        diffusion
            Strength of the noise: 0 is none, .1 to .5 is mild, 1 is strong.
        noise_scale
            Standard deviation of noise added to the starts, in units of the representation.
        random_state
            Seed of starts and noise.

        Returns
        -------
        One forward path for each particle. If the model was trained with ``growth=True``, ``mass`` holds the mass of
        each particle at each point: 1 at the start, then as its growth rates say.

        Raises
        ------
        KeyError
            If the label does not exist.
        ValueError
            If no cell satisfies the conditions, or a number is out of range.
        """
        options = FlowOptions.from_arguments(locals())
        cells = self._cells()
        source = FlowSource(cluster=source_cluster, time_min=source_pseudotime_min, time_max=source_pseudotime_max)
        flow = flow_particles(cells.field, cells.clustered, source, options)
        growth = self._fitted().growth
        return flow if growth is None else replace(flow, mass=mass_along(growth, flow.paths.x, flow.paths.time))

    def project_to_embedding(self, embedding: Any, n_neighbors: int = 30) -> NDArray[np.float32]:
        """Project the velocities into an embedding of the same cells, such as UMAP, for plots only.

        Parameters
        ----------
        embedding
            (n_obs, k) embedding: an array in the order of the cells, or a DataFrame, whose rows are matched by name.
        n_neighbors
            Number of neighbors from which the map between the two spaces is estimated.

        Returns
        -------
        (n_obs, k) float32 velocity in the embedding, per unit of time, in the order of the cells.

        Raises
        ------
        ValueError
            If a cell is not in the embedding, the shapes do not fit, or an entry is NaN.
        """
        cells = self._cells()
        positions = rows_by_name(embedding, cells.names, "embedding")
        return project_velocity(cells.x, cells.velocity, positions, n_neighbors=n_neighbors)

    def _field(self) -> Field:
        state: VelocityState = self._fitted()
        return state.fit.field().to(self.device)

    def _growth(self) -> GrowthField:
        """The growth rates of the fit; ValueError if it was not asked for them."""
        state: VelocityState = self._fitted()
        if state.growth is None:
            raise ValueError("the model has no growth rates: call train(growth=True) on a time course.")
        return state.growth

    def _cells(self) -> FittedCells:
        """The cells of the fit; ValueError if the data are others, or their coordinates or times have changed."""
        state: VelocityState = self._fitted()
        if self.adata is None:
            landmarks = state.landmarks
            x, time, label, labels = landmarks.x, landmarks.time, landmarks.label, landmarks.labels
            names = pd.Index([f"landmark_{i}" for i in range(len(x))])
        else:
            rows = self._rows()
            check_landmarks(rows, state.landmarks)
            assert rows.time is not None  # for mypy; the set-up requires a time  # nosec B101
            x, time = rows.x[np.argsort(rows.cell, kind="stable")], rows.time
            label, labels, names = rows.label, rows.labels, rows.obs_names
        label_names = np.array([*labels, UNLABELED_CATEGORY])[label] if labels else None
        return FittedCells(self._field(), x, time, label_names, names)

    def _rows_and_times(self, data: Data | None) -> tuple[Rows, NDArray[np.float64]]:
        """Rows of the data, and a time for each: new cells without a time get that of the nearest landmarks."""
        state: VelocityState = self._fitted()
        rows = self._rows(data, require_batch=False, require_time=False)
        rows.check_width(state.landmarks.x.shape[1])
        return rows, estimate_time(rows.x, state.landmarks) if rows.time is None else rows.time[rows.cell]

    def _speed_and_uncertainty(self, data: Data | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows, time = self._rows_and_times(data)
        per_row = speed_and_uncertainty(self._field(), rows.x, time)
        per_cell = rows.to_cells(np.stack(per_row, axis=1))
        return per_cell[:, 0], per_cell[:, 1]

    def _raw_velocity(self) -> RawVelocity:
        """Raw velocities of the cells in their present order; a loaded model estimates them again."""
        state: VelocityState = self._fitted()
        rows = self._rows()
        if self._raw is None:
            check_landmarks(rows, state.landmarks)
            hyperparameters, cells = VelocityHyperparameters(**self.settings_), InputCells.from_rows(rows)
            windows = pair_windows(cells, hyperparameters)
            raw = transport_cells(cells, windows, hyperparameters, str(self.device))
            self._raw = FittedRawVelocity.create(rows, raw)
        return self._raw.raw.of_some(self._raw.rows_of_cells(rows))
