"""Velocity in the space of an integration, beside that in the space of unintegrated batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._demo._integrate import fit
from muport._keys import RESULT_KEYS
from muport.integration import Integration
from muport.metrics import batch_mixing, velocity_error
from muport.velocity import Velocity, fate_probabilities

if TYPE_CHECKING:
    import mudata
    from numpy.typing import NDArray

    from muport._demo._cases import BatchCase
    from muport._demo._integrate import Scores

#: Times between which cells are asked for the branch they end in, of [0, 1]; the ends are what comes later.
_LATE, _END = 0.6, 0.9


@dataclass(frozen=True)
class Motion:
    """What came of one case: the model on the integrated space, scores before and after integration, and seconds."""

    name: str
    mdata: mudata.MuData
    model: Velocity
    scores: Scores
    seconds: float


def move(case: BatchCase, seed: int) -> Motion:
    """Integrate the batches of a process, and fit a velocity; the true velocity is for the scores only."""
    mdata = case.mdata
    (modality,) = mdata.mod
    Integration.setup_mudata(mdata, use_rep={modality: "X_pca"}, batch_key="batch")
    # sharpening gathers cells, and with them the times within a type
    _, seconds = fit(mdata, seed, sharpen=0.0)
    start = time.perf_counter()
    before, after = (_velocity(mdata, use_rep, seed) for use_rep in ({modality: "X_pca"}, RESULT_KEYS.LATENT))
    seconds += time.perf_counter() - start
    cells = mdata[modality]
    errors = [velocity_error(model.get_velocity(), cells.obsm["velocity"]) for model in (before, after)]
    when, branch = cells.obs["time"].to_numpy(), cells.obs["cell_type"].to_numpy(str)
    shares = [_fate_share(model, when, branch) for model in (before, after)]
    batch = cells.obs["batch"].to_numpy(str)
    spaces = np.asarray(cells.obsm["X_pca"]), np.asarray(mdata.obsm[RESULT_KEYS.LATENT])
    scores: Scores = {
        "mixing": (batch_mixing(spaces[0], batch), batch_mixing(spaces[1], batch)),
        "cosine": (errors[0].cosine, errors[1].cosine),
        "5th pct.": (errors[0].cosine_p05, errors[1].cosine_p05),
        "fate": (shares[0], shares[1]),
    }
    return Motion(case.name, mdata, after, scores, seconds)


def _velocity(mdata: mudata.MuData, use_rep: dict[str, str] | str, seed: int) -> Velocity:
    Velocity.setup_mudata(mdata, use_rep=use_rep, time_key="time", labels_key="cell_type")
    model = Velocity(mdata)
    model.train(random_state=seed, progress=False)
    return model


def _fate_share(model: Velocity, when: NDArray[np.float64], branch: NDArray[np.str_]) -> float:
    """Mean probability that late cells end in their own branch."""
    known = ("A", "B")
    codes = np.full(len(when), -1)
    for code, name in enumerate(known):
        codes[branch == name] = code
    ends = np.where(when > _END, codes, -1)
    found = fate_probabilities(model.get_transition_matrix(), ends)
    late = (when > _LATE) & (ends < 0) & (codes >= 0)
    return float(found[late, codes[late]].mean())
