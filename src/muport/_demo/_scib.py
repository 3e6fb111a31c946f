"""scib-metrics' scores, where the package is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np

from muport._keys import RESULT_KEYS
from muport.neighbors import knn

if TYPE_CHECKING:
    import mudata

    from muport._demo._integrate import Scores

_ROWS = ("Bio conservation", "Batch correction", "Total")


def scib_scores(mdata: mudata.MuData) -> Scores:
    """Return the aggregate scores before and after, without kBET, which alone takes longer than all the rest.

    Parameters
    ----------
    mdata
        One modality with ``obsm["X_pca"]``, ``batch`` and ``cell_type``, and the integrated space.

    Returns
    -------
    The scores; none if scib-metrics is not installed.
    """
    if find_spec("scib_metrics") is None:
        return {}
    from scib_metrics.benchmark import BatchCorrection, Benchmarker

    (cells,) = mdata.mod.values()
    spaces: dict[str, Any] = {
        "before": np.asarray(cells.obsm["X_pca"], np.float32),
        "after": np.asarray(mdata.obsm[RESULT_KEYS.LATENT]),
    }
    adata = anndata.AnnData(obs=cells.obs[["batch", "cell_type"]].astype("category"), obsm=spaces)
    bench = Benchmarker(
        adata, "batch", "cell_type", list(spaces), batch_correction_metrics=BatchCorrection(kbet_per_label=False),
        pre_integrated_embedding_obsm_key="before", progress_bar=False,
    )  # fmt: skip
    bench.prepare(neighbor_computer=_neighbors)
    bench.benchmark()
    table = bench.get_results(min_max_scale=False)
    return {row: (float(table.loc["before", row]), float(table.loc["after", row])) for row in _ROWS}


def _neighbors(x: Any, k: int) -> Any:
    from scib_metrics.nearest_neighbors import NeighborsResults

    found = knn(np.asarray(x), min(k, len(x)), include_self=True)
    return NeighborsResults(indices=found.indices, distances=found.distances)
