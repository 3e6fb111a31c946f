"""The Integration model: MuData in, one latent space and labels out."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport._checks import check_seed
from muport._keys import REGISTRY_KEYS, UNLABELED_CATEGORY
from muport._parallel import single_threaded
from muport.data import register
from muport.integration._fitted_state import GroupMap, IntegrationState, standardize, transform_cells
from muport.integration._hyperparameters import Hyperparameters
from muport.integration._inference import IntegrationInference, Mapped, batch_of_cell, get_own_views
from muport.integration._working_space import (
    embed_rows,
    find_fitted_group,
    fit_space,
    make_network_views,
    separate_paired_cells,
    split_modality_set,
)
from muport.integration.atlas._centroid_fit import fit_centroids
from muport.integration.labels._label_transfer import fit_labels
from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.scbiot._scbiot_fit import fit_scbiot
from muport.integration.shared_centers._fit import FitOptions, IntegrationFit, fit_shared_centers
from muport.integration.shared_centers._merge_batches import merge_batches
from muport.integration.shared_centers._new_groups import fit_new_groups
from muport.integration.spaces._joint_space import JointSpace
from muport.integration.vae._network_fit import fit_network
from muport.integration.vae._vae_options import TrainingOptions, VAEOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.integration._working_space import EmbeddedRows
    from muport.integration.labels._label_transfer import OwnViews

__all__ = ["Integration"]

_ALGORITHMS = {"shared": fit_shared_centers, "scbiot": fit_scbiot}
_NO_REFERENCE = ("auto", "union")  # references that leave no group in place
_HISTORY = ("theta", "move", "change")
_MOST_ROWS = 500_000  # that are fitted whole; of more, a sample of each group is


class Integration(IntegrationInference):
    """Batches and modalities, paired, partly paired or unpaired, brought together by optimal transport.

    Every group of cells (a batch, or a batch of one modality) is summarised by prototypes, which are transported onto
    centres that all groups share: unbalanced, so that a type that a group lacks is not dragged along. Displacements are
    taken from the original prototypes, shrunk where groups disagree, joined with a Bures map of each group's shape,
    refined between mutual nearest prototypes, and sharpened. Where a permutation test finds no batch effect, cells stay
    where they are. One map serves training cells and new ones. Beyond 500,000 rows a sample of each group is fitted, at
    most 64 MB of it; :func:`muport.integrate_centroids` does without the others in memory, too.

    Modalities meet in the representation they share (``shared_rep``), or, from 30 cells on that are in both, in a joint
    space that is learnt from those cells: each cell has its weight for each modality, and what a cell was not measured
    in is filled in from those that were. Modalities without either meet by their geometry alone (Gromov-Wasserstein).

    Parameters
    ----------
    mdata
        MuData or AnnData set up with :meth:`setup_mudata` or :meth:`setup_anndata`.
    strength
        How far cells move toward the other groups, 0..1; 0 leaves all where they are.
    conservation
        How much of the input's structure is kept, 0..1; 0 keeps nothing back.
    prototypes
        How finely groups are resolved, 0..1; 0 moves each as one block.
    sharpen
        Pull toward cluster centres, 0..1; 0 for none. It makes clusters crisper at the cost of structure within them:
        use .3 or less before velocity or trajectories.
    supervision
        Weight of known labels in the transport, 0..1; 0 ignores them. Labels act if ``labels_key`` was set up and at
        least two groups hold some.
    projector
        Residual refinement between mutual nearest neighbours of different groups, 0..1; 0 for none.
    reference
        ``"auto"`` and ``"union"`` let all groups meet half-way; ``"largest"`` keeps the largest group (batch of a
        modality) in place, and the name of a batch, or of a modality beside others, keeps that one in place. Sharpening
        acts on all cells: with ``sharpen=0`` the reference does not move at all, so that a shared representation of
        unpaired modalities is taken as it is; otherwise their own representations take noise from it.
    algorithm
        ``"shared"``, or ``"scbiot"`` for the scBIOT paper's loop with its mathematics repaired, which scores lower.
    refine
        ``"vae"``: pass the integrated cells through the dual-view VAE with prototype losses. ``"none"``: do not.
    vae_kwargs
        How: ``encoder`` (``"mlp"`` or ``"transformer"``), ``n_latent``, ``views`` (``"embedding"``: two scalings of the
        integrated cells; ``"modalities"``: two modalities of a joint space), and the paper's constants, ``beta``,
        ``n_prototypes``, ``proto_tau``, ``cosface_m``, ``repulse_target``, ``conf_thr``, ``label_eps``,
        ``proto_ema_m``, ``lam_clust``, ``lam_center``, ``lam_repulse``, ``lam_margin``, ``lam_sup``, ``lam_cons``.
    registry
        Registry of data, in place of `mdata`.

    Raises
    ------
    ValueError
        If a hyperparameter is outside 0..1, or `reference`, `algorithm`, `refine` or a key of `vae_kwargs` is unknown.

    Examples
    --------
    >>> import muport
    >>> mdata = muport.datasets.simulated_multiome(n_cells=300, random_state=0)
    >>> mdata["rna"].obsm["X_pca"] = mdata["rna"].X[:, :10].toarray()
    >>> rna = mdata["rna"].copy()
    >>> muport.Integration.setup_anndata(rna, use_rep="X_pca", batch_key="batch")
    >>> model = muport.Integration(rna)
    >>> model.train(progress=False)
    >>> model.get_latent_representation().shape
    (300, 10)

    References
    ----------
    Zhang and Qin, scBIOT: Eqs 1-22 of its extended methods. The differences are listed on the methods page.
    """

    _state_class: ClassVar[type] = IntegrationState
    _setup_defaults: ClassVar[dict[str, Any]] = {"separate": True}

    def __init__(
        self,
        mdata: mudata.MuData | anndata.AnnData | None = None,
        strength: float = 0.5,
        conservation: float = 0.5,
        prototypes: float = 0.5,
        sharpen: float = 0.5,
        supervision: float = 0.5,
        projector: float = 0.5,
        reference: str = "auto",
        algorithm: str = "shared",
        refine: str = "none",
        vae_kwargs: Mapping[str, Any] | None = None,
        registry: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(mdata, registry)
        self._hyperparameters = Hyperparameters(strength, conservation, prototypes, sharpen, supervision, projector)
        if algorithm not in _ALGORITHMS:
            raise ValueError(f"algorithm={algorithm!r} is unknown: use one of {', '.join(map(repr, _ALGORITHMS))}.")
        self._algorithm = algorithm
        self._reference = self._check_reference(reference)
        self._vae_options = VAEOptions.from_args(refine, vae_kwargs)
        self._model_summary_string = (
            f"Integration with {self._hyperparameters}, reference={reference!r}, {algorithm=}, {refine=}"
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def _batches(self) -> tuple[str, ...]:
        state = self.registry_["field_registries"][REGISTRY_KEYS.BATCH_KEY]["state_registry"]
        return tuple(str(name) for name in state["categorical_mapping"])

    def _check_reference(self, reference: str) -> str:
        modalities = self._modalities if len(self._modalities) > 1 else ()
        known = (*_NO_REFERENCE, "largest", *self._batches, *modalities)
        if reference not in known:
            raise ValueError(f"reference={reference!r} is unknown: use one of {', '.join(map(repr, known))}.")
        return reference

    @classmethod
    def setup_mudata(
        cls,
        mdata: mudata.MuData,
        use_rep: Mapping[str, str] | str | None = {"rna": "X_pca"},
        batch_key: str | None = "batch",
        labels_key: str | None = None,
        unlabeled_category: str = UNLABELED_CATEGORY,
        shared_rep: Mapping[str, str] | str | None = None,
        paired: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a MuData. A name in two modalities is one cell; modalities may hold different cells.

        Parameters
        ----------
        mdata
            Object to register; it is checked whole before anything is written to it.
        use_rep
            Modality -> ``obsm`` key of its own representation, or one key for all. With one modality this is the space
            that is integrated. With several it informs label transfer within each modality; None for no such space.
        batch_key
            Column with the batch of each cell, in ``mdata.obs`` or in the modalities. None: one batch (per modality).
        labels_key
            Column with the type of each cell, wherever it is known.
        unlabeled_category
            Value of that column for cells without a label; missing values mean the same.
        shared_rep
            ``obsm`` key (or modality -> key) of a space that the modalities share; needed with several modalities.
        paired
            None: a name in two modalities is one cell, and the counts are logged. False: such a name is an error.
            True: every cell must be in every modality.
        kwargs
            For scvi-tools, which passes ``source_registry`` when it transfers a set-up.

        Raises
        ------
        KeyError
            If a modality, ``obsm`` key or column is missing; says which exist.
        ValueError
            If representations are not finite or not of one width, cells have no batch, repeat or collide.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        register(cls, mdata, setup_method_args, **kwargs)

    @classmethod
    def setup_anndata(
        cls,
        adata: anndata.AnnData,
        use_rep: str = "X_pca",
        batch_key: str | None = "batch",
        labels_key: str | None = None,
        unlabeled_category: str = UNLABELED_CATEGORY,
        **kwargs: Any,
    ) -> None:
        """Register an AnnData: the same as a MuData of one modality.

        Parameters
        ----------
        adata
            Object to register.
        use_rep
            ``obsm`` key of the representation that is integrated.
        batch_key
            Column of ``obs`` with the batch of each cell. None: one batch.
        labels_key
            Column of ``obs`` with the type of each cell.
        unlabeled_category
            Value of that column for cells without a label; missing values mean the same.
        kwargs
            For scvi-tools, as in :meth:`setup_mudata`.

        Raises
        ------
        KeyError, ValueError
            As :meth:`setup_mudata`.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        register(cls, adata, setup_method_args, **kwargs)

    def train(
        self,
        max_iter: int = 15,
        approximate: bool = False,
        accelerator: str = "auto",
        devices: int | str = "auto",
        random_state: int = 0,
        progress: bool = True,
        max_epochs: int | None = None,
        batch_size: int | None = None,
        lr: float = 1e-3,
        early_stopping: bool = True,
        plan_kwargs: Mapping[str, Any] | None = None,
        trainer_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Fit the integration, and, if labels are known, what :meth:`predict` needs.

        The arguments from `max_epochs` on are for ``refine="vae"``.

        Parameters
        ----------
        max_iter
            Most outer iterations.
        approximate
            Stop the inner transport after at most 10 sweeps.
        accelerator, devices
            As in Lightning. A GPU serves the transport and the neighbour search.
        random_state
            Seed; the same seed gives the same result, bit by bit.
        progress
            Show a progress bar.
        max_epochs, batch_size, lr, early_stopping
            Of the network: by default 20 to 60 epochs, about 300 steps, and an eighth of the cells, 64 to 1,024.
        plan_kwargs, trainer_kwargs
            For the training plan (``weight_decay``) and scvi-tools' trainer (``enable_checkpointing``, ``logger``...).

        Raises
        ------
        ValueError
            If `max_iter` is not a positive integer, `random_state` is negative or no integer, `reference` names every
            group, or the model was loaded without data.
        """
        if isinstance(max_iter, bool) or not isinstance(max_iter, int | np.integer) or max_iter < 1:
            raise ValueError(f"max_iter={max_iter!r} must be an integer of at least 1.")
        check_seed(random_state)
        device = self._device(accelerator, devices)
        rows = self._rows()
        with single_threaded():
            denoise = self._reference in _NO_REFERENCE
            space = fit_space(rows, seed=int(random_state), device=str(device), denoise_shared=denoise)
            embedded = embed_rows(rows, space)
            options = FitOptions(int(max_iter), approximate, (), random_state, str(device))
            found = self._fit(embedded.rows, options, progress)
            state = replace(found.state, space=space, batches=rows.batches)
            self.state_ = _with_labels(state, embedded.rows, rows, options) if rows.labels else state
        self.metrics_ = found.metrics
        self.history_ = {
            name: pd.DataFrame({name: [row[i] for row in found.history]}).rename_axis("iteration")
            for i, name in enumerate(_HISTORY)
        }
        if self._vae_options.enabled:
            training = TrainingOptions(
                max_epochs, batch_size, lr, early_stopping, accelerator, devices, int(random_state), progress,
                plan_kwargs, trainer_kwargs,
            )  # fmt: skip
            self._refine(embedded, training)
        self.settings_ = {"max_iter": int(max_iter), "approximate": approximate, "random_state": random_state}
        self.is_trained_ = True
        self.to_device(device)

    def _fit(self, rows: Rows, options: FitOptions, progress: bool) -> IntegrationFit:
        label = rows.label[rows.cell] if rows.labels else None
        fixed = self._fixed_groups(rows)
        pool, pools = merge_batches(
            rows.x, rows.group, rows.groups, _blocks(rows, fixed), self._hyperparameters, options.seed
        )
        in_place = tuple(dict.fromkeys(pools[pool[group]] for group in fixed))
        with _bar(options, progress) as tell:
            found = self._solve(rows, pool[rows.group], pools, label, in_place, options, tell)
        member = tuple(found.state.groups.index(pools[p]) for p in pool)
        return replace(found, state=replace(found.state, groups=rows.groups, map_of_group=member))

    def _solve(
        self,
        rows: Rows,
        group: NDArray[np.int64],
        names: tuple[str, ...],
        label: NDArray[np.int64] | None,
        fixed: tuple[str, ...],
        options: FitOptions,
        tell: Callable[[str], None],
    ) -> IntegrationFit:
        if self._algorithm == "shared" and len(rows.x) > _MOST_ROWS:
            labels = None if label is None else lambda: [(0, label)]
            return fit_centroids(
                lambda start, stop: rows.x[start:stop],
                lambda: [(0, group)],
                names,
                rows.x.shape,
                self._hyperparameters,
                options,
                labels=labels,
                fixed=fixed,
                progress=tell,
            )
        cells = standardize_cells(rows.x, group, names, label)
        options = replace(options, fixed_groups=tuple(i for i, name in enumerate(cells.names) if name in fixed))
        return _ALGORITHMS[self._algorithm](cells, self._hyperparameters, options, tell)

    def _refine(self, embedded: EmbeddedRows, training: TrainingOptions) -> None:
        state, rows = self.state_, embedded.rows
        with single_threaded():
            y = transform_cells(rows.x, _codes(rows, state), state, device=self._search_device)
        first, second = make_network_views(y, embedded, state.space, self._vae_options.by_modality)
        fit = fit_network(
            first, batch_of_cell(rows, state.batches), len(state.batches), label=rows.label if rows.labels else None,
            second=second, options=self._vae_options, training=training,
        )  # fmt: skip
        self.state_ = replace(state, network=fit.network)
        for name, values in fit.history.items():
            self.history_[name] = pd.DataFrame({name: values}).rename_axis("epoch")

    def _fixed_groups(self, rows: Rows) -> tuple[int, ...]:
        """Codes of the groups that stay in place."""
        wanted = self._reference
        if wanted in _NO_REFERENCE:
            return ()
        if wanted == "largest":
            return (int(np.bincount(rows.group).argmax()),)
        batch, modality = _of_group(rows)
        chosen = [
            wanted == rows.batches[b] or wanted in split_modality_set(rows.modalities[m])
            for b, m in zip(batch, modality, strict=True)
        ]
        if all(chosen) and len(chosen) > 1:
            raise ValueError(f"reference={wanted!r} names all of {list(rows.groups)}: nothing would be left to move.")
        return tuple(np.flatnonzero(chosen).tolist())

    @property
    def _search_device(self) -> str | None:
        device = str(self.device)
        return None if device == "cpu" else device

    def _mapped(self, data: mudata.MuData | anndata.AnnData | None, sharpening: float | None = None) -> Mapped:
        """Integrate the model's cells or new ones; groups that the model does not know are mapped first."""
        state: IntegrationState = self._fitted()
        if sharpening is not None:
            # what tells labels must not have been told by them
            state = replace(state, sharpening=sharpening, types=None)
        rows = self._rows(data)
        with single_threaded():
            embedded = embed_rows(rows, state.space)
            x = embedded.rows.x
            embedded.rows.check_width(len(state.center))
            maps = (*state.maps, *self._new_maps(embedded.rows, state))
            codes = _codes(embedded.rows, state)
            return Mapped(rows, embedded, transform_cells(x, codes, state, maps=maps, device=self._search_device))

    def _new_maps(self, rows: Rows, state: IntegrationState) -> tuple[GroupMap, ...]:
        unknown = _unknown(rows, state)
        if not unknown:
            return ()
        codes = np.array([unknown.index(name) if name in unknown else -1 for name in rows.groups])[rows.group]
        chosen = codes >= 0
        cells = standardize_cells(rows.x[chosen], codes[chosen], unknown, scaling=(state.center, state.scale))
        options = FitOptions(
            self.settings_["max_iter"], self.settings_["approximate"], (), self.settings_["random_state"],
            str(self.device),
        )  # fmt: skip
        found = dict(zip(cells.names, fit_new_groups(cells, state, self._hyperparameters, options), strict=True))
        return tuple(found[name] for name in unknown)


def _of_group(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(G,) batch and modality of each group."""
    first = np.unique(rows.group, return_index=True)[1]
    return rows.batch[first], rows.modality[first]


def _blocks(rows: Rows, fixed: tuple[int, ...]) -> dict[str, NDArray[np.int64]]:
    """Modality -> its groups, which may be pooled; not with one modality, nor if only some of them stay in place."""
    if len(rows.modalities) < 2:
        return {}
    _, modality = _of_group(rows)
    blocks = {name: np.flatnonzero(modality == code) for code, name in enumerate(rows.modalities)}
    return {name: groups for name, groups in blocks.items() if np.isin(groups, fixed).mean() in (0, 1)}


def _codes(rows: Rows, state: IntegrationState) -> NDArray[np.int64]:
    """(n_rows,) position of each row's map; those of unknown groups come after the fitted ones."""
    position = dict(zip(state.groups, state.map_of_group, strict=True))
    position |= {name: len(state.maps) + i for i, name in enumerate(_unknown(rows, state))}
    fitted = [_fitted_group(name, state) or name for name in rows.groups]
    codes: NDArray[np.int64] = np.array([position[name] for name in fitted], dtype=np.int64)[rows.group]
    return codes


def _fitted_group(name: str, state: IntegrationState) -> str | None:
    if isinstance(state.space, JointSpace):
        return find_fitted_group(name, state.groups)
    return name if name in state.groups else None


def _unknown(rows: Rows, state: IntegrationState) -> tuple[str, ...]:
    return tuple(name for name in rows.groups if _fitted_group(name, state) is None)


def _with_labels(state: IntegrationState, embedded: Rows, rows: Rows, options: FitOptions) -> IntegrationState:
    # votes are taken before sharpening, which moves cells of a small type into their neighbours' centres, and before
    # types are set apart, which would be taught by the labels that confidence is checked on
    plain = replace(state, sharpening=0.0, types=None)
    parts, cell = [embedded], embedded.cell
    starts: tuple[int, ...] = ()
    if isinstance(state.space, JointSpace):
        starts = state.space.starts
        separate, separate_cell = separate_paired_cells(rows)
        if len(separate_cell):
            parts, cell = [embedded, embed_rows(separate, state.space).rows], np.concatenate([cell, separate_cell])
    moved = [transform_cells(one.x, _codes(one, state), plain, device=options.search_device) for one in parts]
    z = standardize(np.concatenate(moved), state.center, state.scale)
    labels = fit_labels(z, rows.label[cell], rows.labels, _views_of(parts), options.seed, cell, len(embedded.x), starts)
    return replace(state, labels=labels)


def _views_of(parts: list[Rows]) -> OwnViews:
    """Views of rows that follow each other."""
    views, start = get_own_views(parts[0]), len(parts[0].x)
    for one in parts[1:]:
        for name, (rows, values) in get_own_views(one).items():
            before = views.get(name)
            if before is not None and before[1] is not None and values is not None:
                views[name] = np.append(before[0], start + rows), np.concatenate([before[1], values])
            else:
                views[name] = start + rows, values
        start += len(one.x)
    return views


@contextmanager
def _bar(options: FitOptions, show: bool) -> Iterator[Callable[[str], None]]:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not show, transient=True) as bar:
        task = bar.add_task("start", total=2 * options.max_iter + 6)
        yield lambda stage: bar.update(task, advance=1, description=stage)
