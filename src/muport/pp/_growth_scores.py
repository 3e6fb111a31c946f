"""Expected growth rates from scores of proliferation and apoptosis genes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from muport._checks import check_positive, check_seed
from muport._parallel import single_threaded_torch
from muport.data import in_memory
from muport.data.reading._count_matrix import get_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["score_growth"]

_MIN_SPREAD = 1e-12


def score_growth(
    adata: anndata.AnnData,
    proliferation_genes: Sequence[str],
    apoptosis_genes: Sequence[str] = (),
    *,
    max_divisions: float = 1.0,
    max_deaths: float = 0.5,
    layer: str | None = None,
    random_state: int = 0,
) -> pd.Series:
    r"""Expected growth rate of each cell from scores of gene sets, as a prior for the couplings of a time course.

    Each set is scored by ``scanpy.tl.score_genes`` (Tirosh et al. 2016). With z the score minus its median, divided by
    its standard deviation, the rate is

    .. math:: \log 2\,\big(b\,\sigma(2z_{\text{proliferation}}) - d\,\sigma(2z_{\text{apoptosis}})\big),

    with sigma the logistic function, b `max_divisions` and d `max_deaths`. A score says which cells divide more than
    others, not how often: b and d are assumptions of the user. Couplings use differences between cells only.

    Parameters
    ----------
    adata
        Cells with logarithmic expression in ``X``, or in `layer`; it is not changed.
    proliferation_genes, apoptosis_genes
        Names among ``adata.var_names``, such as the genes of a cell-cycle and of an apoptosis gene set; names that are
        absent are left out. Without apoptosis genes no cell dies.
    max_divisions, max_deaths
        Divisions, and deaths, per unit of time of the cells with the largest scores.
    layer
        Layer with the expression.
    random_state
        Seed of the control genes of the score.

    Returns
    -------
    Growth rate of each cell: logarithmic change of mass per unit of time, by name; 0.69 is one division. Store it as
    a column of ``obs``, and name it in ``growth_key`` of :meth:`muport.Velocity.setup_anndata`.

    Raises
    ------
    KeyError
        If no gene of a set is in the data.
    TypeError
        If a set of genes is a string.
    ValueError
        If a number is not positive, or no other gene is left to compare with.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> adata = anndata.AnnData(rng.random((50, 60)))
    >>> adata.obs["growth"] = muport.pp.score_growth(adata, ["0", "1", "2"])
    >>> bool(adata.obs["growth"].between(0, np.log(2)).all())
    True
    """
    if not isinstance(adata, anndata.AnnData):
        raise TypeError(f"adata is {type(adata).__name__}: pass an AnnData, such as mdata['rna'].")
    if not adata.var_names.is_unique:
        raise ValueError(f"var_names has {adata.var_names[adata.var_names.duplicated()][0]!r} twice: make them unique.")
    check_positive(max_divisions=max_divisions, max_deaths=max_deaths)
    check_seed(random_state)
    for argument, genes in (("proliferation_genes", proliferation_genes), ("apoptosis_genes", apoptosis_genes)):
        if isinstance(genes, str) or not isinstance(genes, Iterable):
            raise TypeError(f"{argument}={genes!r} must be a list of gene names.")
    rate = max_divisions * _scored(adata, proliferation_genes, "proliferation_genes", layer, random_state)
    if len(apoptosis_genes):
        rate = rate - max_deaths * _scored(adata, apoptosis_genes, "apoptosis_genes", layer, random_state)
    return pd.Series(np.log(2) * rate, index=adata.obs_names, name="growth")


def _scored(
    adata: anndata.AnnData, genes: Sequence[str], argument: str, layer: str | None, seed: int
) -> NDArray[np.float64]:
    """(n,) logistic function of twice the standardized score."""
    import scanpy as sc

    present = [gene for gene in dict.fromkeys(genes) if gene in adata.var_names]
    if not present:
        named = adata.var_names[:3].tolist()
        raise KeyError(f"{argument}: none of {list(genes)[:5]} is in var_names, which begin with {named}.")
    values = in_memory(get_values(adata, layer))
    entries, place = values.data if sparse.issparse(values) else values, "X" if layer is None else f"layer={layer!r}"
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{place} holds {values.dtype}, not numbers.")
    if not bool(np.isfinite(entries).all()):
        raise ValueError(f"{place} holds NaN or infinite values: leave these cells or genes out.")
    cells = anndata.AnnData(values, pd.DataFrame(index=adata.obs_names), pd.DataFrame(index=adata.var_names))
    if len(present) == adata.n_vars:
        raise ValueError(f"{argument} are all genes of the data: scores need others, with which they are compared.")
    # numba, which scanpy uses for sparse matrices, may share its OpenMP with torch and set the number of threads
    with single_threaded_torch():
        try:
            sc.tl.score_genes(cells, present, score_name="score", random_state=seed)
        except RuntimeError as error:  # of scanpy, where no other gene is in the same range of expression
            raise ValueError(
                f"{argument}: no other gene of the data is expressed as much as {present[:5]}, to compare with: keep "
                "more genes."
            ) from error
    score = np.asarray(cells.obs["score"], np.float64)
    z = (score - np.median(score)) / max(float(score.std()), _MIN_SPREAD)
    logistic: NDArray[np.float64] = 1 / (1 + np.exp(-2 * z))
    return logistic
