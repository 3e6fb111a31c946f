"""The Velocity model: MuData with a time in, a velocity field out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport._checks import check_seed
from muport._keys import UNLABELED_CATEGORY
from muport.data import MuDataModel, layer_of, register
from muport.velocity._fitted_state import VelocityState, landmarks, nearest_time, query, signal_and_noise
from muport.velocity._inference import FateMixin, FlowMixin, Population
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._pipeline import Cells, Settings, fit_network, raw_velocity, windows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.velocity.estimation._field import Field
    from muport.velocity.estimation._raw_velocity import RawVelocity

    type Data = mudata.MuData | anndata.AnnData

__all__ = ["Velocity"]


class Velocity(FlowMixin, FateMixin, MuDataModel):
    """A velocity field v(x, t) from optimal transport between cells of neighbouring times.

    Cells are dealt into blocks of successive time bins, blocks are transported onto those before and after them, and
    the difference of the two barycentres, divided by the time between them, is a cell's raw velocity: the cell's own
    noise cancels, and the unit is that of the representation per unit of time. A small network turns the raw velocities
    into a field that answers for any place and time, with an uncertainty from refits of its last layer on resampled
    windows.

    Parameters
    ----------
    mdata
        MuData or AnnData set up with :meth:`setup_mudata` or :meth:`setup_anndata`.
    windows
        ``"time"``: blocks of time bins. ``"spatial"``: the windows of VelOT, by time within regions of space.
    difference
        ``"central"``, or ``"forward"``: the displacement to the later match alone, as VelOT takes it, which pulls
        every cell toward the mean of its neighbours.
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

    _state_class: ClassVar[type] = VelocityState
    _required_columns: ClassVar[dict[str, str]] = {"time_key": "muport.pp.pseudotime computes one"}

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
        self._design: dict[str, Any] = {
            "windows": windows, "difference": difference, "hidden_dim": hidden_dim, "n_latent": n_latent,
            "use_time": use_time,
        }  # fmt: skip
        Settings(**self._design)
        self._raw: RawVelocity | None = None
        self._model_summary_string = f"Velocity with {', '.join(f'{k}={v!r}' for k, v in self._design.items())}"
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
            Column with the time of each cell: a pseudotime, or real time in any unit.
        labels_key
            Column with the type of each cell, by which trajectories and fates are named. The field does not use it.
        spatial_key
            Column with regions of space for ``windows="spatial"``, of any type, in place of k-means.
        batch_key
            Column with the batch of each cell: cells are transported within their batch where it spans both times.
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
        **kwargs: Any,
    ) -> None:
        """Register an AnnData: the same as a MuData of one modality.

        Parameters
        ----------
        adata
            Object to register.
        use_rep
            ``obsm`` key of the representation in which cells move.
        time_key, labels_key, spatial_key, batch_key
            Columns of ``obs``, as in :meth:`setup_mudata`.
        kwargs
            For scvi-tools, as in :meth:`setup_mudata`.

        Raises
        ------
        KeyError, TypeError, ValueError
            As :meth:`setup_mudata`.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
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

        Parameters
        ----------
        window_fraction
            Share of the cells in a time bin.
        window_size
            Cells of a window; 128 for time windows, and chosen by VelOT's rule for spatial ones.
        n_clusters, overlap_fraction, min_window_size, tail_handling, tail_threshold
            Of spatial windows: regions, overlap of successive windows, their least size, and what becomes of a tail of
            fewer than `tail_threshold` cells, as in :func:`muport.velocity.build_windows`.
        reg
            Entropic regularisation as a fraction of the largest cost of a window; by default `reg_scale` times the
            median squared distance of a cell to its fifth neighbour inside the window.
        reg_scale
            Factor of that rule.
        tau
            Relaxation of the cells' masses in (0, 1]. 1 is balanced, and carries mass across branches wherever two
            windows hold different shares of them; below 1 branches may grow, and :meth:`get_growth` tells how much.
        lambda_time, lambda_knn
            Cost, as a share of the largest, of a move backward in time, and between cells that are no neighbours.
        n_steps, batch_size, lr
            Most steps of the network's optimiser, fewer (down to 40) where raw velocities are noisy and cells few;
            cells of a step; largest learning rate.
        lambda_smooth, lambda_curl, lambda_divergence
            Weights of the penalties on differences between `k_smooth` neighbours, on curl and on divergence, these two
            over all dimensions.
        k_smooth
            Neighbours in place and time over which raw velocities are averaged before the fit, and for `lambda_smooth`.
        denoise
            Whether directions in which the cells vary no more than neighbours in space and time do are shrunk away
            before the transport, and from the velocities: a linear map, of which the field takes account. Without it
            raw velocities are not averaged either, and all `n_steps` are taken.
        n_bootstrap
            Refits of the last layer on resampled windows: the members behind :meth:`get_uncertainty`.
        accelerator, devices
            As in Lightning.
        random_state
            Seed; the same seed gives the same result, bit by bit.
        progress
            Show a progress bar.

        Raises
        ------
        ValueError
            If an argument is out of range, time has one value or too few cells for two windows, or the model was loaded
            without data.
        """
        given = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
        settings = Settings(**given, **self._design)
        check_seed(random_state)
        device = self._device(accelerator, devices)
        rows = self._rows()
        cells = Cells.of(rows)
        columns = (TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, disable=not progress, transient=True) as bar:
            task = bar.add_task("windows", total=settings.n_steps + 10)
            windows = windows_of(cells, settings)
            bar.update(task, description="transport")
            raw = raw_velocity(cells, windows, settings, str(device))
            bar.update(task, description="network", advance=10)
            fit = fit_network(cells, raw, settings, str(device), lambda _: bar.update(task, advance=1))
        label = rows.label[rows.cell]
        known = landmarks(cells.x, cells.time, label, rows.labels, settings.random_state)
        speed = np.linalg.norm(evaluate(fit.field(), known.x, known.time), axis=1)
        self.state_ = VelocityState(fit, known, float(speed.mean()))
        self._raw = raw
        self.metrics_ = {
            "converged": raw.converged,
            "covered": float((raw.weight > 0).mean()),
            "loss": float(fit.history["loss"][-1]),
            "speed": float(speed.mean()),
        }
        self.history_ = {name: pd.DataFrame({name: values}).rename_axis("step") for name, values in fit.history.items()}
        self.settings_ = asdict(settings)
        self.is_trained_ = True
        self.to_device(device)

    def _placed(self, data: Data | None) -> tuple[Rows, NDArray[np.float64]]:
        """Rows, and the time of each; new cells without a time take that of the nearest landmarks."""
        state: VelocityState = self._fitted()
        rows = self._rows(data, require_batch=False, require_time=False)
        rows.check_width(state.landmarks.x.shape[1])
        return rows, nearest_time(rows.x, state.landmarks) if rows.time is None else rows.time[rows.cell]

    def get_velocity(self, mdata: Data | None = None, kind: Literal["smooth", "raw"] = "smooth") -> NDArray[np.float32]:
        """Return the velocity of each cell.

        Parameters
        ----------
        mdata
            Cells; those the model was set up with by default. Other cells need not be set up, and where they have no
            time they take that of the nearest cells of the fit.
        kind
            ``"smooth"``: the field at the cell. ``"raw"``: the difference quotient of the transports, for the cells
            of the fit only; 0 where a cell is in no window.

        Returns
        -------
        (n_obs, d) float32, in units of the representation per unit of time.

        Raises
        ------
        ValueError
            If `kind` is unknown, or raw velocities are asked for other cells.
        """
        if kind not in ("smooth", "raw"):
            raise ValueError(f"kind={kind!r} is unknown: use 'smooth' or 'raw'.")
        if kind == "raw":
            if mdata is not None:
                raise ValueError("kind='raw' is known for the cells of the fit only: leave mdata out, or use 'smooth'.")
            self._fitted()
            rows = self._rows()
            return rows.to_cells(self._transported(rows).velocity)
        rows, time = self._placed(mdata)
        return rows.to_cells(evaluate(self._field(), rows.x, time))

    def get_confidence(self, mdata: Data | None = None) -> NDArray[np.float32]:
        """Return how sure the velocity of each cell is: ``|v|^2 / (|v|^2 + sd^2)``, with sd the uncertainty.

        Parameters
        ----------
        mdata
            Cells, as in :meth:`get_velocity`.

        Returns
        -------
        (n_obs,) float32 in 0..1.
        """
        length, spread = self._signal(mdata)
        share: NDArray[np.float32] = length**2 / np.maximum(length**2 + spread**2, np.finfo(np.float32).tiny)
        return share

    def get_uncertainty(self, mdata: Data | None = None) -> NDArray[np.float32]:
        """Return the standard deviation of the velocity of each cell.

        It is the root of the summed variance of all dimensions: that over refits on resampled windows, and the mean
        square of what the field leaves of the raw velocities averaged over neighbours. Where branches overlap, a cell's
        own way may differ by more.

        Parameters
        ----------
        mdata
            Cells, as in :meth:`get_velocity`.

        Returns
        -------
        (n_obs,) float32, in units of the representation per unit of time.
        """
        return self._signal(mdata)[1]

    def _signal(self, data: Data | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows, time = self._placed(data)
        length, spread = signal_and_noise(self._field(), rows.x, time)
        both = rows.to_cells(np.stack([length, spread], axis=1))
        return both[:, 0], both[:, 1]

    def get_growth(self) -> NDArray[np.float32]:
        """Return the growth rate of each cell of the fit: log change of mass per unit of time.

        Returns
        -------
        (n_obs,) float32, relative to the mean of the cell's window.

        Raises
        ------
        ValueError
            If the model was trained with ``tau=1``, which leaves every cell its mass, or has no data.
        """
        self._fitted()
        if self.settings_["tau"] == 1:
            raise ValueError("growth needs unbalanced transport: train with tau below 1, for example tau=0.95.")
        rows = self._rows()
        return rows.to_cells(self._transported(rows).growth[:, None])[:, 0]

    def get_latent_representation(self, mdata: Data | None = None) -> NDArray[np.float32]:
        """Return the network's bottleneck: the coordinates of which the velocity is an affine function.

        Parameters
        ----------
        mdata
            Cells, as in :meth:`get_velocity`.

        Returns
        -------
        (n_obs, n_latent) float32, row i for ``mdata.obs_names[i]``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        rows, time = self._placed(mdata)
        field = self._field()
        return rows.to_cells(evaluate(field, rows.x, time, field.latent))

    def query_velocity(
        self, positions: Any, pseudotime_values: Any = None, return_std: bool = False
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Ask the field at any place and time.

        Parameters
        ----------
        positions
            (n, d) places in the representation.
        pseudotime_values
            (n,) times, or one for all; the median time of the fit by default.
        return_std
            Return the uncertainty too.

        Returns
        -------
        (n, d) float32 velocity, in units of the representation per unit of time; and, if asked, (n,) float32 its
        standard deviation.

        Raises
        ------
        ValueError
            If the places have another width than the model, or there is neither one time nor one for each.
        """
        state: VelocityState = self._fitted()
        return query(self._field(), state.landmarks, positions, pseudotime_values, return_std)

    def _field(self) -> Field:
        state: VelocityState = self._fitted()
        return state.fit.field().to(self.device)

    def _population(self) -> Population:
        state: VelocityState = self._fitted()
        if self.adata is None:
            known = state.landmarks
            names = pd.Index([f"landmark_{i}" for i in range(len(known.x))])
            return Population(known.x, known.time, _names(known.label, known.labels), names)
        rows = self._rows()
        order = np.argsort(rows.cell, kind="stable")
        assert rows.time is not None
        return Population(rows.x[order], rows.time, _names(rows.label, rows.labels), rows.obs_names)

    def _features(self, layer: str | None, modality: str | None) -> tuple[Any, pd.Index]:
        holder = self._own_data("load it with its data, which hold the features")
        mods = getattr(self.adata, "mod", None)
        if mods is not None:
            name = modality or self._modalities[0]
            if name not in mods:
                raise KeyError(f"modality={name!r} has no features: use one of {list(mods)}.")
            holder = mods[name]
        values = layer_of(holder, layer)
        position = holder.obs_names.get_indexer(self.adata.obs_names)
        if (position < 0).any():
            raise ValueError(f"{int((position < 0).sum())} cells are not in modality {name!r}: name one that has all.")
        same = np.array_equal(position, np.arange(len(position)))
        return (values if same else values[position]), holder.var_names

    def _transported(self, rows: Rows) -> RawVelocity:
        """Raw velocities of the cells of the fit: a function of the data and the settings, so they are not saved."""
        if self._raw is None or len(self._raw.weight) != len(rows.x):
            settings, cells = Settings(**self.settings_), Cells.of(rows)
            self._raw = raw_velocity(cells, windows_of(cells, settings), settings, str(self.device))
        return self._raw


def _names(codes: NDArray[np.int64], names: tuple[str, ...]) -> NDArray[np.str_] | None:
    return np.array([*names, UNLABELED_CATEGORY])[codes] if names else None
