"""The Velocity model: MuData with a time in, a velocity field out."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport.data import register
from muport.velocity._course_columns import check_course_columns, check_several_times
from muport.velocity._fitted_state import FittedRawVelocity, VelocityState, sample_landmarks
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity._population_inference import PopulationInference
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._pipeline import (
    InputCells,
    fit_network,
    pair_windows,
    transport_cells,
    warn_of_outliers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    import mudata

    type Data = mudata.MuData | anndata.AnnData

__all__ = ["Velocity"]

logger = logging.getLogger("muport")

_OF_THE_MODEL = (
    "windows",
    "difference",
    "hidden_dim",
    "n_latent",
    "use_time",
)  # hyperparameters that train does not take


class Velocity(PopulationInference):
    """A velocity field v(x, t) from optimal transport between cells of successive times.

    Cells are split into blocks of successive time bins, and blocks are transported onto those before and after them.
    The difference of a cell's two barycenters, divided by the time between them, is its raw velocity: the cell's own
    noise cancels, and the unit is that of the representation per unit of time. A small network is fitted to the raw
    velocities. It gives a velocity at any position and time, with an uncertainty from refits of its last layer on
    resampled windows.

    Parameters
    ----------
    mdata
        MuData or AnnData set up with :meth:`setup_mudata` or :meth:`setup_anndata`.
    windows
        ``"time"``: blocks of time bins. ``"spatial"``: the windows of VelOT, by time within regions of space.
    difference
        ``"central"``, or ``"forward"``: the displacement to the later match alone, as in VelOT, which pulls every cell
        toward the mean of its neighbors.
    hidden_dim
        Width of the network's two hidden layers.
    n_latent
        Width of its bottleneck, the coordinates of :meth:`get_latent_representation`.
    use_time
        Whether the field depends on time, v(x, t), or not, v(x).
    registry
        Registry of data, in place of `mdata`.

    Raises
    ------
    ValueError
        If an argument is out of range or unknown.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=600, random_state=0)
    >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="time")
    >>> model = muport.Velocity(adata)
    >>> model.train(n_steps=50, progress=False)
    >>> model.get_velocity().shape == adata.obsm["X_pca"].shape
    True

    References
    ----------
    VelOT, whose names and parameters are kept; the differences are listed on the methods page.
    """

    _required_columns: ClassVar[dict[str, str]] = {"time_key": "muport.pp.pseudotime computes one"}
    #: The fit leaves such cells out, and says so.
    _warns_of_outliers: ClassVar[bool] = False

    def __init__(
        self,
        mdata: Data | None = None,
        windows: Literal["time", "spatial"] = "time",
        difference: Literal["central", "forward"] = "central",
        hidden_dim: int = 128,
        n_latent: int = 32,
        use_time: bool = True,
        registry: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(mdata, registry)
        self._hyperparameters = VelocityHyperparameters.from_arguments(locals())
        choices = ", ".join(f"{name}={getattr(self._hyperparameters, name)!r}" for name in _OF_THE_MODEL)
        self._model_summary_string = f"Velocity with {choices}"
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_mudata(
        cls,
        mdata: mudata.MuData,
        use_rep: Mapping[str, str] | str = {"rna": "X_pca"},
        time_key: str = "pseudotime",
        labels_key: str | None = None,
        spatial_key: str | None = None,
        batch_key: str | None = None,
        growth_key: str | None = None,
        clone_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a MuData.

        Parameters
        ----------
        mdata
            Object to register; it is checked whole before anything is written to it.
        use_rep
            Key of ``mdata.obsm``, such as the latent space of an integration, or modality -> ``obsm`` key.
        time_key
            Column with the time of each cell: a pseudotime, or real time in any unit. Names that differ in one number
            only, such as ``"E8.5"`` and ``"E9.5"``, are read as these numbers.
        labels_key
            Column with the type of each cell, by which trajectories and fates are named. The field does not use it.
        spatial_key
            Column with regions of space for ``windows="spatial"``, of any type, in place of k-means.
        batch_key
            Column with the batch of each cell: cells are transported within their batch where it spans both times.
        growth_key
            Of a time course: column with an expected growth rate of each cell (logarithmic change of mass per unit of
            time, as of :func:`muport.pp.score_growth`). The couplings between days start from the masses it predicts.
        clone_key
            Of a time course: column with the clone of each cell (missing: none), or ``obsm`` key of a matrix of cells
            by clones. In the couplings between days, cells whose clones are on both days go to cells of their clones.
        kwargs
            For scvi-tools, which passes ``source_registry`` when it transfers a set-up.

        Raises
        ------
        KeyError
            If a modality, ``obsm`` key or column is missing; says which exist.
        TypeError, ValueError
            If the representation or the time is not numeric or not finite, or cells repeat or have no batch.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        check_course_columns(mdata, time_key, growth_key, clone_key)
        register(cls, mdata, setup_method_args, **kwargs)

    @classmethod
    def setup_anndata(
        cls,
        adata: anndata.AnnData,
        use_rep: str = "X_pca",
        time_key: str = "pseudotime",
        labels_key: str | None = None,
        spatial_key: str | None = None,
        batch_key: str | None = None,
        growth_key: str | None = None,
        clone_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register an AnnData: the same as a MuData of one modality.

        Parameters
        ----------
        adata
            Object to register.
        use_rep
            ``obsm`` key of the representation in which cells move.
        time_key, labels_key, spatial_key, batch_key, growth_key, clone_key
            Columns of ``obs``, as in :meth:`setup_mudata`.
        kwargs
            For scvi-tools, as in :meth:`setup_mudata`.

        Raises
        ------
        KeyError, TypeError, ValueError
            As :meth:`setup_mudata`.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        check_course_columns(adata, time_key, growth_key, clone_key)
        register(cls, adata, setup_method_args, **kwargs)

    def train(
        self,
        window_fraction: float = 0.05,
        window_size: int | None = None,
        n_clusters: int | None = None,
        overlap_fraction: float = 0.5,
        min_window_size: int = 20,
        tail_handling: Literal["force", "drop", "split"] = "force",
        tail_threshold: int = 10,
        reg: float | None = None,
        reg_scale: float = 0.5,
        tau: float = 0.98,
        relaxation: float | None = 0.5,
        select: Literal["held_out"] | None = None,
        growth: bool = False,
        growth_relaxation: float = 16.0,
        lambda_time: float = 0.0,
        lambda_knn: float = 0.0,
        n_steps: int = 400,
        batch_size: int = 256,
        lr: float | None = None,
        lambda_smooth: float = 0.0,
        lambda_curl: float = 0.0,
        lambda_divergence: float = 0.0,
        k_smooth: int = 15,
        denoise: bool = True,
        n_bootstrap: int = 20,
        accelerator: str = "auto",
        devices: int | str = "auto",
        random_state: int = 0,
        progress: bool = True,
    ) -> None:
        """Fit the field.

        ``metrics_`` then holds ``converged`` (fraction of the transport problems that converged), ``covered`` (fraction
        of the cells with a raw velocity), ``loss`` (of the last step), ``n_steps`` (number of steps taken) and
        ``speed`` (mean length of the velocity).

        Parameters
        ----------
        window_fraction
            Fraction of the cells in a time bin, in (0, .5].
        window_size
            Number of cells in a window; by default 128 in time windows, and chosen by VelOT's rule in spatial ones.
        n_clusters, overlap_fraction, min_window_size, tail_handling, tail_threshold
            Of spatial windows: number of regions, overlap of successive windows, their smallest size, and the treatment
            of the last cells of a region, as in :func:`muport.velocity.build_windows`.
        reg
            Entropic regularization as a fraction of the largest cost of a window; by default `reg_scale` times the
            median squared distance of a cell to its fifth neighbor in the window.
        reg_scale
            Factor of that rule.
        tau
            Relaxation of the cells' masses in (0, 1]. 1 is balanced: mass is transported across branches wherever two
            windows have different shares of them. Below 1 branches may grow, and :meth:`get_growth` returns the rate.
        relaxation
            Of the couplings between days: cost of a change of mass, as a multiple of the median squared distance
            that cells are transported. Small values explain more of a difference between days by growth, and less by
            movement; None is balanced. The field uses `tau`.
        select
            ``"held_out"``: of a time course, select `reg_scale` and `relaxation` by the prediction of each inner day
            from the other days, in place of their given values. ``history_["held_out"]`` then holds the distance W1
            of each candidate, and ``settings_`` what was selected. The field uses the same `reg_scale`; its other
            choices, such as `tau`, `window_fraction` and `k_smooth`, do not enter these predictions.
        growth
            Whether to estimate growth rates between the days of a time course as well, for :meth:`get_growth` and the
            masses of :meth:`simulate_flow`. The field is the same with it.
        growth_relaxation
            Of these rates: cost of a change of mass, as a multiple of the median squared distance that is left between
            the days once cells have moved with their neighborhood.
        lambda_time, lambda_knn
            Additional cost, as a fraction of the largest, of a transport backward in time, and between cells that are
            not neighbors.
        n_steps, batch_size, lr
            Largest number of steps of the network's optimizer (fewer, at least 40, where raw velocities are noisy and
            cells few); cells per step; largest learning rate, .012 by default.
        lambda_smooth, lambda_curl, lambda_divergence
            Weights of the penalties on differences between `k_smooth` neighbors, on curl and on divergence; the last
            two over all dimensions.
        k_smooth
            Number of neighbors in place and time over which raw velocities are averaged before the fit, and for
            `lambda_smooth`.
        denoise
            Whether to apply a Wiener filter to the representation before the transport. It removes directions in which
            the cells vary no more than neighbors in space and time do; the field takes account of the filter. Without
            it raw velocities are not averaged either, and all `n_steps` are taken.
        n_bootstrap
            Number of refits of the last layer on resampled windows, which :meth:`get_uncertainty` compares.
        accelerator, devices
            As in Lightning.
        random_state
            Seed; the same seed gives the same result, bit by bit.
        progress
            Show a progress bar.

        Raises
        ------
        ValueError
            If an argument is out of range, time has one value or too few cells for two windows, a window has fewer than
            ten cells, or the model was loaded without data. With `select` or `growth`: if the cells are no time course;
            with `select` also if it has two times.

        Warns
        -----
        UserWarning
            If some cells are far from all others: the field is fitted without them. If more than the default number of
            steps was asked for, and fewer were taken.
        """
        hyperparameters = VelocityHyperparameters.from_arguments(asdict(self._hyperparameters) | locals())
        device = self._device(accelerator, devices)
        rows = self._rows()
        cells = InputCells.from_rows(rows)
        check_several_times(cells.time, str(self._setup.time_key))
        hyperparameters, candidates = self._select_hyperparameters(rows, hyperparameters)
        growth_field = self._growth_field(rows, hyperparameters)
        warn_of_outliers(cells, rows.obs_names[rows.cell])
        columns = (TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, disable=not progress, transient=True) as bar:
            task = bar.add_task("windows", total=n_steps + 10)
            windows = pair_windows(cells, hyperparameters)
            bar.update(task, description="transport")
            raw = transport_cells(cells, windows, hyperparameters, str(device))
            bar.update(task, description="network", advance=10)
            fit = fit_network(cells, raw, hyperparameters, str(device), lambda _: bar.update(task, advance=1))
        fitted, labels = cells.fitted, rows.label[rows.cell[cells.fitted_rows]]
        landmarks = sample_landmarks(fitted.x, fitted.time, labels, rows.labels, hyperparameters.random_state)
        n_taken = len(fit.history["loss"])
        if n_taken < n_steps:
            _report_steps(n_taken, n_steps)
        speed = np.linalg.norm(evaluate(fit.field(), landmarks.x, landmarks.time), axis=1)
        self.state_ = VelocityState(fit, landmarks, float(speed.mean()), growth_field)
        self._raw = FittedRawVelocity.create(rows, raw)
        self.metrics_ = {
            "converged": raw.converged,
            "covered": float((raw.weight > 0).mean()),
            "loss": float(fit.history["loss"][-1]),
            "n_steps": float(n_taken),
            "speed": float(speed.mean()),
        }
        self.history_ = {name: pd.DataFrame({name: values}).rename_axis("step") for name, values in fit.history.items()}
        if candidates is not None:
            self.history_["held_out"] = candidates.rename_axis("candidate")
            _report_selection(candidates, hyperparameters)
        self.settings_ = asdict(hyperparameters)
        self.is_trained_ = True
        self.to_device(device)


def _report_selection(candidates: pd.DataFrame, selected: VelocityHyperparameters) -> None:
    """Say what was selected, and how much better it predicts held-out days than the given values."""
    logger.info(
        "select=%r: reg_scale=%g and relaxation=%s; W1 of the held-out days is %.3g times that of the given values.",
        selected.select, selected.reg_scale, selected.relaxation, candidates["ratio"].min(),
    )  # fmt: skip


def _report_steps(taken: int, asked: int) -> None:
    """Say that fewer steps were taken: by a warning if the user asked for more than the default."""
    text = (
        f"train took {taken} of n_steps={asked} steps: the raw velocities are noisy, and further steps would fit their "
        "noise. Pass denoise=False to take all steps."
    )
    if asked > VelocityHyperparameters.n_steps:
        warnings.warn(text, UserWarning, stacklevel=3)
    else:
        logger.info(text)
