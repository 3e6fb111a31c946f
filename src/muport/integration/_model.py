"""The Integration model: the set-up of the data, the options, and the training."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport._checks import check_integers, check_option, check_seed
from muport._keys import REGISTRY_KEYS, UNLABELED_CATEGORY
from muport._parallel import single_threaded
from muport.data import check_pairings, choose_batch_key, compare_pairs, match_names, pairing_metrics, register
from muport.integration._batch_design import MODALITY, Strengths
from muport.integration._cell_maps import assign_maps, describe_groups
from muport.integration._design_of_rows import build_design, embed_and_fit_covariates
from muport.integration._fitted_cells import code_cells
from muport.integration._fitted_state import IntegrationState, transform_cells
from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration._inference import find_batch_of_cell
from muport.integration._label_fit import add_labels
from muport.integration._working_space import alignment_metrics, fit_space, make_network_views, split_modality_set
from muport.integration._written_results import ResultWriting
from muport.integration.atlas._centroid_fit import fit_centroids
from muport.integration.atlas._sampling import CellSource
from muport.integration.batch_variables._confounding import design_of_batches
from muport.integration.prototypes._standardized_cells import order_by_group, standardize_cells
from muport.integration.scbiot._scbiot_fit import fit_scbiot
from muport.integration.shared_centers._diagnostics import describe_metrics
from muport.integration.shared_centers._fit import IntegrationFit, fit_shared_centers
from muport.integration.shared_centers._merge_batches import merge_batches
from muport.integration.shared_centers._variable_maps import describe_variables, measure_covariates
from muport.integration.vae._network_fit import fit_network
from muport.integration.vae._vae_options import TrainingOptions, VAEOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.integration._working_space import EmbeddedRows

__all__ = ["Integration"]

_ALGORITHMS = {"shared": fit_shared_centers, "scbiot": fit_scbiot}
_NO_REFERENCE = ("auto", "union")  # values of `reference` with which all groups move
_HISTORY = ("theta", "move", "change")
_MAX_ROWS = 500_000  # with more rows, a sample of each group is fitted


class Integration(ResultWriting):
    """Integrate batches and modalities by optimal transport.

    All cells get coordinates in one space, in which cells of one type are close, whatever their batch and modality. The
    modalities may be paired, partly paired or unpaired.

    A group is a batch, or with several modalities a batch of one modality. Each group is summarized by prototypes
    (k-means centers), which are transported to centers that all groups share. The transport is unbalanced: cells do not
    have to move to a type that their group lacks. The displacements of the prototypes are shrunk where groups disagree
    or differ by chance, combined with a map of the shape of each group, refined between mutual nearest prototypes, and
    followed by a gentle pull toward cluster centers. If no test finds a batch effect, cells stay where they are.
    Training cells and new cells go through the same map. With more than 500,000 rows, a sample of each group is fitted,
    at most 64 MB in all; :func:`muport.integrate_centroids` also leaves the other cells on disk.

    Modalities that have 30 cells or more in common are compared in a joint space, which is fitted on those cells if
    they agree better than permuted ones (see ``paired`` in :meth:`setup_mudata`). There
    each cell has a weight for each modality, and the modalities that it lacks are predicted from those that it has.
    With fewer such cells, modalities are compared in the representation that they share (``shared_rep``). Without one,
    they are aligned by their geometry alone (Gromov-Wasserstein).

    Parameters
    ----------
    mdata
        MuData or AnnData set up with :meth:`setup_mudata` or :meth:`setup_anndata`.
    strength
        How far cells move toward the other groups, 0..1; with 0 all cells stay where they are, and from 0.5 on the
        whole displacement is applied. With several batch variables (``batch_key`` is a list), or covariates, a dict
        may give each its own strength: ``{"donor": 1, "condition": 0}`` removes the effect of the donors and leaves
        that of the condition as it is. Variables that it does not name have 0.5. What the levels of several variables
        have in common only, an interaction, is removed by the smallest of the strengths.
    conservation
        How much of the structure of the input is kept, 0..1; with 0 nothing holds cells back.
    prototypes
        How finely the groups are resolved, 0..1; with 0 each group moves as one block.
    sharpen
        Strength of the pull toward cluster centers, 0..1; 0 for none. At 0.5 at most a hundredth of the neighbors of a
        cell within its batch change. At 1 clusters become clearer, but a fifth of these neighbors are lost.
    supervision
        Weight of the known labels in the transport, 0..1; with 0 they are ignored. Labels are used if ``labels_key``
        was set up and at least two groups have some.
    projector
        Strength of the refinement between mutual nearest neighbors of different groups (MNN refinement), 0..1; 0 for
        none.
    reference
        ``"auto"`` or ``"union"``: all groups move. ``"largest"``: the largest group does not move. The name of a batch,
        or of a modality if there are several: its groups do not move. Sharpening acts on all cells, so only with
        ``sharpen=0`` the reference is returned as it is. A representation that unpaired modalities share is denoised by
        their own representations, unless a group is the reference.
    algorithm
        ``"shared"``: the method described above. ``"scbiot"``: the loop of the scBIOT paper with corrected mathematics,
        which has lower scores.
    refine
        ``"vae"``: the integrated cells are passed through a VAE with two views of each cell and prototype losses.
        ``"none"``: they are not.
    vae_kwargs
        Options of the VAE: ``encoder`` (``"mlp"`` or ``"transformer"``), ``n_latent``, ``views`` (``"embedding"``: two
        scalings of the integrated cells; ``"modalities"``: the two modalities of a joint space), and the constants of
        the paper: ``beta``, ``n_prototypes``, ``proto_tau``, ``cosface_m``, ``repulse_target``, ``conf_thr``,
        ``label_eps``, ``proto_ema_m``, ``lam_clust``, ``lam_center``, ``lam_repulse``, ``lam_margin``, ``lam_sup``,
        ``lam_cons``.
    registry
        Registry of data, in place of `mdata`.

    Raises
    ------
    ValueError
        If a hyperparameter is outside 0..1, `strength` names what is no batch variable or covariate, or `reference`,
        `algorithm`, `refine` or a key of `vae_kwargs` is unknown.

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

    With two batch variables, the effect of one is removed, and that of the other is kept:

    >>> rna.obs["condition"] = ["control", "treated", "treated"] * 100
    >>> muport.Integration.setup_anndata(rna, use_rep="X_pca", batch_key=["batch", "condition"])
    >>> model = muport.Integration(rna, strength={"batch": 1, "condition": 0})
    >>> model.train(progress=False)
    >>> bool(model.metrics_["r2_left_batch"] < model.metrics_["r2_batch"] / 5)
    True

    References
    ----------
    Zhang and Qin, scBIOT: Eqs 1-22 of its extended methods. The differences are listed on the methods page.
    """

    _state_class: ClassVar[type] = IntegrationState
    _setup_defaults: ClassVar[dict[str, Any]] = {"separate": True, "crossed": True}

    def __init__(
        self,
        mdata: mudata.MuData | anndata.AnnData | None = None,
        strength: float | Mapping[str, float] = 0.5,
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
        self._strengths = self._check_strength(strength)
        self._hyperparameters = Hyperparameters(
            self._strengths.fit, conservation, prototypes, sharpen, supervision, projector
        )
        check_option("algorithm", algorithm, _ALGORITHMS)
        self._algorithm = algorithm
        self._reference = self._check_reference(reference)
        self._vae_options = VAEOptions.from_args(refine, vae_kwargs)
        if not self._strengths.are_equal and (algorithm != "shared" or self._vae_options.enabled):
            raise ValueError(f"strength={strength!r} differs: it needs algorithm='shared' and refine='none'.")
        self._model_summary_string = (
            f"Integration with {self._hyperparameters}, {strength=}, reference={reference!r}, {algorithm=}, {refine=}"
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def _batches(self) -> tuple[str, ...]:
        state = self.registry_["field_registries"][REGISTRY_KEYS.BATCH_KEY]["state_registry"]
        return tuple(str(name) for name in state["categorical_mapping"])

    def _check_strength(self, strength: Any) -> Strengths:
        setup = self._setup
        modalities = (MODALITY,) if len(self._modalities) > 1 else ()
        return Strengths.of(strength, (*setup.batch_keys, *modalities), setup.continuous_covariate_keys or ())

    def _check_reference(self, reference: str) -> str:
        modalities = self._modalities if len(self._modalities) > 1 else ()
        known = (*_NO_REFERENCE, "largest", *self._batches, *modalities)
        if isinstance(reference, str) and reference not in known:
            # a batch 1.0 has the name "1"
            reference = match_names([(reference,)], self._batches)[0][0]
        check_option("reference", reference, known)
        return reference

    @classmethod
    def setup_mudata(
        cls,
        mdata: mudata.MuData,
        use_rep: Mapping[str, str] | str | None = "X_pca",
        batch_key: str | Sequence[str] | None = "auto",
        labels_key: str | None = None,
        unlabeled_category: str = UNLABELED_CATEGORY,
        shared_rep: Mapping[str, str] | str | None = None,
        paired: bool | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Set up a MuData. Cells are matched by name: a name in two modalities is one cell, if the data agree.

        Parameters
        ----------
        mdata
            Data to set up; modalities may have different cells. Everything is checked before anything is written to it.
        use_rep
            Modality -> ``obsm`` key of its own representation, or one key: all modalities that have it take part, and
            a log line names those that do not. With one modality, this is the representation that is integrated. With
            several, own representations are used for the joint space, for the alignment without shared features, to
            denoise ``shared_rep``, and to predict labels; None for no own representations.
        batch_key
            Column with the batch of each cell, in ``mdata.obs`` or in the modalities; or a list of columns, for
            example donor and platform, each combination of which is a batch, such as ``"donor1|v2"``. None: one batch.
            ``"auto"``: the column ``"batch"``, or None if there is none; a log line names it.
        labels_key
            Column with the type of each cell, where it is known.
        unlabeled_category
            Value of that column for cells without a label; missing values mean the same.
        shared_rep
            ``obsm`` key, or modality -> key, of a representation with the same coordinates in all modalities. None if
            there is none.
        paired
            Whether a name in two modalities is one cell. None: it is tested whether the cells of equal names agree
            better than permuted ones. If not, they are refused, or there is a warning where that is not certain; names
            that prove nothing are not used to align modalities that have other cells, too. True: they are one cell,
            without a test; each cell must be in each modality. False: equal names are refused, because a row of
            ``mdata.obs`` is one cell. Equal names of different cells must be made distinct:
            ``for m, a in mdata.mod.items(): a.obs_names = m + ":" + a.obs_names``, then ``mdata = MuData(mdata.mod)``.
        continuous_covariate_keys
            Columns with numbers, for example the sequencing depth, whose linear effect on the coordinates of the
            cells of one kind and batch is removed.
        kwargs
            For scvi-tools, which passes ``source_registry`` when it transfers a set-up.

        Raises
        ------
        KeyError
            If a modality, an ``obsm`` key or a column is missing; the message lists those that exist.
        ValueError
            If a representation or a covariate has entries that are not finite, a covariate is constant or holds text,
            the widths of a shared representation differ, a cell has no batch, a column is named twice, or names are
            repeated, are equal by chance or do not fit `paired`.
        """
        batch_key = choose_batch_key(mdata, batch_key)
        setup_method_args = cls._get_setup_method_args(**locals())
        register(cls, mdata, setup_method_args, **kwargs)

    @classmethod
    def setup_anndata(
        cls,
        adata: anndata.AnnData,
        use_rep: str = "X_pca",
        batch_key: str | Sequence[str] | None = "auto",
        labels_key: str | None = None,
        unlabeled_category: str = UNLABELED_CATEGORY,
        continuous_covariate_keys: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Set up an AnnData, as a MuData of one modality.

        Parameters
        ----------
        adata
            Data to set up.
        use_rep
            ``obsm`` key of the representation that is integrated.
        batch_key
            Column of ``obs`` with the batch of each cell, or a list of columns; None and ``"auto"`` as in
            :meth:`setup_mudata`.
        labels_key
            Column of ``obs`` with the type of each cell, where it is known.
        unlabeled_category
            Value of that column for cells without a label; missing values mean the same.
        continuous_covariate_keys
            Columns with numbers whose effect is removed, as in :meth:`setup_mudata`.
        kwargs
            For scvi-tools, as in :meth:`setup_mudata`.

        Raises
        ------
        KeyError, ValueError
            As :meth:`setup_mudata`.
        """
        batch_key = choose_batch_key(adata, batch_key)
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
        """Fit the integration; with labels, also what :meth:`predict` needs. ``metrics_`` then says what was changed.

        The arguments from `max_epochs` on are used with ``refine="vae"`` only.

        Parameters
        ----------
        max_iter
            Largest number of outer iterations, at least 1.
        approximate
            Stop each inner transport after 10 sweeps, for speed.
        accelerator, devices
            As in Lightning. On a GPU, the transport and the neighbor search run there.
        random_state
            Seed, at least 0; the same seed gives the same result, bit by bit.
        progress
            Whether to show a progress bar, and to print how far cells moved and what they kept.
        max_epochs
            Largest number of epochs. None: the number that makes about 300 steps, 20 to 60.
        batch_size
            Cells of a minibatch. None: an eighth of all cells, 64 to 1,024.
        lr
            Largest learning rate, above 0.
        early_stopping
            Stop when the loss of held-out cells no longer falls.
        plan_kwargs
            Further arguments of the training plan: ``weight_decay``.
        trainer_kwargs
            Further arguments of scvi-tools' trainer: ``enable_checkpointing`` (return to the best epoch), ``logger``,
            ``callbacks`` and so on.

        Raises
        ------
        ValueError
            If a number is out of range, `reference` names all groups, batch variables that divide the cells alike have
            different strengths, or the model was loaded without data.
        """
        check_integers(max_iter=max_iter)
        check_seed(random_state)
        device = self._device(accelerator, devices)
        rows = self._rows()
        # batch variables that cannot be separated are refused before anything is fitted
        design_of_batches(rows.batches, np.bincount(rows.batch, minlength=len(rows.batches)).tolist(), self._strengths)
        with single_threaded():
            pairings = compare_pairs(rows) if self._setup.paired is None else ()
            check_pairings(pairings, warn=False)
            space = fit_space(
                rows,
                seed=int(random_state),
                device=str(device),
                denoise_shared=self._reference in _NO_REFERENCE,
                unproved=[p.modalities for p in pairings if p.verdict != "proved" and not p.complete],
            )
            options = FitOptions(
                int(max_iter), approximate, (), random_state, str(device), match_shapes=self._match_shapes
            )
            before, embedded, covariates = embed_and_fit_covariates(
                rows, space, self._strengths, options.seed, options.search_device
            )
            fit = self._fit_groups(embedded.rows, options, progress)
            state = replace(fit.state, space=space, batches=rows.batches, covariates=covariates, cells=code_cells(rows))
            self.metrics_ = {**fit.metrics, **pairing_metrics(pairings), **alignment_metrics(space)}
            if rows.covariates is not None:
                after, values = embedded.rows, rows.covariates[embedded.rows.cell]
                codes = assign_maps(after, state)
                self.metrics_ |= measure_covariates(before.rows.x, after.x, codes, values, state, options.seed)
            self.state_ = add_labels(state, embedded.rows, rows, options) if rows.labels else state
        description = describe_variables(state, self.metrics_)
        if progress:
            print("\n".join(filter(None, [describe_metrics(self.metrics_, len(embedded.rows.groups)), description])))
        self.history_ = {
            name: pd.DataFrame({name: [row[i] for row in fit.history]}).rename_axis("iteration")
            for i, name in enumerate(_HISTORY)
        }
        if self._vae_options.enabled:
            how = max_epochs, batch_size, lr, early_stopping, accelerator, devices
            training = TrainingOptions(*how, int(random_state), progress, plan_kwargs, trainer_kwargs)
            self._fit_network(embedded, training)
        self.settings_ = {"max_iter": int(max_iter), "approximate": approximate, "random_state": random_state}
        self.is_trained_ = True
        self.to_device(device)

    def _fit_groups(self, rows: Rows, options: FitOptions, progress: bool) -> IntegrationFit:
        """Merge the batches between which there is no batch effect, and fit the groups."""
        label = rows.label[rows.cell] if rows.labels else None
        fixed = self._find_fixed_groups(rows)
        merged_of_group, names = merge_batches(
            rows.x, rows.group, rows.groups, _find_mergeable_groups(rows, fixed), self._hyperparameters, options.seed
        )
        options = replace(options, design=build_design(rows, merged_of_group, names, self._strengths))
        fixed_names = tuple(dict.fromkeys(names[merged_of_group[group]] for group in fixed))
        with _progress_bar(options, progress) as report:
            fit = self._run_algorithm(rows, merged_of_group[rows.group], names, label, fixed_names, options, report)
        map_of_group = tuple(fit.state.groups.index(names[merged]) for merged in merged_of_group)
        return replace(fit, state=replace(fit.state, groups=rows.groups, map_of_group=map_of_group))

    def _run_algorithm(
        self,
        rows: Rows,
        group: NDArray[np.int64],
        names: tuple[str, ...],
        label: NDArray[np.int64] | None,
        fixed: tuple[str, ...],
        options: FitOptions,
        report: Callable[[str], None],
    ) -> IntegrationFit:
        if self._algorithm == "shared" and len(rows.x) > _MAX_ROWS:
            labels = None if label is None else lambda: [(0, label)]
            source = CellSource(
                lambda start, stop: rows.x[start:stop], lambda: [(0, group)], names, rows.x.shape, labels
            )
            return fit_centroids(source, self._hyperparameters, options, fixed=fixed, progress=report)
        cells = standardize_cells(rows.x, group, names, label)
        options = replace(options, fixed_groups=tuple(i for i, name in enumerate(cells.group_names) if name in fixed))
        return _ALGORITHMS[self._algorithm](cells, self._hyperparameters, options, report)

    def _fit_network(self, embedded: EmbeddedRows, training: TrainingOptions) -> None:
        """Train the VAE on the integrated cells, and add it to the fitted state."""
        state, rows = self.state_, embedded.rows
        with single_threaded():
            y = transform_cells(rows.x, assign_maps(rows, state), state, device=self._search_device)
        first, second = make_network_views(y, embedded, state.space, self._vae_options.by_modality)
        # batches in an order that does not depend on their names: the network has inputs for each
        batches = tuple(rows.batches[code] for code in order_by_group(rows.x, rows.batch, len(rows.batches))[1])
        fit = fit_network(
            first,
            find_batch_of_cell(rows, batches),
            len(batches),
            label=rows.label if rows.labels else None,
            second=second,
            options=self._vae_options,
            training=training,
        )
        self.state_ = replace(state, network=fit.network, batches=batches)
        for name, values in fit.history.items():
            self.history_[name] = pd.DataFrame({name: values}).rename_axis("epoch")

    def _find_fixed_groups(self, rows: Rows) -> tuple[int, ...]:
        """Find the codes of the groups that do not move."""
        if self._reference in _NO_REFERENCE:
            return ()
        if self._reference == "largest":
            return (int(np.bincount(rows.group).argmax()),)
        batch, modality = describe_groups(rows)
        members = [{name} if name in self._modalities else split_modality_set(name) for name in rows.modalities]
        fixed = [
            self._reference == rows.batches[b] or self._reference in members[m]
            for b, m in zip(batch, modality, strict=True)
        ]
        if not any(fixed):
            raise ValueError(
                f"reference={self._reference!r} has no cells: name one of the batches {list(rows.batches)}, "
                "a modality, or 'auto'."
            )
        if all(fixed) and len(fixed) > 1:
            raise ValueError(
                f"reference={self._reference!r} names all of {list(rows.groups)}: nothing would be left to move."
            )
        return tuple(np.flatnonzero(fixed).tolist())


def _find_mergeable_groups(rows: Rows, fixed: tuple[int, ...]) -> dict[str, NDArray[np.int64]]:
    """Find, for each modality, its groups, whose batches may be merged.

    With one modality there are none: a batch effect is then tested over all groups in the fit. Nor are there any in a
    modality of which some groups move and others do not.
    """
    if len(rows.modalities) < 2:
        return {}
    _, modality = describe_groups(rows)
    groups_of_modality = {name: np.flatnonzero(modality == code) for code, name in enumerate(rows.modalities)}
    return {name: groups for name, groups in groups_of_modality.items() if np.isin(groups, fixed).mean() in (0, 1)}


@contextmanager
def _progress_bar(options: FitOptions, show: bool) -> Iterator[Callable[[str], None]]:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not show, transient=True) as bar:
        # with labels the transport is fitted twice; there are about six other stages
        task = bar.add_task("start", total=2 * options.max_iter + 6)
        yield lambda stage: bar.update(task, advance=1, description=stage)
