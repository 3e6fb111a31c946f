"""From cells and times to a fitted field: windows, transport, network."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from muport.neighbors import knn
from muport.velocity.estimation._averaging import averaged, enough_steps, with_misfit
from muport.velocity.estimation._field_training import fit_field
from muport.velocity.estimation._raw_velocity import RawVelocity, ot_velocity
from muport.velocity.estimation._wiener_filter import Shrinkage, folded, shrinkage
from muport.velocity.estimation._windows import Windows, spatial_windows, time_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.velocity.estimation._field_training import FieldFit

__all__ = ["Cells", "Settings", "fit_network", "raw_velocity", "windows_of"]

_WIDTH = 128  # cells of a block of a time bin
_LEAST = 20  # cells that two windows take
_FITTED = 50_000  # cells that the network is fitted to: the search for neighbours of more would take most of the time
_NEIGHBORS = 30  # of which the transport to a cell that is not one of them costs more
_CHOICES = {
    "windows": ("time", "spatial"),
    "difference": ("central", "forward"),
    "tail_handling": ("force", "drop", "split"),
}
_AT_LEAST = {  # the least value, and whether it must be a whole number
    "n_clusters": (1, True), "window_size": (2, True), "min_window_size": (2, True), "tail_threshold": (0, True),
    "lambda_time": (0, False), "lambda_knn": (0, False), "n_steps": (2, True), "batch_size": (1, True),
    "lambda_smooth": (0, False), "lambda_curl": (0, False), "lambda_divergence": (0, False), "k_smooth": (1, True),
    "n_bootstrap": (0, True), "random_state": (0, True), "hidden_dim": (1, True), "n_latent": (1, True),
}  # fmt: skip
_AT_MOST = {"window_fraction": 0.5, "tau": 1.0}  # above 0


@dataclass(frozen=True)
class Cells:
    """Cells as the method sees them.

    Attributes
    ----------
    x
        (n, d) float32 coordinates.
    time
        (n,) float64 times, in the user's unit.
    batch, spatial
        (n,) int64 codes, or None: one batch; clusters to be found.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float64]
    batch: NDArray[np.int64] | None = None
    spatial: NDArray[np.int64] | None = None

    @cached_property
    def filter(self) -> Shrinkage:
        """The filter that takes noise out of the coordinates."""
        return shrinkage(self.x, self.time)

    @cached_property
    def denoised(self) -> NDArray[np.float32]:
        """(n, d) float32 coordinates after the filter."""
        return self.filter(self.x)

    @classmethod
    def of(cls, rows: Any) -> Cells:
        """From the rows that the data side reads, which have a time."""
        batch = rows.batch if len(rows.batches) > 1 else None
        return cls(rows.x, rows.time[rows.cell], batch, None if rows.spatial is None else rows.spatial[rows.cell])


@dataclass(frozen=True)
class Settings:
    """What `train` was asked for; the meaning of each stands there.

    Raises
    ------
    ValueError
        If a value is outside its range; names it.
    """

    windows: Literal["time", "spatial"] = "time"
    difference: Literal["central", "forward"] = "central"
    window_fraction: float = 0.05
    window_size: int | None = None
    n_clusters: int | None = None
    overlap_fraction: float = 0.5
    min_window_size: int = 20
    tail_handling: Literal["force", "drop", "split"] = "force"
    tail_threshold: int = 10
    reg: float | None = None
    reg_scale: float = 0.5
    tau: float = 0.98
    lambda_time: float = 0.0
    lambda_knn: float = 0.0
    n_steps: int = 400
    batch_size: int = 256
    lr: float | None = None
    hidden_dim: int = 128
    n_latent: int = 32
    lambda_smooth: float = 0.0
    lambda_curl: float = 0.0
    lambda_divergence: float = 0.0
    k_smooth: int = 15
    use_time: bool = True
    denoise: bool = True
    n_bootstrap: int = 20
    random_state: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            _check(f.name, getattr(self, f.name))


