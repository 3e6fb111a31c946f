"""What a fitted velocity model says of cells that were measured at a few times: couplings, ancestors, populations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._arrays import canonical_order
from muport._checks import check_integers, check_numbers, check_seed
from muport._keys import UNLABELED_CATEGORY
from muport.data import joined_column
from muport.velocity._course_columns import check_growth, read_clones, read_growth
from muport.velocity._fitted_state import check_landmarks
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity._perturbation_inference import PerturbationInference
from muport.velocity.fates._coupling_kernel import coupling_kernel
from muport.velocity.timecourse._couplings import CouplingOptions, DayPlan, couple_days
from muport.velocity.timecourse._days import Days
from muport.velocity.timecourse._followed_cells import options_to_follow
from muport.velocity.timecourse._growth import GrowthField, GrowthOptions, fit_growth
from muport.velocity.timecourse._held_out_days import HeldOutOptions, select_coupling
from muport.velocity.timecourse._populations import Coupling, population_mass
from muport.velocity.timecourse._transition_tables import Annotation, transition_table

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

    from muport.data import Rows

__all__ = ["TimeCourseInference"]

_MAX_BOOTSTRAP_LEVEL = 0.999
_SELECTION_CELLS = 1000  # cells of a day that candidates are compared on


@dataclass(frozen=True, eq=False)
class _Course:
    """The cells of a time course, and the plans between its days that were computed so far."""

    days: Days
    names: pd.Index
    labels: NDArray[np.str_] | None
    options: CouplingOptions
    plans: dict[tuple[int, int], DayPlan] = field(default_factory=dict)
    plans_to_follow: dict[tuple[int, int], DayPlan] = field(default_factory=dict)

    def to_follow(self) -> _Course:
        """The same course with the finer plans by which cells are followed over several days.

        Its cells are in an order that does not depend on that of the data: a pair that rounding adds or leaves out
        would move the cells around it.
        """
        order = canonical_order(self.days.x, self.days.time)
        labels = None if self.labels is None else self.labels[order]
        options = options_to_follow(self.options)
        return _Course(self.days.take(order), self.names[order], labels, options, self.plans_to_follow)

    def plan(self, source: int) -> DayPlan:
        """The plan from a day to the next one, computed when first needed."""
        if (source, source + 1) not in self.plans:
            self.plans[source, source + 1] = couple_days(self.days, source, source + 1, self.options)
        return self.plans[source, source + 1]

    def coupling(self, source: int, target: int) -> Coupling:
        """The plans from one day to a later one."""
        members = self.days.members
        return Coupling(
            tuple(self.plan(day) for day in range(source, target)),
            tuple(self.days.times[source : target + 1].tolist()),
            self.names[members[source]],
            self.names[members[target]],
        )

    def one_side(self, day: int, earlier: bool) -> _Course:
        """The course of a day and of those before it, or after it, as if the others had not been measured."""
        days = self.days.until(day) if earlier else self.days.since(day)
        kept = np.isin(self.days.time, days.times)
        return _Course(days, self.names[kept], None if self.labels is None else self.labels[kept], self.options)

    def mass(self, population: Any, day: int) -> NDArray[np.float64]:
        """(n,) mass of a population on the cells of a day, of sum 1."""
        cells = self.days.members[day]
        return population_mass(population, cells, self.names, self.labels, float(self.days.times[day]))


class TimeCourseInference(PerturbationInference):
    """Methods of a trained model of a time course: couplings between its days, and populations followed in time."""

    #: The time course of the data, with a digest of the values it was made from.
    _course_cache: tuple[bytes, _Course] | None = None

    def get_coupling(self, source_time: float, target_time: float) -> Coupling:
        """Return the transport plan between the cells of two measured times.

        Each two successive days are coupled by entropic transport on the coordinates. Every cell of the later day has
        ancestors; a cell of the earlier day may have more or fewer descendants than the mean, as ``relaxation`` of
        :meth:`train` allows. Over several days the plans of the intervals are multiplied. Plans are computed when
        first needed; they are sparse, and their memory grows linearly with the cells: at most 2,048 entries for each
        cell and interval, 16 KB, and fewer where cells are close to few others.

        Parameters
        ----------
        source_time, target_time
            Two measured times; the source is the earlier one.

        Returns
        -------
        Coupling
            With ``push``, ``pull``, ``to_sparse`` and ``growth_rate``.

        Raises
        ------
        KeyError
            If no cell has the time; lists the times.
        ValueError
            If the source is not before the target; the cells are no time course (more than 100 times, or a time with
            fewer than ten cells); the model has no data, or they have changed since the fit.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=600, random_state=0)
        >>> adata.obs["day"] = (adata.obs["time"] * 3).round()
        >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="day", labels_key="branch")
        >>> model = muport.Velocity(adata)
        >>> model.train(n_steps=50, progress=False)
        >>> coupling = model.get_coupling(0, 1)
        >>> coupling.to_sparse().sum().round(3)
        np.float32(1.0)
        """
        course = self._course()
        return course.coupling(*_interval(course.days, source_time, target_time))

    def push_forward(
        self, population: Any, source_time: float, target_time: float, normalize: bool = True
    ) -> pd.Series:
        """Return where the descendants of a population are at a later measured time.

        Parameters
        ----------
        population
            A label, or a list of labels; or a mask, or masses of at least 0, over all cells (a Series is matched by
            name). Its cells of the source time are followed.
        source_time, target_time
            Two measured times; the source is the earlier one.
        normalize
            Scale the masses to sum 1. Otherwise a population of mass 1 with more descendants than the average has a
            mass above 1.

        Returns
        -------
        Mass of each cell of the target time, by name.

        Raises
        ------
        KeyError
            If a label or a time does not exist.
        ValueError
            As :meth:`get_coupling`; or for masses that are negative, not finite, or all zero at the source time.
        """
        course = self._course()
        source, target = _interval(course.days, source_time, target_time)
        mass = course.coupling(source, target).push(course.mass(population, source))
        return _as_series(mass, course.names[course.days.members[target]], normalize)

    def pull_back(self, population: Any, source_time: float, target_time: float, normalize: bool = True) -> pd.Series:
        """Return where the ancestors of a population of the target time were at an earlier measured time.

        Parameters
        ----------
        population
            As for :meth:`push_forward`; its cells of the target time are followed.
        source_time, target_time
            Two measured times; the source is the earlier one.
        normalize
            Scale the masses to sum 1. They sum to 1 without it too, up to rounding.

        Returns
        -------
        Mass of each cell of the source time, by name.

        Raises
        ------
        KeyError, ValueError
            As :meth:`push_forward`.
        """
        course = self._course()
        source, target = _interval(course.days, source_time, target_time)
        mass = course.coupling(source, target).pull(course.mass(population, target))
        return _as_series(mass, course.names[course.days.members[source]], normalize)

    def get_ancestors(self, population: Any, time: float) -> pd.Series:
        """Return the ancestors of a population at all earlier measured times.

        Parameters
        ----------
        population
            As for :meth:`push_forward`; its cells of `time` are followed.
        time
            A measured time.

        Returns
        -------
        Mass of each cell, in the order of the cells: at `time` that of the population, at each earlier time that of its
        ancestors; each of these sums to 1. NaN at later times.

        Raises
        ------
        KeyError, ValueError
            As :meth:`push_forward`.
        """
        return self._followed(population, time, forward=False)

    def get_descendants(self, population: Any, time: float) -> pd.Series:
        """Return the descendants of a population at all later measured times.

        Parameters
        ----------
        population
            As for :meth:`push_forward`; its cells of `time` are followed.
        time
            A measured time.

        Returns
        -------
        Mass of each cell, in the order of the cells: at `time` that of the population, at each later time that of its
        descendants; each of these sums to 1. NaN at earlier times.

        Raises
        ------
        KeyError, ValueError
            As :meth:`push_forward`.
        """
        return self._followed(population, time, forward=True)

    def get_transition_table(
        self,
        source_key: str,
        target_key: str | None = None,
        source_time: float | None = None,
        target_time: float | None = None,
        sample_key: str | None = None,
        n_bootstrap: int = 100,
        level: float = 0.9,
        random_state: int = 0,
    ) -> pd.DataFrame:
        """Return what fraction of the descendants of each annotation has each annotation later.

        Parameters
        ----------
        source_key, target_key
            Columns of ``obs`` with the annotations of the earlier and of the later cells; the same column by default.
        source_time, target_time
            Two measured times; the first and the last by default. Over several days plans are chained.
        sample_key
            Column of ``obs`` with the sample of each cell, such as the donor or the embryo. The intervals are then
            those of a bootstrap over samples, in place of cells: they contain the differences between samples.
        n_bootstrap
            Number of bootstrap replicates; without any, the intervals are NaN. The plans are kept as they are: the
            intervals do not contain their own uncertainty.
        level
            Coverage of the intervals, in (0, 1).
        random_state
            Seed of the bootstrap.

        Returns
        -------
        One row for each pair: ``source``, ``target``, ``n_source`` (cells), ``fraction``, ``lower``, ``upper``. The
        fractions of a source sum to 1 over the targets; cells without an annotation are left out.

        Raises
        ------
        KeyError
            If a column or a time does not exist.
        ValueError
            As :meth:`get_coupling`; if a day has no annotated cell, or both days have one sample only.

        Examples
        --------
        >>> import muport
        >>> adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=600, random_state=0)
        >>> adata.obs["day"] = (adata.obs["time"] * 3).round()
        >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="day")
        >>> model = muport.Velocity(adata)
        >>> model.train(n_steps=50, progress=False)
        >>> table = model.get_transition_table("branch", source_time=2, target_time=3)
        >>> list(table.columns)
        ['source', 'target', 'n_source', 'fraction', 'lower', 'upper']
        """
        check_integers(0, n_bootstrap=n_bootstrap)
        check_seed(random_state)
        check_numbers(1 - _MAX_BOOTSTRAP_LEVEL, _MAX_BOOTSTRAP_LEVEL, level=level)
        course = self._course()
        times = course.days.times
        ends = (times[0] if source_time is None else source_time, times[-1] if target_time is None else target_time)
        source, target = _interval(course.days, *ends)
        before = self._annotation(course, source, ("source_key", source_key), sample_key)
        named = ("source_key", source_key) if target_key is None else ("target_key", target_key)
        after = self._annotation(course, target, named, sample_key)
        if all(side.sample is not None and len(np.unique(side.sample)) < 2 for side in (before, after)):
            raise ValueError(
                f"sample_key={sample_key!r}: both days have cells of one sample only, from which no interval can be "
                "estimated: leave sample_key out for a bootstrap over cells."
            )
        return transition_table(course.coupling(source, target), before, after, n_bootstrap, level, random_state)

    def _annotation(self, course: _Course, day: int, named: tuple[str, str], sample_key: str | None) -> Annotation:
        """A column, and the samples, of the cells of a day; without the values that none of them has.

        - `named`: Argument that names the column, and the name.
        """
        argument, key = named
        data, cells = self._own_data("load it with its data, which hold the columns"), course.days.members[day]
        column = joined_column(data, key, argument)
        code = column.codes[cells]
        present = np.unique(code[code >= 0])
        if len(present) == 0:
            raise ValueError(f"{argument}={key!r} has no value in the cells of time {course.days.times[day]:g}.")
        position = np.full(len(column.names) + 1, -1, np.int64)
        position[present] = np.arange(len(present))
        sample = None
        if sample_key is not None:
            sample = joined_column(data, sample_key, "sample_key").codes[cells]
            if (sample < 0).any():
                raise ValueError(
                    f"sample_key={sample_key!r}: {int((sample < 0).sum())} cells of time {course.days.times[day]:g} "
                    "have no sample (NaN): give them one, or leave them out."
                )
        order = canonical_order(course.days.cells(day))
        return Annotation(position[code], tuple(column.names[i] for i in present), sample, order)

    def _followed(self, population: Any, time: float, *, forward: bool) -> pd.Series:
        """Mass of a population at one time, and of its descendants or ancestors at the times after or before it."""
        course = self._course()
        day = course.days.position(time, "time")
        mass = course.mass(population, day)
        result = np.full(len(course.names), np.nan)
        result[course.days.members[day]] = mass
        others = range(day + 1, len(course.days.times)) if forward else range(day - 1, -1, -1)
        for other in others:
            mass = course.plan(other - 1).push(mass) if forward else course.plan(other).pull(mass)
            mass = mass / mass.sum()
            result[course.days.members[other]] = mass
        return pd.Series(result, index=course.names, name="descendants" if forward else "ancestors")

    def _days(self, rows: Rows) -> Days:
        """The cells by day; a cell of several modalities has the mean of its coordinates, which share a space."""
        assert rows.time is not None  # for mypy; the set-up requires a time  # nosec B101
        batch = None
        if len(rows.batches) > 1:
            batch = np.zeros(rows.n_cells, np.int64)
            batch[rows.cell] = rows.batch
        data, setup = self._own_data("load it with its data"), self._setup
        growth = None
        if setup.growth_key is not None:
            growth = read_growth(data, setup.growth_key)
            check_growth(growth, rows.time, setup.growth_key, rows.obs_names)
        clones = None if setup.clone_key is None else read_clones(data, setup.clone_key)
        return Days(rows.to_cells(rows.x), rows.time, batch, growth, clones)

    def _select_hyperparameters(
        self, rows: Rows, options: VelocityHyperparameters
    ) -> tuple[VelocityHyperparameters, pd.DataFrame | None]:
        """Regularization and relaxation selected by held-out days, and the scores of all candidates.

        ValueError unless the cells are a time course of three or more times.
        """
        if options.select is None:
            return options, None
        days = self._days(rows)
        days.check()
        if len(days.times) < 3:
            raise ValueError(
                f"select={options.select!r} needs a day between others to leave out, but there are two times, "
                f"{days.times.tolist()}: leave select out."
            )
        held_out = HeldOutOptions(max_cells=_SELECTION_CELLS, random_state=options.random_state)
        selected, table = select_coupling(days, _coupling_options(options), held_out)
        return replace(options, reg_scale=selected.reg_scale, relaxation=selected.relaxation), table

    def _growth_field(self, rows: Rows, options: VelocityHyperparameters) -> GrowthField | None:
        """Growth rates, if they are asked for; ValueError unless the cells are a time course."""
        if not options.growth:
            return None
        days = self._days(rows)
        days.check()
        replicates = options.n_bootstrap
        return fit_growth(
            days, GrowthOptions(options.growth_relaxation, options.denoise, replicates, options.random_state)
        )

    def _couplings(self, n_neighbors: int) -> sp.csr_matrix:
        course = self._course()
        plans = [course.plan(day).plan for day in range(len(course.days.times) - 1)]
        return coupling_kernel(course.days.x, course.days.members, plans, n_neighbors)

    def _course(self) -> _Course:
        """The time course of the data; plans that were computed are kept while the data do not change."""
        state = self._fitted()
        self._own_data("load it with the cells it was trained on, between which the plans are computed")
        rows = self._rows()
        days = self._days(rows)
        digest = days.digest()
        if self._course_cache is None or self._course_cache[0] != digest:
            check_landmarks(rows, state.landmarks)
            days.check()
            coupling = _coupling_options(VelocityHyperparameters(**self.settings_))
            self._course_cache = digest, _Course(days, rows.obs_names, _label_names(rows), coupling)
        course = self._course_cache[1]
        # names and labels are not in the digest: they may change without a new plan
        return replace(course, days=days, names=rows.obs_names, labels=_label_names(rows))


def _coupling_options(options: VelocityHyperparameters) -> CouplingOptions:
    """How the days are coupled, by the hyperparameters of the model."""
    return CouplingOptions(options.reg_scale, options.relaxation, options.denoise, options.random_state)


def _label_names(rows: Rows) -> NDArray[np.str_] | None:
    return np.array([*rows.labels, UNLABELED_CATEGORY])[rows.label] if rows.labels else None


def _interval(days: Days, source_time: Any, target_time: Any) -> tuple[int, int]:
    """Positions of the two days; ValueError unless the first is the earlier one."""
    source, target = days.position(source_time, "source_time"), days.position(target_time, "target_time")
    if source >= target:
        raise ValueError(
            f"source_time={source_time!r} is not before target_time={target_time!r}: swap them; pull_back and "
            "get_ancestors go back in time."
        )
    return source, target


def _as_series(mass: NDArray[np.float64], names: pd.Index, normalize: bool) -> pd.Series:
    total = float(mass.sum())
    return pd.Series(mass / total if normalize and total > 0 else mass, index=names, name="mass")
