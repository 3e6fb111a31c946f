"""Options of the ground metric, with their ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from muport._checks import check_integers, check_numbers, check_option, check_positive
from muport.gmm.metric._gradient_training import TrainingSettings

__all__ = ["BURES", "MIXES", "RIDGES", "MetricSettings"]

RIDGES = (0.1, 1.0, 10.0)
MIXES = (1.0, 0.75, 0.5, 0.25, 0.0)
BURES = (False, True)


@dataclass(frozen=True)
class MetricSettings:
    """How a ground metric is learned; `ridge`, `tau`, `offset`, `mix` and `bures` may be one value or several.

    - `n_comps`: Number of axes, the rows of W.
    - `method`: ``"fisher"``: the closed form. ``"triplet"``: trained with the objective of ggml-ot, with plans under W.
    - `ridge`: Weight of the cells' covariance within components; 1 is the difference of patients of one condition on an
      ordinary axis.
    - `tau`: 1 moves all mass; less leaves mass without a counterpart unmatched. The default is one value, since
      comparing several values on the few held-out patients costs more than it gains.
    - `offset`: Whether to subtract from each patient the median shift of its components.
    - `mix`: Weight of the state distance; the rest is the weight of the composition.
    - `bures`: Whether W depends on changes of covariances, in addition to those of means.
    - `n_states`: Number of states of the reference; by default the median number of components.
    - `training`: Options of the gradient training.
    - `random_state`: Seed of the reference.
    """

    n_comps: int = 5
    method: Literal["fisher", "triplet"] = "fisher"
    ridge: float | Sequence[float] = RIDGES
    tau: float | Sequence[float] = 1.0
    offset: bool | Sequence[bool] = (False, True)
    mix: float | Sequence[float] = MIXES
    bures: bool | Sequence[bool] = BURES
    n_states: int | None = None
    training: TrainingSettings = TrainingSettings()
    random_state: int = 0

    def __post_init__(self) -> None:
        check_integers(n_comps=self.n_comps, n_states=1 if self.n_states is None else self.n_states)
        check_option("method", self.method, ("fisher", "triplet"))
        for name in ("ridge", "tau", "offset", "mix", "bures"):
            values = self.values(name)
            if not values:
                raise ValueError(f"{name}={list(values)} is empty: give one value or several.")
            for value in values:
                if name in ("offset", "bures"):
                    check_option(name, value, (False, True))
                elif name == "ridge":
                    check_numbers(0, np.inf, ridge=value)
                else:
                    check_numbers(0, 1, **{name: value})
                if name == "tau":
                    check_positive(tau=value)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> MetricSettings:
        """Settings from a mapping in which ``"training"`` is a mapping, too, or None."""
        training = TrainingSettings(**(options.get("training") or {}))
        return cls(**{**options, "training": training})

    def values(self, name: str) -> tuple[Any, ...]:
        """All values of an option that may have several."""
        value = getattr(self, name)
        several = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
        return tuple(value) if several else (value,)