def _check(name: str, value: Any) -> None:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, _CHOICES[name]))}.")
        return
    if value is None and name in ("n_clusters", "window_size", "reg", "lr"):
        return
    if name in ("use_time", "denoise"):
        if not isinstance(value, bool):
            raise TypeError(f"{name}={value!r} must be True or False.")
        return
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not np.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a finite number.")
    if name in _AT_LEAST:
        least, whole = _AT_LEAST[name]
        if value < least or (whole and int(value) != value):
            raise ValueError(f"{name}={value!r} must be {'an integer' if whole else 'a number'} of at least {least}.")
    elif name == "overlap_fraction":
        if not 0 <= value < 1:
            raise ValueError(f"overlap_fraction={value!r} must be at least 0 and below 1.")
    elif name in _AT_MOST:
        if not 0 < value <= _AT_MOST[name]:
            raise ValueError(f"{name}={value!r} must be above 0 and at most {_AT_MOST[name]:g}.")
    elif value <= 0:
        raise ValueError(f"{name}={value!r} must be positive.")


def windows_of(cells: Cells, settings: Settings) -> Windows:
    """Pair the windows that `settings` ask for."""
    if len(cells.x) < _LEAST:
        raise ValueError(f"there are {len(cells.x)} cells: two windows need at least {_LEAST} cells.")
    if settings.windows == "time":
        return time_windows(
            cells.time,
            cells.batch,
            fraction=settings.window_fraction,
            width=settings.window_size or _WIDTH,
            random_state=settings.random_state,
        )
    return spatial_windows(
        cells.x,
        cells.time,
        cells.spatial,
        cells.batch,
        n_clusters=settings.n_clusters,
        window_size=settings.window_size,
        overlap_fraction=settings.overlap_fraction,
        min_window_size=settings.min_window_size,
        tail_handling=settings.tail_handling,
        tail_threshold=settings.tail_threshold,
        random_state=settings.random_state,
    )


def raw_velocity(cells: Cells, windows: Windows, settings: Settings, device: str = "cpu") -> RawVelocity:
    """Transport the windows that are paired, between denoised places if `settings` say so."""
    x = cells.denoised if settings.denoise else cells.x
    near = knn(x, min(_NEIGHBORS, len(x) - 1)).indices if settings.lambda_knn > 0 else None
    return ot_velocity(
        x,
        cells.time,
        windows,
        reg=settings.reg,
        reg_scale=settings.reg_scale,
        tau=settings.tau,
        lambda_time=settings.lambda_time,
        lambda_knn=settings.lambda_knn,
        neighbors=near,
        difference=settings.difference,
        device=device,
    )


def fit_network(
    cells: Cells,
    raw: RawVelocity,
    settings: Settings,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> FieldFit:
    """Fit the field to the raw velocities; it takes the coordinates of the cells, denoised or not.

    Of many cells it is fitted to a random 50,000: cost and memory of the fit grow no further.
    """
    x, mean, n_steps = cells.x, None, settings.n_steps
    raw = _thinned(raw, settings.random_state)
    if settings.denoise:
        x = cells.denoised
        found = averaged(x, cells.time, raw, cells.filter.noise, settings.k_smooth, random_state=settings.random_state)
        mean = found.raw
        n_steps = enough_steps(int((raw.weight > 0).sum()), found.noise, settings.batch_size, settings.n_steps)
    near = knn(x, min(settings.k_smooth, len(x) - 1)).indices if settings.lambda_smooth > 0 else None
    fit = fit_field(
        x,
        cells.time,
        raw,
        target=None if mean is None else mean.velocity,
        n_steps=n_steps,
        batch_size=settings.batch_size,
        hidden_dim=settings.hidden_dim,
        n_latent=settings.n_latent,
        lr=settings.lr,
        lambda_smooth=settings.lambda_smooth,
        lambda_curl=settings.lambda_curl,
        lambda_divergence=settings.lambda_divergence,
        neighbors=near,
        use_time=settings.use_time,
        n_bootstrap=settings.n_bootstrap,
        random_state=settings.random_state,
        device=device,
        progress=progress,
    )
    if mean is None:
        return fit
    fit = folded(fit, cells.filter)
    return with_misfit(fit, cells.x, cells.time, mean, cells.filter.inverse, random_state=settings.random_state)


def _thinned(raw: RawVelocity, random_state: int) -> RawVelocity:
    """Raw velocities of which at most `_FITTED`, drawn at random, keep their weight."""
    covered = np.flatnonzero(raw.weight > 0)
    if len(covered) <= _FITTED:
        return raw
    weight = np.zeros_like(raw.weight)
    kept = np.random.default_rng(random_state).permutation(covered)[:_FITTED]
    weight[kept] = raw.weight[kept]
    return replace(raw, weight=weight)
