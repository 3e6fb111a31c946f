"""The results of a fitted integration, written to the data under the names that scanpy and muon read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport._checks import check_flags, check_integers, check_keys, check_seed
from muport._keys import RESULT_KEYS
from muport.data import (
    check_names_free,
    check_writable,
    compute_graph,
    is_own_graph,
    select_modalities,
    write_results,
)
from muport.integration._inference import IntegrationInference, check_prediction, choose_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata
    import mudata
    import pandas as pd

    from muport.data import Setup
    from muport.integration._fitted_state import IntegrationState
    from muport.integration._working_space import IntegratedRows

__all__ = ["ResultWriting"]

#: Fewest cells of a neighbor graph: scanpy needs two neighbors of a cell.
_FEWEST_CELLS = 3
_DEFAULT_GRAPH = "neighbors"  # the graph that scanpy reads without a name


class ResultWriting(IntegrationInference):
    """The method of a trained model that writes its results to the data."""

    def write(
        self,
        mdata: mudata.MuData | anndata.AnnData | None = None,
        key: str = RESULT_KEYS.LATENT,
        *,
        n_neighbors: int | None = 15,
        key_added: str | None = None,
        threshold: float | None = None,
        overwrite: bool = False,
        random_state: int = 0,
    ) -> None:
        """Write the results to the data: coordinates, labels, modality weights, and a neighbor graph.

        Afterwards ``sc.tl.umap``, ``sc.tl.leiden`` and other functions of a neighbor graph run on the AnnData or MuData
        without further arguments. The data can be the cells of the model or new cells, which are mapped without a new
        fit. Everything is computed and checked before anything is written.

        Parameters
        ----------
        mdata
            Data to write to, with the cells as for :meth:`map_query`; by default the data of the model.
        key
            Key of ``obsm`` for the integrated coordinates.
        n_neighbors
            Number of neighbors of a cell in the graph, itself included, as in ``sc.pp.neighbors``; at least 2. None:
            no graph.
        key_added
            Name of the graph, as in ``sc.pp.neighbors``. None: ``"neighbors"``, which scanpy reads by default. With
            another name, pass ``neighbors_key=key_added`` to scanpy.
        threshold
            Probability, 0..1, below which a cell gets the unlabeled category, as in :meth:`predict`.
        overwrite
            Replace what the data hold under these names, also when :meth:`write` wrote it. If False, names that are
            taken are refused; only a neighbor graph of :func:`muport.pp.prepare` or :meth:`write` that was not changed
            since is replaced.
        random_state
            Seed of the neighbor search, which is random above 8,000 cells.

        Returns
        -------
        None. Writes to `mdata` itself, not to its modalities:

        ``obsm[key]``
            Integrated coordinates, (n_obs, d) float32, as :meth:`get_latent_representation` returns them.
        ``obs["prediction"]``, ``obs["prediction_confidence"]``
            Label of each cell and its probability, if the model has labels; see :meth:`predict`.
        ``obs["<modality>:mod_weight"]``
            Weight of each modality in each cell, if the model has several; see :meth:`get_modality_weights`. The
            name is that of ``mu.pp.neighbors``.
        ``obsp["distances"]``, ``obsp["connectivities"]``, ``uns["neighbors"]``
            The graph that ``sc.pp.neighbors(mdata, n_neighbors, use_rep=key)`` computes, of exact neighbors up to
            50,000 cells. With `key_added`, ``obsp[f"{key_added}_distances"]``, ``obsp[f"{key_added}_connectivities"]``
            and ``uns[key_added]``.

        Raises
        ------
        KeyError, ValueError
            As :meth:`map_query`; and if a name is taken, is read by the model, `mdata` is a view or has fewer than 3
            cells, a number is out of range, or there is a `threshold` without labels.
        TypeError
            If a name is not a string, or `overwrite` is not True or False.
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.

        Examples
        --------
        >>> import muport, scanpy as sc
        >>> adata = muport.datasets.pbmc68k_reduced()
        >>> muport.Integration.setup_anndata(adata, batch_key=None)
        >>> model = muport.Integration(adata)
        >>> model.train(progress=False)
        >>> model.write(adata, overwrite=True)  # in place of the graph of X_pca
        >>> sc.tl.umap(adata)
        """
        state: IntegrationState = self._fitted()
        data = self._own_data("pass the data to write to") if mdata is None else mdata
        select_modalities(data, self._setup, self._modalities)
        _check_arguments(key, key_added, n_neighbors, threshold)
        check_flags(overwrite=overwrite)
        check_seed(random_state)
        key_added = None if key_added == _DEFAULT_GRAPH else key_added
        if state.labels is None and threshold is not None:
            raise ValueError(f"threshold={threshold!r} is for labels, and the model has none: leave it out.")
        names = self._result_names(key, key_added, n_neighbors is not None)
        _check_not_read(self._setup, names)
        check_writable(data)
        advice = "choose other names with key= and key_added=, or rename what is there"
        replaceable = () if not is_own_graph(data, key_added or _DEFAULT_GRAPH) else ("uns", "obsp")
        taken = {where: keys for where, keys in names.items() if where not in replaceable}
        check_names_free(data, taken, overwrite, advice)
        if n_neighbors is not None and data.n_obs < _FEWEST_CELLS:
            raise ValueError(f"{data.n_obs} cells are too few for a neighbor graph: pass n_neighbors=None.")
        integrated = self._integrate(mdata)
        latent = np.require(self._latent(integrated), requirements=["C", "W"])
        obs = {**self._label_columns(mdata, integrated, threshold), **self._weight_columns(integrated)}
        graph = (
            {}
            if n_neighbors is None
            else compute_graph(latent, int(n_neighbors), key, key_added=key_added, random_state=random_state)
        )
        write_results(data, {"obsm": {key: latent}, "obs": obs, **graph})

    def _result_names(self, key: str, key_added: str | None, graph: bool) -> dict[str, list[str]]:
        """Return the names that :meth:`write` writes, by attribute."""
        obs = [RESULT_KEYS.PREDICTION, RESULT_KEYS.CONFIDENCE] if self.state_.labels is not None else []
        obs += _weight_names(self._modalities).values()
        names = {"obsm": [key], "obs": obs}
        if graph:
            prefix = "" if key_added is None else f"{key_added}_"
            names["uns"] = [key_added or _DEFAULT_GRAPH]
            names["obsp"] = [f"{prefix}distances", f"{prefix}connectivities"]
        return names

    def _label_columns(
        self, mdata: mudata.MuData | anndata.AnnData | None, integrated: IntegratedRows, threshold: float | None
    ) -> dict[str, pd.Series]:
        if self.state_.labels is None:
            return {}
        plain = self._integrate(mdata, sharpening=0.0, embedded_as=integrated)
        probabilities = self._label_probabilities(plain)
        labels = choose_labels(probabilities, threshold, self._setup)
        return {RESULT_KEYS.PREDICTION: labels, RESULT_KEYS.CONFIDENCE: probabilities.max(axis=1)}

    def _weight_columns(self, integrated: IntegratedRows) -> dict[str, pd.Series]:
        names = _weight_names(self._modalities)
        if not names:
            return {}
        weights = self._modality_weights(integrated)
        return {name: weights[modality] for modality, name in names.items()}


def _weight_names(modalities: tuple[str, ...]) -> dict[str, str]:
    """Return the columns of the modality weights, by modality: those of muon; none for one modality."""
    return {modality: f"{modality}:mod_weight" for modality in modalities} if len(modalities) > 1 else {}


def _check_arguments(key: object, key_added: object, n_neighbors: object, threshold: float | None) -> None:
    check_keys(key=key)
    if key_added is not None:
        check_keys(key_added=key_added)
    if n_neighbors is not None:
        check_integers(2, n_neighbors=n_neighbors)
    check_prediction(False, threshold)


def _check_not_read(setup: Setup, names: dict[str, list[str]]) -> None:
    """Raise a ValueError if a name is one that the model reads: its input would be lost."""
    representations = [*_strings(setup.use_rep), *_strings(setup.shared_rep)]
    columns = [name for argument, value in vars(setup).items() if "_key" in argument for name in _strings(value)]
    for where, read in (("obsm", representations), ("obs", columns)):
        for key in names[where]:
            if key in read:
                raise ValueError(f"{where}[{key!r}] is read by the model, and is not overwritten: choose another name.")


def _strings(value: Any) -> Iterator[str]:
    """Return the strings of a string, a mapping to strings, or a sequence of strings."""
    if isinstance(value, str):
        yield value
    elif value is not None:
        yield from value.values() if hasattr(value, "values") else value
