"""Base class of the models: cells read by name, one fitted state, save and load."""

from __future__ import annotations

import inspect
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import anndata
import torch
from scvi.data import AnnDataManager
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass
from sklearn.exceptions import NotFittedError

from muport.data._hidden_methods import HiddenMethod, ModelType, list_visible
from muport.data._model_copies import keep_whole, take_apart
from muport.data._model_files import data_file, read_model, write_model
from muport.data._model_summary import as_html, as_text, count_categories, describe_data, describe_values
from muport.data._saved_data import data_file_name, read_data, write_data
from muport.data._serialization import pack, unpack, unpack_state
from muport.data.projection._recipe import ProjectionRecipe, find_recipe
from muport.data.reading._rows import Rows, read_rows
from muport.data.registration._fields import JoinedObs, columns_of, modalities_of
from muport.data.registration._pairing import check_pairings, compare_pairs
from muport.data.registration._setup import Setup, select_modalities

if TYPE_CHECKING:
    import mudata
    import numpy as np
    from numpy.typing import NDArray

_PACKAGES = ("muport", "scvi-tools", "anndata", "mudata", "numpy", "torch", "safetensors")
_RECIPES = "projections_"
#: What scvi-tools needs of the registry of a set-up.
_REGISTRY = {"setup_method_name": str, "setup_args": dict, "field_registries": dict}


class NoNetwork(torch.nn.Module):
    """Module of a model without a network: it has a device and no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the module."""
        return self.get_buffer("anchor").device


