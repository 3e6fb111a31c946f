"""The smallest model on the hall: it learns the mean of each group and takes it off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from muport.data import MuDataModel, register


@dataclass(frozen=True)
class Level:
    mean: np.ndarray
    n: int


@dataclass(frozen=True)
class Means:
    levels: dict[str, Level]
    overall: Level | None
    groups: tuple[str, ...]
    shift: float = float("nan")


class Fake(MuDataModel):
    _state_class = Means

    def __init__(self, mdata: MuData | AnnData | None = None, registry: dict | None = None, *, strength: float = 1.0):
        super().__init__(mdata, registry)
        self.strength = strength
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_mudata(cls, mdata, use_rep="X_pca", batch_key="batch", labels_key=None, unlabeled_category="unknown",
                     shared_rep=None, paired=None, **kwargs: Any) -> None:  # fmt: skip
        register(cls, mdata, cls._get_setup_method_args(**locals()), **kwargs)

    @classmethod
    def setup_anndata(cls, adata, use_rep="X_pca", batch_key="batch", labels_key=None, unlabeled_category="unknown",
                      **kwargs: Any) -> None:  # fmt: skip
        register(cls, adata, cls._get_setup_method_args(**locals()), **kwargs)

    def train(self, max_iter: int = 1) -> None:
        rows = self._rows()
        chosen = {g: rows.x[rows.group == i] for i, g in enumerate(rows.groups)}
        levels = {g: Level(x.mean(0), len(x)) for g, x in chosen.items()}
        self.state_ = Means(levels, Level(rows.x.mean(0), len(rows.x)), rows.groups)
        self.settings_ = {"max_iter": max_iter}
        self.history_ = {"loss": pd.DataFrame({"loss": [0.5, 0.25]}, index=pd.RangeIndex(2, name="epoch"))}
        self.is_trained_ = True

    def get_latent_representation(self, mdata: MuData | AnnData | None = None) -> np.ndarray:
        state = self._fitted()
        rows = self._rows(mdata)
        none = Level(np.zeros(rows.x.shape[1], np.float32), 0)
        means = np.stack([state.levels.get(g, none).mean for g in rows.groups])
        return rows.to_cells(rows.x - self.strength * means[rows.group])

    def map_query(self, mdata: MuData | AnnData) -> np.ndarray:
        return self.get_latent_representation(mdata)


class Timed(Fake):
    """The same with every column that a model may ask for."""

    @classmethod
    def setup_mudata(cls, mdata, use_rep="X_joint", batch_key=None, labels_key=None, unlabeled_category="unknown",
                     time_key=None, spatial_key=None, sample_key=None, weight_key=None, concatenate=False,
                     **kwargs: Any) -> None:  # fmt: skip
        register(cls, mdata, cls._get_setup_method_args(**locals()), **kwargs)

    @classmethod
    def setup_anndata(cls, adata, use_rep="X_pca", batch_key=None, labels_key=None, unlabeled_category="unknown",
                      time_key=None, spatial_key=None, sample_key=None, weight_key=None,
                      **kwargs: Any) -> None:  # fmt: skip
        register(cls, adata, cls._get_setup_method_args(**locals()), **kwargs)
