"""MOFA in its own environment.

Usage: ``python benchmarks/modalities/_paired_mofa.py IN.npz OUT.npz``. Each array of IN is a view.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from mofapy2.run.entry_point import entry_point

FACTORS = 15


def main(source: str, target: str) -> None:
    """Fit Gaussian views, scaled to equal variance, with 15 factors and the fast convergence; write the factors."""
    with np.load(source) as data:
        views = {name: data[name] for name in data.files}
    start = time.perf_counter()
    model = entry_point()
    model.set_data_options(scale_views=True)
    model.set_data_matrix([[view] for view in views.values()], views_names=list(views), likelihoods=None)
    model.set_model_options(factors=FACTORS, spikeslab_weights=True, ard_weights=True)
    model.set_train_options(iter=300, convergence_mode="fast", seed=0, verbose=False, quiet=True)
    model.build()
    model.run()
    factors = np.asarray(model.model.nodes["Z"].getExpectation())
    np.savez(target, Z=factors, epochs=0, seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
