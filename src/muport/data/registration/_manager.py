"""Registration of cells that are not in every modality."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck, AnnTorchDataset
from torch.utils.data import Subset

from muport.data.reading._rows import read_rows
from muport.data.registration._fields import columns_of, fields_of
from muport.data.registration._outliers import warn_of_outliers
from muport.data.registration._pairing import check_pairings, compare_pairs
from muport.data.registration._setup import Setup, expand_use_rep, find_space_keys, select_modalities

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import anndata
    import mudata

    from muport.data._base_model import MuDataModel
    from muport.data.reading._rows import Rows

logger = logging.getLogger("muport")


class UnionDataset(AnnTorchDataset):  # type: ignore[misc]
    """Rows of ``mdata.obs``. A cell absent from a modality gets zeros there, and ``<key>_mask`` is False.

    Modalities are matched to cells by name, so an ``obsmap`` that is out of date does no harm.

    Parameters
    ----------
    adata_manager
        Manager of the data.
    getitem_tensors
        Registry keys to return; all of them by default.
    load_sparse_tensor
        Unused: representations are dense.
    """

    def __init__(
        self, adata_manager: UnionManager, getitem_tensors: Any = None, load_sparse_tensor: bool = False
    ) -> None:
        super().__init__(adata_manager, getitem_tensors, load_sparse_tensor)
        data = self.adata_manager.adata
        self._row = {m: a.obs_names.get_indexer(data.obs_names) for m, a in getattr(data, "mod", {}).items()}

    def __getitem__(self, index: Any) -> dict[str, torch.Tensor]:
        cells, out = np.atleast_1d(index), {}
        for key, dtype in self.keys_and_dtypes.items():
            modality = getattr(self.adata_manager.data_registry[key], "mod_key", None)
            row = cells if modality is None else self._row[modality][cells]
            block = np.zeros((len(cells), self.data[key].shape[1]), dtype)
            block[row >= 0] = _dense(self.data[key], row[row >= 0])
            out[key] = torch.as_tensor(block)
            if modality is not None:
                out[f"{key}_mask"] = torch.as_tensor(row >= 0)
        return out


def _dense(values: Any, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    block = values.iloc[rows].to_numpy() if hasattr(values, "iloc") else values[rows]
    return block.toarray() if hasattr(block, "toarray") else np.asarray(block)


class UnionManager(AnnDataManager):  # type: ignore[misc]
    """An scvi-tools manager that accepts modalities with different cells.

    Parameters
    ----------
    fields
        Fields to register.
    setup_method_args
        What the set-up method was called with.
    validation_checks
        Checks of the whole object; by default all but that every cell is in every modality.
    """

    def __init__(
        self,
        fields: list[Any] | None = None,
        setup_method_args: dict[str, Any] | None = None,
        validation_checks: AnnDataManagerValidationCheck | None = None,
    ) -> None:
        checks = validation_checks or AnnDataManagerValidationCheck(check_fully_paired_mudata=False)
        super().__init__(fields, setup_method_args, checks)

    def create_torch_dataset(
        self, indices: Sequence[int] | None = None, data_and_attributes: Any = None, load_sparse_tensor: bool = False
    ) -> UnionDataset | Subset[Any]:
        """Return the dataset over the rows of ``obs``, or a part of it."""
        data = UnionDataset(self, data_and_attributes, load_sparse_tensor)
        return data if indices is None else Subset(data, indices)


def register(
    cls: type[MuDataModel], data: mudata.MuData | anndata.AnnData, setup_method_args: dict[str, Any], **kwargs: Any
) -> None:
    """Check the whole of `data`, then register it with scvi-tools; data that are refused are unchanged.

    Parameters
    ----------
    cls
        Model class that sets the data up.
    data
        MuData or AnnData, not a view.
    setup_method_args
        What ``cls._get_setup_method_args(**locals())`` returned on the first line of the set-up method.
    kwargs
        Arguments of scvi-tools when it transfers a set-up: ``source_registry`` and its options.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`read_rows`; and for a view, names that are equal by chance, or categories that ``source_registry``
        does not know.
    """
    source = kwargs.get("source_registry")
    if source is None:
        setup_method_args = {**setup_method_args, "setup_args": expand_use_rep(data, setup_method_args["setup_args"])}
    setup = Setup.from_args({**cls._setup_defaults, **setup_method_args["setup_args"]})
    for argument, advice in cls._required_columns.items():
        if getattr(setup, argument) is None:
            raise TypeError(f"{argument}=None must be the name of a column: {advice}.")
    if source is None and kwargs:
        method = setup_method_args["setup_method_name"]
        raise TypeError(f"{', '.join(kwargs)} is no argument of {cls.__name__}.{method}: see its documentation.")
    # a model reads its modalities in the order of its first data, whatever the order of these
    columns = {} if source is None else columns_of(source)
    rows = read_rows(data, setup, columns=columns, require_labels=source is None)
    _refuse_views(data)
    if source is None:
        _refuse_constant_covariates(rows, setup)
        _refuse_missing_pairs(rows, setup)
    if setup.paired is None:
        check_pairings(compare_pairs(rows), concatenated=setup.concatenate)
    if source is None and cls._warns_of_outliers:
        warn_of_outliers(rows, find_space_keys(select_modalities(data, setup), setup))
    fields = fields_of(data, setup, [modality for modality, _ in columns])
    if source is not None:
        _check_source(fields, source)
    manager = UnionManager(fields, setup_method_args)
    with _restore_obs_on_error(data):
        manager.register_fields(data, **kwargs)
    cls.register_manager(manager)
    logger.info("%s is set up: %s.", cls.__name__, rows.summary())


def _refuse_views(data: mudata.MuData | anndata.AnnData) -> None:
    if data.is_view:
        raise ValueError(f"data is a view, which cannot be registered: pass {type(data).__name__.lower()}.copy().")
    views = [name for name, part in getattr(data, "mod", {}).items() if part.is_view]
    if views:
        raise ValueError(f"modality {views[0]!r} is a view, which cannot be registered: put its .copy() in mdata.mod.")


def _refuse_missing_pairs(rows: Rows, setup: Setup) -> None:
    if setup.paired is True and len(rows.modalities) > 1 and rows.n_paired == 0:
        raise ValueError(
            f"paired=True, but no cell name is in two of the modalities {list(rows.modalities)}: give the rows of one "
            "cell the same name, or pass paired=None."
        )


def _refuse_constant_covariates(rows: Rows, setup: Setup) -> None:
    for j, key in enumerate(setup.continuous_covariate_keys or ()):
        if rows.covariates is not None and np.ptp(rows.covariates[:, j]) == 0:
            raise ValueError(
                f"continuous_covariate_keys: {key!r} has the value {rows.covariates[0, j]:g} in all cells, which "
                "explains nothing: leave it out."
            )


def _check_source(fields: list[Any], source: dict[str, Any]) -> None:
    given, expected = sorted(f.registry_key for f in fields), sorted(source["field_registries"])
    if given != expected:
        raise ValueError(
            f"the data have the fields {given}, but the model was set up with {expected}: use_rep must name a space of "
            "the same type, in mdata.obsm or in the modalities."
        )


@contextmanager
def _restore_obs_on_error(data: mudata.MuData | anndata.AnnData) -> Iterator[None]:
    obs: Any = data.obs
    before = {c: obs[c].copy() for c in obs.columns if str(c).startswith("_scvi_")}
    try:
        yield
    except Exception:
        for column in [c for c in obs.columns if str(c).startswith("_scvi_")]:
            del obs[column]
        for column, values in before.items():
            obs[column] = values
        raise
