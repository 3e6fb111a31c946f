"""Pictures of values that are no numbers, not finite or of other cells are refused, and leave no figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from muport import pl

N = 30
RNG = np.random.default_rng(0)
CELLS = AnnData(
    RNG.poisson(3.0, (N, 2)).astype(np.float32),
    pd.DataFrame({"kind": ["a", "b"] * (N // 2), "t": np.linspace(0, 1, N)}, index=[f"c{i}" for i in range(N)]),
    pd.DataFrame(index=["g0", "g1"]),
    obsm={"X_umap": RNG.normal(size=(N, 2)), "velot_velocity_umap": RNG.normal(size=(N, 2))},
)
FATES = pd.DataFrame({"A": np.linspace(0, 1, N)}, index=CELLS.obs_names)
MEANS, SHAPES, MASS = RNG.normal(size=(3, 2)), np.stack([np.eye(2)] * 3), np.array([0.2, 0.3, 0.5])
RANKS = pd.DataFrame({"item": ["0", "0"], "feature": ["A", "B"], "score": [2.0, 1.0]})
DISTANCES = pd.DataFrame(1 - np.eye(3), list("pqr"), list("pqr"))
CONDITION = pd.Series(["x", "y", "x"], list("pqr"))


def held_as(key: str, change: Callable[[Any], Any]) -> AnnData:
    adata = CELLS.copy()
    adata.obsm[key] = change(adata.obsm[key])
    return adata


def components(**changed: Any) -> Any:
    return pl.components(**{"x": None, "means": MEANS, "covariances": SHAPES, "weights": MASS} | changed)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no data": (lambda: pl.embedding("cells.h5ad"), "data is str: pass an AnnData"),
    "no axes": (lambda: pl.embedding(CELLS, ax=3), "ax is int: pass the axes"),
    "text as coordinates": (lambda: pl.embedding(held_as("X_umap", lambda x: x.astype(str))), "'X_umap' holds <U"),
    "complex coordinates": (lambda: pl.embedding(held_as("X_umap", lambda x: x + 1j)), "'X_umap' holds complex128"),
    "text as velocities": (
        lambda: pl.velocity_quiver(held_as("velot_velocity_umap", lambda v: v.astype(str))),
        "velot_velocity_umap' holds <U",
    ),
    "confidence in words": (lambda: pl.confidence(CELLS, key="kind"), "key='kind' must be numbers"),
    "genes": (lambda: pl.gene_trends(CELLS, 3, "t"), "genes=3 must be"),
    "colormap of a heatmap": (lambda: pl.driver_heatmap(CELLS, ["g0"], "t", cmap="sky"), "cmap='sky'"),
    "cells twice": (lambda: pl.fate_summary(pd.concat([FATES, FATES])), "fates has several rows for 'c0'"),
    "fates above 1": (lambda: pl.fate_summary(2 * FATES), "fates: column 'A' is not numbers from 0 to 1"),
    "states": (lambda: pl.coarse_graph(FATES, CELLS), "states is DataFrame: pass what model.get_states"),
    "history": (lambda: pl.training_curves(3), "history is int: pass a dict"),
    "names of a flow": (lambda: pl.sankey(["a"], ["b"], names="xy"), "names='xy' must be two names"),
    "negative masses": (lambda: components(weights=-MASS), "weights must be finite masses of at least 0"),
    "masses not known": (lambda: components(weights=MASS * np.nan), "weights must be finite masses"),
    "masses in words": (lambda: components(weights=list("abc")), "weights holds <U1, not numbers"),
    "cells not finite": (lambda: components(x=[[0.0, np.inf]]), "x: cell 0 has coordinates that are not finite"),
    "negative variances": (lambda: components(covariances=-SHAPES), "covariances have negative variances"),
    "asymmetric covariances": (lambda: components(covariances=SHAPES + [[0, 1], [0, 0]]), "covariances are not symm"),
    "three axes": (lambda: components(dims=(0, 1, 1)), r"dims=\(0, 1, 1\): two different"),
    "axes between axes": (lambda: components(dims=(0.0, 1.0)), r"dims=\(0.0, 1.0\): two different"),
    "size of ellipses": (lambda: components(n_std=-1), "n_std=-1 must be"),
    "ranks": (lambda: pl.feature_ranking(RANKS.to_numpy()), "table is ndarray: pass the DataFrame"),
    "scores": (lambda: pl.feature_ranking(RANKS.assign(score=np.nan)), r"table\['score'\] of item '0' is not finite"),
    "scores in words": (lambda: pl.feature_ranking(RANKS.assign(score="x")), r"table\['score'\] holds"),
    "negative distances": (lambda: pl.distance_map(-DISTANCES), "distances must be at least 0"),
    "distances from itself": (lambda: pl.distance_map(DISTANCES + 1), "distances must be at least 0, and 0 of each"),
    "distances in words": (lambda: pl.distance_map(DISTANCES.astype(str) + "x"), "distances holds"),
    "colormap of distances": (lambda: pl.distance_map(DISTANCES, cmap="sky"), "cmap='sky'"),
    "patients in words": (lambda: pl.patient_embedding(DISTANCES.astype(str) + "x"), "embedding holds"),
    "patients of one name": (
        lambda: pl.patient_embedding(DISTANCES.rename({"q": "p"}), CONDITION),
        "several patients have the name 'p'",
    ),
    "conditions twice": (
        lambda: pl.patient_embedding(DISTANCES, pd.concat([CONDITION, CONDITION[:1]])),
        "condition has several entries for patient 'p'",
    ),
    "a patient without condition": (lambda: pl.patient_embedding(DISTANCES, {"p": "x"}), "patient 'q'"),
    "names of patients": (lambda: pl.patient_embedding(DISTANCES, names="no"), "names='no' must be True or False"),
}


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused(name):
    draw, message = REFUSED[name]
    figures = plt.get_fignums()
    with pytest.raises((ValueError, KeyError, TypeError), match=message):
        draw()
    assert plt.get_fignums() == figures


def test_conditions_of_patients_by_name():
    drawn = [pl.patient_embedding(DISTANCES, c).collections[0] for c in (CONDITION, CONDITION[::-1].to_dict())]
    assert np.array_equal(*(dots.get_facecolor() for dots in drawn))
    plt.close("all")
