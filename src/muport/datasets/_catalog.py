"""The catalog of measured data sets: file, hash, source, licence, citation, and the columns that the models use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muport.datasets._representations import Kind


@dataclass(frozen=True)
class DatasetInfo:
    """Source, licence and citation of a measured data set, as :func:`muport.datasets.info` returns them.

    Attributes
    ----------
    name
        Name for :func:`muport.datasets.load`.
    file
        File name.
    sha256
        SHA-256 of the file, which a download must have.
    size
        Number of cells and features.
    source
        Repository that the data come from.
    licence
        Licence of that repository; ``"none stated"`` if it names none.
    citation
        Article that presents the data, with its DOI.
    kinds
        Values of each modality, as for :func:`muport.datasets.represent`; the modality of an AnnData is ``""``.
    batch, labels
        Columns with the batch and the cell type, if the data have them.
    """

    name: str
    file: str
    sha256: str
    size: str
    source: str
    licence: str
    citation: str
    kinds: dict[str, Kind]
    batch: str | None = "batch"
    labels: str | None = "cell_type"


_CELLBENCH = "Tian et al. 2019, Nature Methods 16:479, doi:10.1038/s41592-019-0425-8"
_SCODE = "Matsumoto et al. 2017, Bioinformatics 33:2314, doi:10.1093/bioinformatics/btx194"
_WEINREB = "Weinreb et al. 2020, Science 367:eaaw3381, doi:10.1126/science.aaw3381"

_DATASETS = (
    DatasetInfo(
        "cellbench_3cl_3tech", "cellbench_3cl_3tech.h5ad",
        "411a9e1d499b8752e52cd55a44c904d04a7193d3fa92a844c65bdf2bc90b5a48", "1,394 x 894",
        "LuyiTian/sc_mixology, bioc/Cepo", "MIT", _CELLBENCH, {"": "counts"},
    ),
    DatasetInfo(
        "cellbench_5cl_3plates", "cellbench_5cl_3plates.h5ad",
        "63b91c93dc1ceeada2f8508bf394b0dcd0c1b9436b158581bd7cedf2dd73821f", "909 x 12,653",
        "LuyiTian/sc_mixology", "MIT", _CELLBENCH, {"": "counts"},
    ),
    DatasetInfo(
        "pancreas_wang_xin_scclassify", "pancreas_wang_xin_scclassify.h5ad",
        "0669860c59bf5b73ee3551d0806f159987b2ae9634ba3af66724d1c86f041c96", "1,175 x 219",
        "SydneyBioX/scClassify", "GPL-3",
        "Wang et al. 2016, Diabetes 65:3028, doi:10.2337/db16-0405; Xin et al. 2016, Cell Metabolism 24:608, "
        "doi:10.1016/j.cmet.2016.08.018", {"": "log"},
    ),
    DatasetInfo(
        "hsc_young_old_unioncom", "hsc_young_old_unioncom.h5ad",
        "d9148f7712af26501371aa50191f2068cb1b9d5900914c3ca20cdd8ce5807242", "1,022 x 1,446",
        "caokai1073/UnionCom", "MIT",
        "Kowalczyk et al. 2015, Genome Research 25:1860, doi:10.1101/gr.192237.115", {"": "log"},
    ),
    DatasetInfo(
        "mesc_scmerge", "mesc_scmerge.h5ad",
        "8125bc74629ad5463c0377d183854b65a5c27f8ef27d32f6c84abc810d40cbad", "300 x 2,026",
        "bioc/scMerge", "GPL-3",
        "Kolodziejczyk et al. 2015, Cell Stem Cell 17:471, doi:10.1016/j.stem.2015.09.011", {"": "counts"},
    ),
    DatasetInfo(
        "kang_distinct_3donor", "kang_distinct_3donor.h5ad",
        "12d517b4fa09a8849bbc54b1e9e2873b7331464ff9cdff0478bdc214383ef0ec", "9,517 x 100",
        "SimoneTiberi/distinct", "GPL-3",
        "Kang et al. 2018, Nature Biotechnology 36:89, doi:10.1038/nbt.4042", {"": "counts"}, batch="donor",
    ),
    DatasetInfo(
        "asap_pbmc_protein_4batch", "asap_pbmc_protein_4batch.h5ad",
        "e9d5c327c89fd3be7d92d2ed055ceeb92dd51bcb605e35508603a00b04e7a30b", "17,055 x 216",
        "PeterZZQ/scMoMaT", "MIT",
        "Mimitou et al. 2021, Nature Biotechnology 39:1246, doi:10.1038/s41587-021-00927-2", {"": "protein"},
    ),
    DatasetInfo(
        "snare_mouse_cortex", "snare_mouse_cortex.h5mu",
        "4b680d0ed2c39fb143c8e984eb143018353cfbbd9e5b36dabfbbf8f83c6403da", "10,309; rna 1,677, atac 25,734",
        "PeterZZQ/scMoMaT", "MIT",
        "Chen et al. 2019, Nature Biotechnology 37:1452, doi:10.1038/s41587-019-0290-0",
        {"rna": "counts", "atac": "peaks"},
    ),
    DatasetInfo(
        "snare_celllines_scot", "snare_celllines_scot.h5mu",
        "4a377c457fd7dfde369659d1fbf219d67a69c9b9ce8deb6abe2596d075be90ab", "1,047; rna 10, atac 19",
        "rsinghlab/SCOT", "MIT",
        "Chen et al. 2019, Nature Biotechnology 37:1452, doi:10.1038/s41587-019-0290-0",
        {"rna": "features", "atac": "features"}, batch=None,
    ),
    DatasetInfo(
        "bmmc_unpaired_liger", "bmmc_unpaired_liger.h5mu",
        "8e67407da0f48691cd60b029922f787390902c2a8504644a75b2cf2278775c37", "rna 340 x 172, atac 340 x 995",
        "welch-lab/liger", "GPL-3",
        "Granja et al. 2019, Nature Biotechnology 37:1458, doi:10.1038/s41587-019-0332-7",
        {"rna": "counts", "atac": "peaks"}, batch=None,
    ),
    DatasetInfo(
        "scnmt_features_pamona", "scnmt_features_pamona.h5mu",
        "5ecadc21227fac0f0465210927d096c64e32324191154edd9fd26b50f964b5c1", "rna 597, met 725, acc 647; 30 each",
        "caokai1073/Pamona", "MIT",
        "Argelaguet et al. 2019, Nature 576:487, doi:10.1038/s41586-019-1825-8",
        {"rna": "features", "met": "features", "acc": "features"}, batch=None, labels="stage",
    ),
    DatasetInfo(
        "teaseq_rna_adt", "teaseq_rna_adt.h5mu",
        "caa273f909f88c944fbbf75dd01b7138ac023f7810b47abe1896c141dd430556", "1,262; rna 9,855, adt 46",
        "PYangLab/Matilda", "Apache-2.0",
        "Swanson et al. 2021, eLife 10:e63632, doi:10.7554/eLife.63632",
        {"rna": "counts", "adt": "protein"}, batch=None,
    ),
    DatasetInfo(
        "pancreas_velocity_739", "pancreas_velocity_739.h5ad",
        "cbb4541c158842c6ec216d6e8d0392a85dcc9d2b510ca5edff9c88965ba24c5b", "739 x 7,192",
        "JEFworks-Lab/veloviz", "GPL-3",
        "Bastidas-Ponce et al. 2019, Development 146:dev173849, doi:10.1242/dev.173849",
        {"": "counts"}, batch=None, labels="clusters",
    ),
    DatasetInfo(
        "larry_cospar_781", "larry_cospar_781.h5ad",
        "079c7d3ad0d6659e59f4c490eb29d8ce9ce7a0b0d66aa41991fa0ef8e55d2485", "781 x 2,481",
        "AllonKleinLab/cospar", "MIT", _WEINREB, {"": "log"}, batch=None, labels="state_info",
    ),
    DatasetInfo(
        "arabidopsis_root_10k", "arabidopsis_root_10k.h5ad",
        "f35f4c9ca567376dba57060131b3cf8d5bbdeccd5f3c6695c7fa06f04e8986c1", "10,000 x 2,000",
        "zsteve/StationaryOT", "MIT",
        "Shahan et al. 2022, Developmental Cell 57:543, doi:10.1016/j.devcel.2022.01.008",
        {"": "log"}, batch=None, labels="celltype.anno",
    ),
    DatasetInfo(
        "paul15_tradeseq", "paul15_tradeseq.h5ad",
        "c39b1c59d9d3ab9a45d69f366b8d592db22f07162f4b3e9483318645195af363", "2,660 x 240",
        "statOmics/tradeSeq", "MIT",
        "Paul et al. 2015, Cell 163:1663, doi:10.1016/j.cell.2015.11.013", {"": "counts"}, batch=None,
    ),
    DatasetInfo(
        "covid_gloscope_20samples_pcs", "covid_gloscope_20samples_pcs.h5ad",
        "e76da2f60f4e0dcb6f0942a545984650b87734919c856323c9954df77c49486d", "10,000 x 50 components",
        "epurdom/GloScope", "Artistic-2.0",
        "Stephenson et al. 2021, Nature Medicine 27:904, doi:10.1038/s41591-021-01329-2",
        {"": "features"}, batch="sample",
    ),
    DatasetInfo(
        "melanoma_scfeatures_550", "melanoma_scfeatures_550.h5ad",
        "ce0f50c6c682d3957e4a042ead876e6208954e59deaee00c70ee8899a10a61ad", "550 x 3,523",
        "SydneyBioX/scFeatures", "GPL-3",
        "Sade-Feldman et al. 2018, Cell 175:998, doi:10.1016/j.cell.2018.10.038",
        {"": "log"}, batch="patient", labels="cellTypes",
    ),
    DatasetInfo(
        "ra_synovium_24plates_pcs", "ra_synovium_24plates_pcs.h5ad",
        "0db213b2a1fd92922501e496450b611c952ef4e51a5e1abf0a00fe1262ba8839", "5,265 x 20 components",
        "immunogenomics/scpost", "MIT",
        "Zhang et al. 2019, Nature Immunology 20:928, doi:10.1038/s41590-019-0378-1", {"": "features"},
    ),
    DatasetInfo(
        "mesc_pre_5times_scode", "mesc_pre_5times_scode.h5ad",
        "db078d4e602a049f8f3f04d170fc12e6a907e055cc380cdb55705145fee99d8a", "456 x 100",
        "hmatsu1226/SCODE", "MIT", _SCODE, {"": "log"}, batch=None, labels=None,
    ),
    DatasetInfo(
        "mef_neuron_5times_scode", "mef_neuron_5times_scode.h5ad",
        "0299837af1d0f7eab8f32fe5d904ce72e517fcd0648e44cf06e95c6dc805b47d", "373 x 100",
        "hmatsu1226/SCODE", "MIT",
        "Treutlein et al. 2016, Nature 534:391, doi:10.1038/nature18323", {"": "log"}, batch=None, labels=None,
    ),
    DatasetInfo(
        "dyngen_5times", "dyngen_5times.h5ad",
        "a77a1899ad5c84b97017801193df1a25506223a50552800cfb9aa03d8e6502da", "728 x 5 features, simulated",
        "QiangweiPeng/WFR-FM", "none stated",
        "Cannoodt et al. 2021, Nature Communications 12:3942, doi:10.1038/s41467-021-24152-2",
        {"": "features"}, batch=None, labels=None,
    ),
    DatasetInfo(
        "gene_circuit_5times", "gene_circuit_5times.h5ad",
        "a69f637404609c39ad8ec2724daadac22681b7bbdee9fb982d5193f7abf29228", "3,031 x 2 features, simulated",
        "QiangweiPeng/WFR-FM", "none stated",
        "Zhang et al. 2025, International Conference on Learning Representations, arXiv:2410.00844",
        {"": "features"}, batch=None, labels=None,
    ),
    DatasetInfo(
        "mouse_hematopoiesis_2d_3times", "mouse_hematopoiesis_2d_3times.h5ad",
        "d4f413f7de46d8f6fb841d77848d8b3f9f990ed481447ba27fa6bd8b76e73867", "10,998 x 2 features",
        "DongyiWang-66/VGFM", "none stated", _WEINREB, {"": "features"}, batch=None, labels=None,
    ),
)  # fmt: skip

CATALOG = {info.name: info for info in _DATASETS}


def write_table() -> str:
    """Write the catalog as a definition list in reStructuredText, for a docstring with an indent of four spaces."""
    return "\n".join(
        f"    ``{info.name}``\n        {info.size}. From {info.source} ({info.licence}). {info.citation}."
        for info in CATALOG.values()
    )
