"""The hyperparameters of the velocity model, and the range of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from muport._checks import check_flags, check_integers, check_not_negative, check_numbers, check_option, check_positive

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULTS", "VelocityHyperparameters"]

# integers, by their smallest value
_FROM_0 = ("tail_threshold", "n_bootstrap", "random_state")
_FROM_1 = ("n_clusters", "batch_size", "hidden_dim", "n_latent", "k_smooth")
_FROM_2 = ("window_size", "min_window_size", "n_steps")
_OPTIONAL = ("n_clusters", "window_size", "reg", "lr", "relaxation")  # None: set by a rule, or no relaxation


@dataclass(frozen=True)
class VelocityHyperparameters:
    """All choices of the method; :class:`muport.Velocity` and its ``train`` explain them.

    Raises TypeError or ValueError if a value is outside its range; the message names it.
    """

    windows: Literal["time", "spatial"] = "time"
    difference: Literal["central", "forward"] = "central"
    window_fraction: float = 0.05
    window_size: int | None = None
    n_clusters: int | None = None
    overlap_fraction: float = 0.5
    min_window_size: int = 20
    tail_handling: Literal["force", "drop", "split"] = "force"
    tail_threshold: int = 10
    reg: float | None = None
    reg_scale: float = 0.5
    tau: float = 0.98
    relaxation: float | None = 0.5
    select: Literal["held_out"] | None = None
    growth: bool = False
    growth_relaxation: float = 16.0
    lambda_time: float = 0.0
    lambda_knn: float = 0.0
    n_steps: int = 400
    batch_size: int = 256
    lr: float | None = None
    hidden_dim: int = 128
    n_latent: int = 32
    lambda_smooth: float = 0.0
    lambda_curl: float = 0.0
    lambda_divergence: float = 0.0
    k_smooth: int = 15
    use_time: bool = True
    denoise: bool = True
    n_bootstrap: int = 20
    random_state: int = 0

    @classmethod
    def among(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters among the arguments of a function, such as its ``locals()``."""
        return {name: value for name, value in arguments.items() if name in cls.__dataclass_fields__}

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], **values: Any) -> VelocityHyperparameters:
        """Take the hyperparameters among the arguments of a function, and `values` in place of some of them."""
        return cls(**cls.among(arguments) | values)

    def __post_init__(self) -> None:
        for name in (*_FROM_0, *_FROM_1, *_FROM_2):
            # a float without a fraction, such as 50.0, is an integer
            if isinstance(value := getattr(self, name), float) and value.is_integer():
                object.__setattr__(self, name, int(value))
        check_option("windows", self.windows, ("time", "spatial"))
        check_option("difference", self.difference, ("central", "forward"))
        check_option("tail_handling", self.tail_handling, ("force", "drop", "split"))
        check_option("select", self.select, (None, "held_out"))
        check_flags(use_time=self.use_time, denoise=self.denoise, growth=self.growth)
        check_integers(0, **self._given(*_FROM_0))
        check_integers(1, **self._given(*_FROM_1))
        check_integers(2, **self._given(*_FROM_2))
        check_not_negative(**self._given("lambda_time", "lambda_knn", "lambda_smooth", "lambda_curl"))
        check_not_negative(lambda_divergence=self.lambda_divergence)
        check_positive(
            **self._given("window_fraction", "reg", "reg_scale", "tau", "lr", "relaxation", "growth_relaxation")
        )
        check_numbers(0, 0.5, window_fraction=self.window_fraction)
        check_numbers(0, 1, tau=self.tau, overlap_fraction=self.overlap_fraction)
        if self.overlap_fraction == 1:
            raise ValueError(f"overlap_fraction={self.overlap_fraction!r} must be below 1.")

    def _given(self, *names: str) -> dict[str, Any]:
        """Values by name, without those that are None and may be."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None or name not in _OPTIONAL}


DEFAULTS = VelocityHyperparameters()