class MuDataModel(BaseModelClass, metaclass=ModelType):  # type: ignore[misc]
    """Base class of the models: cells are matched by name, and a model has one fitted state.

    A subclass

    - sets `_state_class`: a frozen dataclass of arrays, numbers, strings, tuples, dicts and other such dataclasses;
    - defines ``setup_mudata`` and ``setup_anndata``, which call :func:`register`;
    - fills ``state_``, ``is_trained_``, ``history_``, ``settings_`` and ``metrics_`` in ``train``;
    - ends its ``__init__``, which takes ``registry=None``, with
      ``self.init_params_ = self._get_init_params(locals())``.

    Parameters
    ----------
    data
        MuData or AnnData that was set up with this class.
    registry
        Registry of such data, in place of `data`.
    """

    _state_class: ClassVar[type]
    #: Values of the fields of `Setup` that the set-up methods of the class have no argument for.
    _setup_defaults: ClassVar[dict[str, Any]] = {}
    #: Set-up arguments that cannot be None -> how to get such a column.
    _required_columns: ClassVar[dict[str, str]] = {}
    #: Cells that methods describe by default, of a model that :meth:`load_query_data` returned.
    _query: mudata.MuData | anndata.AnnData | None = None
    #: Whether the set-up warns of cells far from all others.
    _warns_of_outliers: ClassVar[bool] = True
    _saved_attributes: ClassVar[tuple[str, ...]] = ("is_trained_", "history_", "settings_", "metrics_")

    # scvi-tools has these in its base class, where they raise an error or read a pickle, which runs code.
    convert_legacy_save = HiddenMethod("load reads every version that muport has saved")
    differential_abundance = HiddenMethod("compare the numbers of cells of each type between samples")
    get_normalized_expression = HiddenMethod("get_corrected_expression of muport.Integration returns corrected values")

    def __dir__(self) -> list[str]:
        return list_visible(type(self), list(super().__dir__()))

    def __getstate__(self) -> dict[str, Any]:
        return take_apart(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(keep_whole(state))
        if self._adata_manager is not None:
            self._register_manager_for_instance(self._adata_manager)

    def __init__(
        self, data: mudata.MuData | anndata.AnnData | None = None, registry: dict[str, Any] | None = None
    ) -> None:
        super().__init__(data, registry)
        self.module = NoNetwork()
        self.state_: Any = None
        self.settings_: dict[str, Any] = {}
        #: Scores of the last fit, by name.
        self.metrics_: dict[str, float] = {}
        #: Modality -> key of ``obsm`` -> how new cells get these coordinates from their counts.
        self.projections_: dict[str, dict[str, ProjectionRecipe]] = {} if data is None else self._find_recipes(data)
        self._model_summary_string = f"{type(self).__name__} model"

    def _find_recipes(self, data: mudata.MuData | anndata.AnnData) -> dict[str, dict[str, ProjectionRecipe]]:
        """Read the recipes of the representations that the model uses."""
        parts = select_modalities(data, self._setup)
        recipes: dict[str, dict[str, ProjectionRecipe]] = {}
        for modality, key in columns_of(self.registry_):
            if (recipe := find_recipe(parts[modality], key)) is not None:
                recipes.setdefault(modality, {})[key] = recipe
        return recipes

    @staticmethod
    def _device(accelerator: str, devices: int | str) -> torch.device:
        """Return the device that the arguments of scvi-tools name; several devices are refused."""
        device: torch.device
        *_, device = parse_device_args(accelerator, devices, return_device="torch", validate_single_device=True)
        return device

    @property
    def _setup(self) -> Setup:
        return Setup.from_args({**self._setup_defaults, **self.registry_["setup_args"]})

    @property
    def _modalities(self) -> tuple[str, ...]:
        return modalities_of(self.registry_)

    @property
    def _known_names(self) -> dict[str, tuple[str, ...]]:
        """Registry key -> names of the categories that the model was set up with."""
        states = {key: field["state_registry"] for key, field in self.registry_["field_registries"].items()}
        key = JoinedObs.CATEGORICAL_MAPPING_KEY
        return {name: tuple(map(str, state[key])) for name, state in states.items() if key in state}

    def _rows(
        self,
        data: mudata.MuData | anndata.AnnData | None = None,
        *,
        require_batch: bool = True,
        require_time: bool = True,
        require_sample: bool = True,
    ) -> Rows:
        """Read the cells of the model, or `data`: new cells of at least one of its modalities, labeled or not."""
        if data is not None:
            rows = read_rows(
                data,
                self._setup,
                modalities=self._modalities,
                columns=columns_of(self.registry_),
                known=self._known_names,
                recipes=self.projections_,
                require_labels=False,
                require_batch=require_batch,
                require_time=require_time,
                require_sample=require_sample,
            )
            if self._setup.paired is None:
                check_pairings(compare_pairs(rows), concatenated=self._setup.concatenate, warn=False)
            return rows
        data = self._own_data()
        columns = columns_of(self.registry_)
        return read_rows(data, self._setup, columns=columns, known=self._known_names, require_labels=False)

    def _own_data(
        self, advice: str = "pass data to the method if it takes them, or load the model with its data"
    ) -> Any:
        """Return the data of the model; if it was loaded without data, the error ends with `advice`."""
        if self.adata is None and self._query is not None:
            raise ValueError(
                f"this {type(self).__name__} describes query cells by a fitted reference, whose data it does not have: "
                "it is not trained again, and methods that need the reference are called on the reference model."
            )
        if self.adata is None:
            raise ValueError(f"this {type(self).__name__} was loaded without data: {advice}.")
        return self.adata

    def _fitted(self) -> Any:
        """Return the fitted state, or raise an error if the model is not trained."""
        if self.state_ is None:
            raise NotFittedError(f"this {type(self).__name__} is not trained: call train() first.")
        return self.state_

    def map_query(self, mdata: mudata.MuData | anndata.AnnData) -> NDArray[np.float32]:
        """Map new cells into the latent space of the model, without a new fit.

        Parameters
        ----------
        mdata
            New cells with the representation of the set-up. They need not be set up, and none of the columns of the
            set-up is needed. A representation of :func:`muport.pp.prepare` may be missing: it is then projected from
            the counts (in ``layers["counts"]``, else ``X``).

        Returns
        -------
        (n_obs, d) float32 in the order of ``mdata.obs_names``, as :meth:`get_latent_representation` returns it.

        Raises
        ------
        KeyError, ValueError
            As :meth:`setup_mudata`; and if the cells have another number of coordinates than the model, or coordinates
            that another preparation gave.
        """
        latent: NDArray[np.float32] = self.get_latent_representation(mdata)
        return latent

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model as ``model.safetensors`` (arrays) and ``model.json`` (text); nothing is pickled.

        An earlier model in the directory is replaced only when the new one is complete.

        Parameters
        ----------
        dir_path
            Directory of the model.
        prefix
            Put before each file name.
        overwrite
            Replace a model in the directory; other files of the directory are kept.
        save_anndata
            Save the data too, as ``mdata.h5mu`` or ``adata.h5ad``.
        anndata_write_kwargs
            Passed to the writer of the data.

        Raises
        ------
        ValueError
            If `dir_path` exists and `overwrite` is False, or there are no data to save.
        """
        data = None
        if save_anndata:
            cells = self._own_data("save it with save_anndata=False")
            data = (data_file_name(cells), lambda path: write_data(cells, path, anndata_write_kwargs))
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        document = {"class": type(self).__name__, "versions": _versions()}
        for key, value in self._contents().items():
            document[key] = pack(value, key, tensors)
        write_model(Path(dir_path), prefix or "", document, tensors, overwrite, data)

    def _contents(self) -> dict[str, Any]:
        params = {**self.init_params_["non_kwargs"], **self.init_params_["kwargs"]}
        return {
            # the data are an argument of the subclass, too
            "init_params": {k: v for k, v in params.items() if k not in ("data", "adata", "mdata", "registry")},
            "registry": self.registry_,
            "attributes": {name: getattr(self, name) for name in self._saved_attributes}
            | {_RECIPES: {m: {k: r.to_dict() for k, r in part.items()} for m, part in self.projections_.items()}},
            "state": self.state_,
        }

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: mudata.MuData | anndata.AnnData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ) -> Self:
        """Load a saved model. No code in its files is run, and files that were changed are refused.

        Parameters
        ----------
        dir_path
            Directory of the model.
        adata
            Data for the model: the training data, or data with the same batches and labels, which are set up in the
            same way. None: the data saved with the model; if there are none, a warning. False: no data. Cells of new
            batches are passed to ``map_query`` of the loaded model.
        accelerator
            As in Lightning: "auto", "cpu", "gpu".
        device
            Number of the device; "auto" for the first.
        prefix
            Put before each file name.

        Returns
        -------
        The model with the same state, bit by bit.

        Raises
        ------
        FileNotFoundError
            If the directory has no model.
        ValueError
            If the model is of another class or of a newer version, was changed or damaged, or `adata` does not fit it.
            Every file has a checksum, the data too; and the numbers of the state are checked.
        """
        torch_device = cls._device(accelerator, device)
        folder = Path(dir_path)
        document, tensors = read_model(folder, prefix or "")
        if document["class"] != cls.__name__:
            raise ValueError(f"{str(folder)!r} holds a {document['class']}, not a {cls.__name__}.")
        try:
            contents = _unpack_contents(document, tensors)
            recipes = _unpack_recipes(contents["attributes"].pop(_RECIPES, {}))
            state = None if document["state"] is None else unpack_state(document["state"], tensors, cls._state_class)
        except ValueError as error:
            raise ValueError(f"{str(folder)!r} was changed or damaged after it was saved: {error}") from error
        data = _saved_data(folder, document) if adata is None else (None if adata is False else adata)
        try:
            model = cls._from_contents(contents, data)
        except KeyError as error:
            fix = "New cells are not set up: pass them to load_query_data, or to a model loaded with adata=False."
            raise KeyError(f"{error.args[0]} {fix}" if adata is data else error.args[0]) from error
        model.state_, model.projections_ = state, recipes
        model.to_device(torch_device)
        model.module.eval()
        return model

    @classmethod
    def load_query_data(
        cls,
        adata: mudata.MuData | anndata.AnnData,
        reference_model: str | Path | Self,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Return a fitted reference whose methods describe new cells, under the name that scvi-tools has for it.

        The cells are mapped as by :meth:`map_query`; nothing is fitted, so there is no ``train`` to call.
        ``get_latent_representation()``, ``predict()`` and the other methods for new cells take `adata` by default.

        Parameters
        ----------
        adata
            New cells, as for :meth:`map_query`.
        reference_model
            Directory of a saved model, or a trained model of this class.
        accelerator, device
            As in :meth:`load`.

        Returns
        -------
        A model with the state of the reference and without its data.

        Raises
        ------
        KeyError, ValueError
            As :meth:`map_query` and :meth:`load`.
        TypeError
            If `reference_model` is a model of another class.
        sklearn.exceptions.NotFittedError
            If the reference is not trained.
        """
        if isinstance(reference_model, str | Path):
            model = cls.load(reference_model, adata=False, accelerator=accelerator, device=device)
        elif isinstance(reference_model, cls):
            model = cls._from_contents(reference_model._contents(), None)
            model.state_, model.projections_ = reference_model._fitted(), reference_model.projections_
            model.to_device(cls._device(accelerator, device))
        else:
            raise TypeError(
                f"reference_model is a {type(reference_model).__name__}, expected {cls.__name__} or a path."
            )
        model._fitted()
        model._rows(adata, require_batch=False, require_time=False, require_sample=False)
        model._query = adata
        return model

    def __repr__(self) -> str:
        """Describe the model in a table of at most 80 characters a line."""
        return as_text(*self._summary())

    def _repr_html_(self) -> str:
        return as_html(*self._summary())

    def _summary(self) -> tuple[str, dict[str, str]]:
        """Return a title, and what describes the model, by name."""
        title = f"muport.{type(self).__name__}, {'Trained' if self.is_trained_ else 'Not Trained'}"
        setup = {key: value for key, value in self.registry_["setup_args"].items() if key != "unlabeled_category"}
        params = {**self.init_params_["non_kwargs"], **self.init_params_["kwargs"]}
        rows = {
            "query cells" if self._query is not None else "data": describe_data(
                self.adata if self._query is None else self._query
            ),
            "set-up": describe_values(setup),
            "categories": describe_values(count_categories(self._known_names, self.registry_["setup_args"])),
            "options": describe_values(params),
            "metrics": describe_values(self.metrics_),
        }
        return title, {name: text for name, text in rows.items() if text}

    @staticmethod
    def load_registry(dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Return the registry of a saved model; no code in its files is run.

        Parameters
        ----------
        dir_path
            Directory of the model.
        prefix
            Put before each file name.

        Raises
        ------
        FileNotFoundError, ValueError
            As :meth:`load`.
        """
        document, tensors = read_model(Path(dir_path), prefix or "")
        return _unpack_contents(document, tensors)["registry"]

    @staticmethod
    def view_setup_args(dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the arguments of the set-up of a saved model.

        Parameters
        ----------
        dir_path
            Directory of the model.
        prefix
            Put before each file name.

        Raises
        ------
        FileNotFoundError, ValueError
            As :meth:`load`.
        """
        AnnDataManager.view_setup_method_args(MuDataModel.load_registry(dir_path, prefix))

    @classmethod
    def _from_contents(cls, contents: dict[str, Any], data: mudata.MuData | anndata.AnnData | None) -> Self:
        registry, params = contents["registry"], contents["init_params"]
        if unknown := sorted(set(params) - set(inspect.signature(cls).parameters)):
            raise ValueError(f"the saved model has the parameters {unknown}, which {cls.__name__} does not have.")
        if data is None:
            model = cls(None, registry=registry, **params)
        else:
            method = cls.setup_anndata if isinstance(data, anndata.AnnData) else cls.setup_mudata
            if registry["setup_method_name"] != method.__name__:
                raise TypeError(
                    f"the model was set up by {registry['setup_method_name']}: adata is {type(data).__name__}."
                )
            method(data, source_registry=registry, **registry["setup_args"])
            model = cls(data, **params)
        for name, value in contents["attributes"].items():
            if name in cls._saved_attributes:
                setattr(model, name, value)
        return model


def _unpack_contents(document: dict[str, Any], tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, dict[str, Any]]:
    """Unpack the parts of a model beside its state, each of which is a dict."""
    contents = {key: unpack(document[key], tensors) for key in ("init_params", "registry", "attributes")}
    if wrong := [key for key, value in contents.items() if not isinstance(value, dict)]:
        raise ValueError(f"{wrong} of the saved model are not dicts.")
    if wrong := [key for key, kind in _REGISTRY.items() if not isinstance(contents["registry"].get(key), kind)]:
        raise ValueError(f"the registry of the saved model lacks {wrong}.")
    return contents


def _unpack_recipes(values: Any) -> dict[str, dict[str, ProjectionRecipe]]:
    """Return the recipes of a saved model; models of earlier versions have none."""
    recipes: dict[str, dict[str, ProjectionRecipe]] = {}
    try:
        for modality, of_modality in values.items():
            for key, recipe in of_modality.items():
                read = ProjectionRecipe.from_dict(recipe, f"the projection {key!r} of {modality!r}")
                recipes.setdefault(modality, {})[key] = read
    except AttributeError as error:
        raise ValueError(f"the projections are no dicts: {error}") from error
    return recipes


def _saved_data(folder: Path, document: dict[str, Any]) -> mudata.MuData | anndata.AnnData | None:
    saved = data_file(folder, document)
    if saved is None:
        warnings.warn("no data were saved with the model: it is loaded without data.", UserWarning, stacklevel=4)
        return None
    return read_data(*saved)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
