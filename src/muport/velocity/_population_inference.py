"""What a fitted velocity model says of times that were not measured: predicted cells, and their errors on such days."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from muport._checks import check_integers, check_numbers, check_option, check_seed
from muport.velocity._time_course_inference import TimeCourseInference
from muport.velocity.timecourse._followed_cells import follow_cells
from muport.velocity.timecourse._held_out_days import HeldOutOptions, held_out_table
from muport.velocity.timecourse._interpolation import population_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    from numpy.typing import NDArray

__all__ = ["PopulationInference"]


class PopulationInference(TimeCourseInference):
    """Methods of a trained model that predict the cells of times between the measured days, and after them."""

    def predict_population(
        self, time: float, n_cells: int | None = None, source_time: float | None = None, random_state: int = 0
    ) -> anndata.AnnData:
        """Predict the cells of a time that was not measured.

        Between two measured times, cells of the earlier one move to cells of the later one, as their plan says, on
        paths that the days on either side, and cells on the way, bend; their mass changes on the way. Beyond the
        measured times all cells of the nearest day move on as they came, at most half as far as in the last interval,
        and less the less they went on in the intervals before. At a measured time the result are its cells. The
        predicted cells are measured ones, moved: they average the noise of both ends, so that in the middle of an
        interval they vary less within a type than measured cells do; beyond the measured times they do so too.

        Parameters
        ----------
        time
            Any time.
        n_cells
            Number of cells to return; by default about the number that is expected, and at least 1,000 between two
            measured times.
        source_time
            A measured time, if only its cells and those on its far side may be used: those before it for a later
            `time`, those after it for an earlier one. By default the days on both sides of `time` are used.
        random_state
            Seed of the choice of cells.

        Returns
        -------
        AnnData without features. ``obsm`` holds the coordinates under the key of the representation, and ``obs``:

        - ``time``: the time.
        - ``mass``: number of cells that each row stands for; their sum is the expected number of cells, on the scale
          of the numbers that were measured.
        - ``origin``, ``destination``: names of the measured cells between which the cell lies; empty where there is
          none.

        Raises
        ------
        KeyError
            If `source_time` is not a measured time.
        ValueError
            As :meth:`get_coupling`; if a number is not finite or out of range; or `source_time` leaves one day only.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=600, random_state=0)
        >>> adata.obs["day"] = (adata.obs["time"] * 3).round()
        >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="day")
        >>> model = muport.Velocity(adata)
        >>> model.train(n_steps=50, progress=False)
        >>> model.predict_population(1.5, n_cells=200).obsm["X_pca"].shape == (200, adata.obsm["X_pca"].shape[1])
        True
        """
        _check_finite(time)
        if n_cells is not None:
            check_integers(1, n_cells=n_cells)
        check_seed(random_state)
        course = self._course()
        if source_time is not None:
            course = course.one_side(course.days.position(source_time, "source_time"), time > source_time)
        population = population_at(course.days, course.plan, float(time), n_cells, random_state)
        obs = pd.DataFrame(index=[f"predicted_{i}" for i in range(len(population.x))])
        obs["time"], obs["mass"] = float(time), population.mass
        with_absent = np.append(course.names.astype(str).to_numpy(dtype=object), "")
        for column, cells in (("origin", population.origin), ("destination", population.destination)):
            obs[column] = with_absent[cells]
        return _as_anndata(population.x, obs, self._obsm_key())

    def follow_population(self, source_time: float, time: float, random_state: int = 0) -> anndata.AnnData:
        """Follow all cells of a measured time to another time among the measured ones, with their mass.

        A cell moves with the mean velocity, and grows at the mean rate, of the paths of coupled cells around it: those
        that :meth:`predict_population` follows, without the bends along cells on the way. Movement and growth are of
        the same plans, so that the population agrees with the measured days better than one that follows the field of
        :meth:`query_velocity`, in which the noise of cells cancels, with the rates of :meth:`query_growth`. The
        plans are finer than those of :meth:`get_coupling`: a tenth of ``reg_scale``, and eight times ``relaxation``.

        Parameters
        ----------
        source_time
            A measured time.
        time
            Any time from the first to the last measured one; before `source_time` cells are followed back.
        random_state
            Seed of the choice of paths.

        Returns
        -------
        AnnData without features, one row for each cell of `source_time`, of its name. ``obsm`` holds the coordinates
        under the key of the representation, and ``obs``:

        - ``time``: the time.
        - ``mass``: number of cells that each row stands for, 1 at `source_time`; their sum is the number of cells to
          be expected, on the scale of the numbers that were measured.

        Raises
        ------
        KeyError
            If `source_time` is not a measured time.
        ValueError
            As :meth:`get_coupling`; or if `time` is not finite, or beyond the measured times.

        Warns
        -----
        RuntimeWarning
            If a plan did not converge: fine plans need many iterations. Its columns are exact all the same.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=600, random_state=0)
        >>> adata.obs["day"] = (adata.obs["time"] * 3).round()
        >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="day")
        >>> model = muport.Velocity(adata)
        >>> model.train(n_steps=50, progress=False)
        >>> list(model.follow_population(0, 2.5).obs.columns)
        ['time', 'mass']
        """
        _check_finite(time)
        check_seed(random_state)
        course = self._course()
        day, times = course.days.position(source_time, "source_time"), course.days.times
        if not times[0] <= time <= times[-1]:
            raise ValueError(
                f"time={time!r} is beyond the measured times, {times[0]:g} to {times[-1]:g}: predict_population goes "
                "beyond them."
            )
        fine = course.to_follow()
        x, mass = follow_cells(fine.days, fine.plan, day, float(time), random_state)
        names = course.names[course.days.members[day]]
        rows = fine.names[fine.days.members[day]].get_indexer(names)
        obs = pd.DataFrame({"time": float(time), "mass": mass[rows]}, index=names)
        return _as_anndata(x[rows], obs, self._obsm_key())

    def validate_held_out(
        self,
        times: Sequence[float] | None = None,
        metric: Literal["w1", "w2", "mmd"] = "w1",
        max_cells: int = 3000,
        random_state: int = 0,
    ) -> pd.DataFrame:
        """Predict measured days without their cells, and compare the predictions with them.

        Each day is left out, the other days are coupled again, and :meth:`predict_population` predicts it. Beside it
        stand predictions that anyone can make.

        Parameters
        ----------
        times
            Measured times, of which the first and the last cannot be left out; by default all others.
        metric
            By which the predictions of a day are sorted.
        max_cells
            Largest number of cells of a day, and of a prediction, that are compared; exact transport takes the square
            of it in memory, 72 MB at 3,000. More cells are sampled.
        random_state
            Seed of the predictions and samples.

        Returns
        -------
        One row for each time and prediction, best first: ``time``, ``prediction``, ``n_cells`` (of the day), ``w1`` and
        ``w2`` (exact Wasserstein distances, in units of the representation), ``mmd`` (maximum mean discrepancy of a
        Gaussian kernel) and ``mass_error`` (relative error of the number of cells). The predictions are:

        - ``predicted``: that of the model, from the days on both sides.
        - ``forecast``: that of the model from the earlier days alone, if there are two.
        - ``mccann``: McCann's interpolation between the two neighbors.
        - ``day before``, ``day after``: their cells as they are.
        - ``halves``: one half of the day against the other, the floor of a prediction of half as many cells.

        Raises
        ------
        KeyError
            If a time was not measured.
        ValueError
            As :meth:`get_coupling`; for the first or the last time, or fewer than three times.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_dynamics("linear", n_cells=300, random_state=0)
        >>> adata.obs["day"] = (adata.obs["time"] * 2).round()
        >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="day")
        >>> model = muport.Velocity(adata)
        >>> model.train(n_steps=50, progress=False)
        >>> sorted(model.validate_held_out()["prediction"])
        ['day after', 'day before', 'halves', 'mccann', 'predicted']
        """
        check_option("metric", metric, ("w1", "w2", "mmd"))
        check_integers(20, max_cells=max_cells)
        check_seed(random_state)
        course = self._course()
        days, last = course.days, len(course.days.times) - 1
        if last < 2:
            raise ValueError(
                f"there are two times, {days.times.tolist()}: a day between others is needed to leave out."
            )
        positions = (
            list(range(1, last))
            if times is None
            else [days.position(time, "times") for time in np.atleast_1d(np.asarray(times))]
        )
        if not positions:
            raise ValueError("times is empty: name at least one measured time, or pass None for all.")
        for day in {0, last} & set(positions):
            raise ValueError(f"times: {days.times[day]:g} is the first or the last time: it is between no two others.")
        return held_out_table(days, positions, course.options, HeldOutOptions(metric, max_cells, random_state))

    def _obsm_key(self) -> str:
        """Key of the representation; of the first modality if there are several."""
        use_rep = self._setup.use_rep
        return next(iter(use_rep.values())) if isinstance(use_rep, Mapping) else str(use_rep)


def _check_finite(time: float) -> None:
    check_numbers(-np.inf, np.inf, time=time)
    if not np.isfinite(time):
        raise ValueError(f"time={time!r} must be finite.")


def _as_anndata(x: NDArray[np.float32], obs: pd.DataFrame, key: str) -> anndata.AnnData:
    """Predicted cells as an AnnData without features."""
    import anndata

    adata = anndata.AnnData(obs=obs)
    adata.obsm[key] = x
    return adata
