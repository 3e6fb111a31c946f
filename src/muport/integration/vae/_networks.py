"""The encoders and the decoder of the dual-view VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENCODERS", "Decoder", "Encoder", "Mlp", "Transformer"]

type Encoder = Literal["mlp", "transformer"]

_HIDDEN = 128
_TOKEN, _LAYERS, _HEADS, _FORWARD = 4, 2, 1, 128  # of the published transformer
_START = -4.0  # log variance of the posterior before training


class Mlp(nn.Module):
    """Two SiLU layers and a linear one that starts at 0.

    Parameters
    ----------
    n_in, n_out
        Features in and out.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(n_in, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU()
        )  # fmt: skip
        self.last = nn.Linear(_HIDDEN, n_out)
        _to_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_out) of (n, n_in)."""
        out: Tensor = self.last(self.hidden(x))
        return out


class Transformer(nn.Module):
    """The published encoder: a token w_j x_j + b_j per feature and one for the class, two pre-norm layers.

    Unlike the published code, its last norm is applied, and a linear layer that starts at 0 reads all tokens.

    Parameters
    ----------
    n_in, n_out
        Features in and out.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, _TOKEN) / _TOKEN**0.5)
        self.bias = nn.Parameter(torch.randn(n_in, _TOKEN) / _TOKEN**0.5)
        self.start = nn.Parameter(torch.randn(1, 1, _TOKEN) / _TOKEN**0.5)
        layer = nn.TransformerEncoderLayer(_TOKEN, _HEADS, _FORWARD, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, _LAYERS, nn.LayerNorm(_TOKEN), enable_nested_tensor=False)
        self.last = nn.Linear((n_in + 1) * _TOKEN, n_out)
        _to_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_out) of (n, n_in)."""
        tokens = x[:, :, None] * self.weight + self.bias
        tokens = torch.cat([self.start.expand(len(x), -1, -1), tokens], dim=1)
        out: Tensor = self.last(self.layers(tokens).flatten(1))
        return out


class Posterior(nn.Module):
    """Mean and log variance (n, n_latent) each of a view; the mean is a change of the linear part it is given.

    Mean and log variance have a network each, as published.
    """

    def __init__(self, kind: str, n_in: int, n_latent: int) -> None:
        super().__init__()
        make = ENCODERS[kind]
        self.mean, self.logvar = make(n_in, n_latent), make(n_in, n_latent)

    def forward(self, view: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of a view (n, n_in)."""
        return linear + self.mean(view), _START + self.logvar(view)


class Decoder(nn.Module):
    """Mean of a view given latent and batch: linear in the latent, plus a network that starts at 0.

    Parameters
    ----------
    n_latent
        Width of the latent.
    n_out
        Features of the view.
    n_batches
        Batches.
    """

    def __init__(self, n_latent: int, n_out: int, n_batches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_latent, n_out)
        self.change = Mlp(n_latent + n_batches, n_out)
        self.n_batches = n_batches

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Begin at a linear map (n_out, n_latent)."""
        self.linear.weight.copy_(weight)
        self.linear.bias.zero_()

    def forward(self, z: Tensor, batch: Tensor) -> Tensor:
        """(n, n_out) of latents (n, n_latent) and batches (n,)."""
        code = nn.functional.one_hot(batch, self.n_batches).to(z.dtype)
        out: Tensor = self.linear(z) + self.change(torch.cat([z, code], dim=1))
        return out


def _to_zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


ENCODERS: dict[str, Callable[[int, int], nn.Module]] = {"mlp": Mlp, "transformer": Transformer}
