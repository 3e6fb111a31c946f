"""One fit per example, with scores before and after integration. Cell types and true values serve the scores only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._keys import RESULT_KEYS
from muport.integration import Integration
from muport.metrics import batch_mixing, foscttm, knn_labels, label_transfer, velocity_error
from muport.neighbors import knn
from muport.velocity import Velocity, fate_probabilities

if TYPE_CHECKING:
    import mudata
    from numpy.typing import NDArray

    from muport._demo._examples import Example

#: Name of a score -> its value before and after integration.
Scores = dict[str, tuple[float, float]]

#: Branches are scored for cells between these times, of [0, 1]; later cells define the ends of the branches.
_FATE_TIMES = 0.6, 0.9
_SCIB_SCORES = ("Bio conservation", "Batch correction", "Total")


@dataclass(frozen=True)
class Outcome:
    """The result of one example.

    - `example`: The data, with the results of the model.
    - `model`: The fitted model.
    - `before`, `after`: (n_cells, d) coordinates before and after integration, in the order of ``mdata.obs_names``.
    - `scores`: Scores before and after.
    - `seconds`: Time of the fit.
    """

    example: Example
    model: Integration | Velocity
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    scores: Scores
    seconds: float


def integrate_batches(example: Example, seed: int) -> Outcome:
    """Integrate the batches of one modality."""
    mdata = example.mdata
    (name,) = mdata.mod
    Integration.setup_mudata(mdata, use_rep={name: "X_pca"}, batch_key="batch")
    model, seconds = _fit_integration(mdata, seed)
    before, after = joined_rows(mdata, "X_pca"), np.asarray(mdata.obsm[RESULT_KEYS.LATENT])
    cell_type = mdata[name].obs["cell_type"].to_numpy(str)
    votes = [knn_labels(x, cell_type) for x in (before, after)]
    scores = _mixing(before, after, mdata[name].obs["batch"]) | _accuracy(cell_type, *votes)
    if example.rare_type is not None:
        rare = cell_type == example.rare_type
        scores["rare type"] = float((votes[0] == cell_type)[rare].mean()), float((votes[1] == cell_type)[rare].mean())
    return Outcome(example, model, before, after, scores, seconds)


def integrate_modalities(example: Example, seed: int) -> Outcome:
    """Integrate unpaired RNA and ATAC and transfer labels; the score before is a vote in the shared space."""
    mdata, true_types, partner = example.mdata, example.true_types, example.partner
    if true_types is None or partner is None:
        raise ValueError(f"example {example.name!r} has no true types and partners.")
    Integration.setup_mudata(
        mdata,
        use_rep={"rna": "X_pca", "atac": "X_lsi"},
        shared_rep="X_shared",
        batch_key="batch",
        labels_key="cell_type",
    )
    model, seconds = _fit_integration(mdata, seed)
    start = time.perf_counter()
    mdata.obs[RESULT_KEYS.PREDICTION] = model.predict()
    mdata.obs[RESULT_KEYS.CONFIDENCE] = model.predict(soft=True).max(axis=1)
    seconds += time.perf_counter() - start
    before, after = joined_rows(mdata, "X_shared"), np.asarray(mdata.obsm[RESULT_KEYS.LATENT])
    rna, atac, paired_rna = (mdata.obs_names.get_indexer(x) for x in (mdata["rna"].obs_names, partner.index, partner))
    vote = knn_labels(before[rna], mdata["rna"].obs["cell_type"].to_numpy(str), query=before[atac])
    predicted = mdata.obs[RESULT_KEYS.PREDICTION].loc[true_types.index]
    mdata.obs["modality"] = np.where(mdata.obs_names.isin(mdata["rna"].obs_names), "RNA", "ATAC")
    scores = _mixing(before, after, mdata.obs["modality"]) | _accuracy(true_types, vote, predicted)
    scores["FOSCTTM"] = foscttm(before[paired_rna], before[atac]), foscttm(after[paired_rna], after[atac])
    return Outcome(example, model, before, after, scores, seconds)


def fit_velocities(example: Example, seed: int) -> Outcome:
    """Fit the velocity of a process in two spaces: that of its unintegrated batches, and the integrated one."""
    mdata = example.mdata
    (name,) = mdata.mod
    Integration.setup_mudata(mdata, use_rep={name: "X_pca"}, batch_key="batch")
    # sharpening moves cells of one type together, and would mix their times
    _, seconds = _fit_integration(mdata, seed, sharpen=0.0)
    start = time.perf_counter()
    models = [_fit_velocity(mdata, use_rep, seed) for use_rep in ({name: "X_pca"}, RESULT_KEYS.LATENT)]
    seconds += time.perf_counter() - start
    cells = mdata[name]
    errors = [velocity_error(model.get_velocity(), cells.obsm["velocity"]) for model in models]
    before, after = joined_rows(mdata, "X_pca"), np.asarray(mdata.obsm[RESULT_KEYS.LATENT])
    scores = _mixing(before, after, cells.obs["batch"])
    scores["cosine"] = errors[0].cosine, errors[1].cosine
    scores["5th pct."] = errors[0].cosine_p05, errors[1].cosine_p05
    scores["fate"] = _fate_score(models[0], cells.obs), _fate_score(models[1], cells.obs)
    return Outcome(example, models[1], before, after, scores, seconds)


def joined_rows(mdata: mudata.MuData, key: str) -> NDArray[np.float32]:
    """Return ``obsm[key]`` of all modalities, which share no cells, in the order of ``mdata.obs_names``."""
    parts = mdata.mod.values()
    table = pd.concat([pd.DataFrame(np.asarray(part.obsm[key]), index=part.obs_names) for part in parts])
    rows: NDArray[np.float32] = table.loc[mdata.obs_names].to_numpy(np.float32)
    return rows


def scib_scores(outcome: Outcome) -> Scores:
    """Return the aggregate scores of scib-metrics, without kBET, which takes longer than all other scores."""
    import anndata
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


def _fit_integration(mdata: mudata.MuData, seed: int, sharpen: float = 0.5) -> tuple[Integration, float]:
    start = time.perf_counter()
    model = Integration(mdata, sharpen=sharpen)
    model.train(random_state=seed, progress=False)
    mdata.obsm[RESULT_KEYS.LATENT] = model.get_latent_representation()
    return model, time.perf_counter() - start


def _fit_velocity(mdata: mudata.MuData, use_rep: dict[str, str] | str, seed: int) -> Velocity:
    Velocity.setup_mudata(mdata, use_rep=use_rep, time_key="time", labels_key="cell_type")
    model = Velocity(mdata)
    model.train(random_state=seed, progress=False)
    return model


def _mixing(before: NDArray[np.float32], after: NDArray[np.float32], group: pd.Series) -> Scores:
    codes = group.to_numpy(str)
    return {"mixing": (batch_mixing(before, codes), batch_mixing(after, codes))}


def _accuracy(truth: Any, before: Any, after: Any) -> Scores:
    first, second = label_transfer(truth, before), label_transfer(truth, after)
    return {
        "accuracy": (first.accuracy, second.accuracy),
        "balanced": (first.balanced_accuracy, second.balanced_accuracy),
    }


def _fate_score(model: Velocity, obs: pd.DataFrame) -> float:
    """Mean probability that late cells end in their own branch."""
    time_of_cell = obs["time"].to_numpy()
    branch = pd.Index(["A", "B"]).get_indexer(obs["cell_type"])
    terminal = np.where(time_of_cell > _FATE_TIMES[1], branch, -1)
    probabilities = fate_probabilities(model.get_transition_matrix(), terminal)
    scored = (time_of_cell > _FATE_TIMES[0]) & (terminal < 0) & (branch >= 0)
    return float(probabilities[scored, branch[scored]].mean())
