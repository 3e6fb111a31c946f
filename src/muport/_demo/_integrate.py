"""Integrate one case and score it, before and after."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._keys import RESULT_KEYS
from muport.integration import Integration
from muport.metrics import batch_mixing, foscttm, knn_labels, label_transfer

if TYPE_CHECKING:
    import mudata
    import pandas as pd
    from numpy.typing import NDArray

    from muport._demo._cases import BatchCase, TransferCase

#: Score -> its value before and after.
Scores = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Outcome:
    """What came of one case: the model, scores before and after, and the seconds that fitting and mapping took."""

    name: str
    mdata: mudata.MuData
    model: Integration
    scores: Scores
    seconds: float
    truth: pd.Series | None = None


def integrate_batches(case: BatchCase, seed: int) -> Outcome:
    """Integrate the batches of one modality; the cell types are for the scores only."""
    (modality,) = case.mdata.mod
    Integration.setup_mudata(case.mdata, use_rep={modality: "X_pca"}, batch_key="batch")
    model, seconds = fit(case.mdata, seed)
    cells = case.mdata[modality]
    before, after = np.asarray(cells.obsm["X_pca"]), _result(case.mdata)
    batch, kind = cells.obs["batch"].to_numpy(str), cells.obs["cell_type"].to_numpy(str)
    votes = [knn_labels(x, kind) for x in (before, after)]
    accuracies = [label_transfer(kind, vote) for vote in votes]
    scores: Scores = {
        "mixing": (batch_mixing(before, batch), batch_mixing(after, batch)),
        "accuracy": (accuracies[0].accuracy, accuracies[1].accuracy),
        "balanced": (accuracies[0].balanced_accuracy, accuracies[1].balanced_accuracy),
    }
    if case.rare_type is not None:
        rare = kind == case.rare_type
        scores["rare type"] = float((votes[0] == kind)[rare].mean()), float((votes[1] == kind)[rare].mean())
    return Outcome(case.name, case.mdata, model, scores, seconds)


def integrate_modalities(case: TransferCase, seed: int) -> Outcome:
    """Integrate unpaired RNA and ATAC and carry the labels over; before is a vote in the space as it was."""
    mdata = case.mdata
    Integration.setup_mudata(
        mdata,
        use_rep={"rna": "X_pca", "atac": "X_lsi"},
        shared_rep="X_shared",
        batch_key="batch",
        labels_key="cell_type",
    )
    model, seconds = fit(mdata, seed, labels=True)
    rna, atac = mdata["rna"], mdata["atac"]
    before = np.asarray(rna.obsm["X_shared"]), np.asarray(atac.obsm["X_shared"])
    after = _rows(mdata, rna.obs_names), _rows(mdata, atac.obs_names)
    vote = knn_labels(before[0], rna.obs["cell_type"].to_numpy(str), query=before[1])
    found = label_transfer(case.truth, vote), label_transfer(case.truth, mdata.obs[RESULT_KEYS.PREDICTION])
    modality = np.repeat(["rna", "atac"], [rna.n_obs, atac.n_obs])
    partner = rna.obs_names.get_indexer(case.partner.loc[atac.obs_names])
    scores: Scores = {
        "mixing": _pair([batch_mixing(np.concatenate(x), modality) for x in (before, after)]),
        "accuracy": (found[0].accuracy, found[1].accuracy),
        "balanced": (found[0].balanced_accuracy, found[1].balanced_accuracy),
        "FOSCTTM": _pair([foscttm(x[0][partner], x[1]) for x in (before, after)]),
    }
    return Outcome(case.name, mdata, model, scores, seconds, case.truth)


def fit(mdata: mudata.MuData, seed: int, *, labels: bool = False, sharpen: float = 0.5) -> tuple[Integration, float]:
    """Fit, and keep the results in the object; the seconds include both."""
    start = time.perf_counter()
    model = Integration(mdata, sharpen=sharpen)
    model.train(random_state=seed, progress=False)
    mdata.obsm[RESULT_KEYS.LATENT] = model.get_latent_representation()
    if labels:
        soft = model.predict(soft=True)
        mdata.obs[RESULT_KEYS.PREDICTION] = model.predict()
        mdata.obs[RESULT_KEYS.CONFIDENCE] = soft.max(axis=1)
    return model, time.perf_counter() - start


def _result(mdata: mudata.MuData) -> NDArray[np.float32]:
    return np.asarray(mdata.obsm[RESULT_KEYS.LATENT])


def _rows(mdata: mudata.MuData, cells: pd.Index) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = _result(mdata)[mdata.obs_names.get_indexer(cells)]
    return rows


def _pair(values: list[float]) -> tuple[float, float]:
    before, after = values
    return before, after
