"""Preparation: from counts to representations, a shared space of modalities, and a pseudotime."""

from muport.pp._feature_selection import select_features
from muport.pp._gene_activity import gene_activity
from muport.pp._iterative_lsi import iterative_lsi
from muport.pp._lsi import lsi, project_lsi, tfidf
from muport.pp._prepare import prepare
from muport.pp._pseudotime import pseudotime
from muport.pp._shared_representation import shared_representation

__all__ = [
    "gene_activity",
    "iterative_lsi",
    "lsi",
    "prepare",
    "project_lsi",
    "pseudotime",
    "select_features",
    "shared_representation",
    "tfidf",
]
