"""Options of the VAE and of its training, with their ranges checked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from muport._checks import check_integers, check_option, check_positive, check_seed
from muport.integration.vae._losses import Objective
from muport.integration.vae._networks import ENCODERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muport.integration.vae._networks import Encoder

__all__ = ["TrainingOptions", "VAEOptions"]

_VIEWS = ("embedding", "modalities")
_NETWORK_KEYS = ("encoder", "n_latent", "views")


@dataclass(frozen=True)
class VAEOptions:
    """Whether integrated cells are refined by the dual-view VAE, and by which network.

    - `enabled`: Whether cells are refined.
    - `by_modality`: Whether each view is a modality. Otherwise the views are two scalings of the integrated cells.
    - `encoder`: ``"mlp"``, or ``"transformer"``: one token for each feature, as published.
    - `n_latent`: Number of latent dimensions, at least 1 and at most that of the cells. None: 20, or that of the cells
      if it is smaller.
    - `objective`: Weights and constants of the loss.
    """

    enabled: bool = False
    by_modality: bool = False
    encoder: Encoder = "mlp"
    n_latent: int | None = None
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        check_option("encoder", self.encoder, ENCODERS)
        if self.n_latent is not None:
            check_integers(n_latent=self.n_latent)

    @classmethod
    def from_args(cls, refine: str, vae_kwargs: Mapping[str, Any] | None) -> VAEOptions:
        """Read the arguments of a model."""
        check_option("refine", refine, ("none", "vae"))
        given = dict(vae_kwargs or {})
        if given and refine == "none":
            raise ValueError(f"vae_kwargs={given} are for refine='vae', but refine='none'.")
        constants = [f.name for f in fields(Objective)]
        if unknown := sorted(set(given) - {*_NETWORK_KEYS, *constants}):
            raise ValueError(f"vae_kwargs names {unknown}: use {', '.join([*_NETWORK_KEYS, *constants])}.")
        views = given.get("views", "embedding")
        check_option("vae_kwargs['views']", views, _VIEWS)
        objective = Objective(**{name: given[name] for name in constants if name in given})
        return cls(
            refine == "vae", views == "modalities", given.get("encoder", "mlp"), given.get("n_latent"), objective
        )


@dataclass(frozen=True)
class TrainingOptions:
    """How the network is trained.

    - `max_epochs`: Largest number of epochs, at least 1. None: the number that makes 300 steps, 20 to 60.
    - `batch_size`: Cells of a minibatch, at least 1. None: an eighth of all cells, 64 to 1,024.
    - `lr`: Largest learning rate, above 0.
    - `early_stopping`: Stop when the loss of the held-out tenth of the cells no longer falls.
    - `accelerator`, `devices`: As in Lightning's trainer.
    - `random_state`: Seed of weights, samples and order, at least 0.
    - `progress`: Whether to show a progress bar.
    - `plan_kwargs`: Further arguments of the training plan: ``weight_decay``.
    - `trainer_kwargs`: Further arguments of scvi-tools' trainer: ``callbacks``, ``logger``, ``enable_checkpointing``
      (return to the best epoch) and so on.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    early_stopping: bool = True
    accelerator: str = "auto"
    devices: int | list[int] | str = "auto"
    random_state: int = 0
    progress: bool = False
    plan_kwargs: Mapping[str, Any] | None = None
    trainer_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_integers(
            **{
                name: value
                for name, value in (("max_epochs", self.max_epochs), ("batch_size", self.batch_size))
                if value is not None
            }
        )
        check_positive(lr=self.lr)
        check_seed(self.random_state)
