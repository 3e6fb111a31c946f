"""Component of the batch integration task of OpenProblems: reads a data set, writes the embedding of muport."""

import sys

import anndata as ad

import muport

## VIASH START
par = {"input": "resources_test/task_batch_integration/cxg_immune_cell_atlas/dataset.h5ad", "output": "output.h5ad"}
meta = {"name": "muport", "resources_dir": "src/utils"}
## VIASH END

sys.path.append(meta["resources_dir"])
from read_anndata_partial import read_anndata  # noqa: E402

adata = read_anndata(par["input"], obs="obs", obsm="obsm", var="var", uns="uns")

muport.Integration.setup_anndata(adata, use_rep="X_pca", batch_key="batch")
model = muport.Integration(adata)
model.train(progress=False)

output = ad.AnnData(
    obs=adata.obs[[]],
    var=adata.var[[]],
    obsm={"X_emb": model.get_latent_representation()},
    uns={key: adata.uns[key] for key in ("dataset_id", "normalization_id")} | {"method_id": meta["name"]},
)
output.write_h5ad(par["output"], compression="gzip")
