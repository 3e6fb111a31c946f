"""One fit per example, with scores before and after integration. Cell types and true values serve the scores only."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd

from muport._keys import RESULT_KEYS
from muport.integration import Integration
from muport.metrics import batch_mixing, foscttm, knn_labels, label_transfer, velocity_error
from muport.neighbors import knn
from muport.velocity import Velocity, fate_probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport._demo._examples import Example

#: Name of a score -> its value before and after integration.
Scores = dict[str, tuple[float, float]]

#: Branches are scored for cells between these times, of [0, 1]; later cells define the ends of the branches.
_FATE_TIMES = 0.6, 0.9
_SCIB_SCORES = ("Bio conservation", "Batch correction", "Total")


@dataclass
class Outcome:
    """The result of one example.

    - `example`: The data, with the results of the model.
    - `model`: The fitted model.
    - `before`, `after`: (n_cells, d) coordinates before and after integration, in the order of ``mdata.obs_names``.
    - `scores`: Scores before and after.
    - `seconds`: Time of the fit and of the scores.
    """

    example: Example
    model: Integration | Velocity
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    scores: Scores
    seconds: float = 0.0


def integrate_batches(example: Example, seed: int) -> Outcome:
    """Integrate the batches of one modality."""
    outcome = _integrate(example, seed)
    (cells,) = example.mdata.mod.values()
    cell_type = cells.obs["cell_type"].to_numpy(str)
    outcome.scores |= _accuracy(cell_type, *(knn_labels(x, cell_type) for x in (outcome.before, outcome.after)))
    return outcome


def integrate_modalities(example: Example, seed: int) -> Outcome:
    """Integrate unpaired RNA and ATAC and transfer labels; the score before is a vote in the shared space."""
    mdata, true_types, partner = example.mdata, example.true_types, example.partner
    if true_types is None or partner is None:
        raise ValueError(f"example {example.name!r} has no true types and partners.")
    outcome = _integrate(
        example, seed, key="X_shared", group="modality", use_rep={"rna": "X_pca", "atac": "X_lsi"},
        shared_rep="X_shared", labels_key="cell_type",
    )  # fmt: skip
    before, after = outcome.before, outcome.after
    mdata.obs[RESULT_KEYS.PREDICTION] = outcome.model.predict()
    mdata.obs[RESULT_KEYS.CONFIDENCE] = outcome.model.predict(soft=True).max(axis=1)
    rna, atac, paired_rna = (mdata.obs_names.get_indexer(x) for x in (mdata["rna"].obs_names, partner.index, partner))
    vote = knn_labels(before[rna], mdata["rna"].obs["cell_type"].to_numpy(str), query=before[atac])
    outcome.scores |= _accuracy(true_types, vote, mdata.obs[RESULT_KEYS.PREDICTION].loc[true_types.index])
    outcome.scores["FOSCTTM"] = foscttm(before[paired_rna], before[atac]), foscttm(after[paired_rna], after[atac])
    return outcome


def fit_velocities(example: Example, seed: int) -> Outcome:
    """Fit the velocity of a process in two spaces: that of its unintegrated batches, and the integrated one."""
    # sharpening moves cells of one type together, and would mix their times
    outcome = _integrate(example, seed, sharpen=0.0)
    (cells,) = example.mdata.mod.values()
    scores = []
    for use_rep in ({"cells": "X_pca"}, RESULT_KEYS.LATENT):
        Velocity.setup_mudata(example.mdata, use_rep=use_rep, time_key="time", labels_key="cell_type")
        outcome.model = Velocity(example.mdata)
        outcome.model.train(random_state=seed, progress=False)
        error = velocity_error(outcome.model.get_velocity(), cells.obsm["velocity"])
        scores.append((error.cosine, error.cosine_p05, _fate_score(outcome.model, cells.obs)))
    outcome.scores |= dict(zip(("cosine", "5th pct.", "fate"), zip(*scores, strict=True), strict=True))
    return outcome


def _integrate(
    example: Example, seed: int, *, key: str = "X_pca", group: str = "batch", sharpen: float = 0.5, **setup: Any
) -> Outcome:
    """Integrate an example, and score how the groups mix; `key` names the coordinates before the integration."""
    mdata = example.mdata
    Integration.setup_mudata(mdata, **({"use_rep": key} | setup), batch_key="batch")
    model = Integration(mdata, sharpen=sharpen)
    model.train(random_state=seed, progress=False)
    mdata.obsm[RESULT_KEYS.LATENT] = after = model.get_latent_representation()
    cells = anndata.concat(list(mdata.mod.values()))[mdata.obs_names]
    before = np.asarray(cells.obsm[key], np.float32)
    codes = (mdata if group in mdata.obs else cells).obs[group].to_numpy(str)
    return Outcome(example, model, before, after, {"mixing": (batch_mixing(before, codes), batch_mixing(after, codes))})


def scib_scores(outcome: Outcome) -> Scores:
    """Return the aggregate scores of scib-metrics, without kBET, which takes longer than all other scores."""
    from scib_metrics.benchmark import BatchCorrection, Benchmarker
    from scib_metrics.nearest_neighbors import NeighborsResults

    def neighbors(x: Any, k: int) -> Any:
        result = knn(np.asarray(x), min(k, len(x)), include_self=True)
        return NeighborsResults(indices=result.indices, distances=result.distances)

    (cells,) = outcome.example.mdata.mod.values()
    spaces: dict[str, Any] = {"before": outcome.before, "after": outcome.after}
    adata = anndata.AnnData(obs=cells.obs[["batch", "cell_type"]].astype("category"), obsm=spaces)
    benchmark = Benchmarker(
        adata, "batch", "cell_type", list(spaces), batch_correction_metrics=BatchCorrection(kbet_per_label=False),
        pre_integrated_embedding_obsm_key="before", progress_bar=False,
    )  # fmt: skip
    benchmark.prepare(neighbor_computer=neighbors)
    benchmark.benchmark()
    table = benchmark.get_results(min_max_scale=False)
    return {row: (float(table.loc["before", row]), float(table.loc["after", row])) for row in _SCIB_SCORES}


def check_scib() -> None:
    """Raise a ModuleNotFoundError if scib-metrics is not installed."""
    if find_spec("scib_metrics") is None:
        raise ModuleNotFoundError("--scib needs scib-metrics: pip install 'muport[metrics]'.")


def _accuracy(truth: Any, before: Any, after: Any) -> Scores:
    first, second = label_transfer(truth, before), label_transfer(truth, after)
    balanced = first.balanced_accuracy, second.balanced_accuracy
    return {"accuracy": (first.accuracy, second.accuracy), "balanced": balanced}


def _fate_score(model: Velocity, obs: pd.DataFrame) -> float:
    """Mean probability that late cells end in their own branch."""
    time_of_cell = obs["time"].to_numpy()
    branch = pd.Index(["A", "B"]).get_indexer(obs["cell_type"])
    terminal = np.where(time_of_cell > _FATE_TIMES[1], branch, -1)
    probabilities = fate_probabilities(model.get_transition_matrix(), terminal)
    scored = (time_of_cell > _FATE_TIMES[0]) & (terminal < 0) & (branch >= 0)
    return float(probabilities[scored, branch[scored]].mean())
