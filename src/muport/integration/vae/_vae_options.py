"""What the user asks of the refinement, checked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from muport.integration.vae._losses import Objective
from muport.integration.vae._networks import ENCODERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muport.integration.vae._networks import Encoder

__all__ = ["Refinement"]

_VIEWS = ("embedding", "modalities")
_OWN = ("encoder", "n_latent", "views")


@dataclass(frozen=True)
class Refinement:
    """Whether and how integrated cells are refined by the dual-view VAE.

    Attributes
    ----------
    on
        Whether they are.
    by_modality
        Whether the views are two modalities, instead of two scalings of the integrated cells.
    encoder, n_latent
        Kind of the encoder, and width of the latent: that of the cells if None.
    objective
        Weights and constants of the loss.
    """

    on: bool = False
    by_modality: bool = False
    encoder: Encoder = "mlp"
    n_latent: int | None = None
    objective: Objective = field(default_factory=Objective)

    @classmethod
    def from_args(cls, refine: str, vae_kwargs: Mapping[str, Any] | None) -> Refinement:
        """Read the arguments of a model.

        Raises
        ------
        ValueError
            If `refine`, a key, the encoder or the views are unknown, or keys are given for nothing.
        """
        if refine not in ("none", "vae"):
            raise ValueError(f"refine={refine!r} is unknown: use 'none' or 'vae'.")
        given = dict(vae_kwargs or {})
        if given and refine == "none":
            raise ValueError(f"vae_kwargs={given} are for refine='vae', but refine='none'.")
        constants = [f.name for f in fields(Objective)]
        if unknown := sorted(set(given) - {*_OWN, *constants}):
            raise ValueError(f"vae_kwargs names {unknown}: use {', '.join([*_OWN, *constants])}.")
        encoder, views = given.get("encoder", "mlp"), given.get("views", "embedding")
        for name, value, known in (("encoder", encoder, tuple(ENCODERS)), ("views", views, _VIEWS)):
            if value not in known:
                raise ValueError(
                    f"vae_kwargs[{name!r}]={value!r} is unknown: use one of {', '.join(map(repr, known))}."
                )
        objective = Objective(**{name: given[name] for name in constants if name in given})
        return cls(refine == "vae", views == "modalities", encoder, given.get("n_latent"), objective)
