"""The encoders and the decoder of the dual-view VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENCODERS", "Decoder", "Encoder", "Mlp", "Posterior", "Transformer"]

type Encoder = Literal["mlp", "transformer"]

_HIDDEN = 128  # units of each hidden layer
_TOKEN, _LAYERS, _HEADS, _FORWARD = 4, 2, 1, 128  # width, layers, heads and feed-forward units as published
_START_LOGVAR = -4.0  # log variance of the posterior before training


class Mlp(nn.Module):
    """Two SiLU layers and a linear one that starts at 0."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(n_in, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU())
        self.last = nn.Linear(_HIDDEN, n_out)
        _set_to_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (n, n_in) to (n, n_out)."""
        out: Tensor = self.last(self.hidden(x))
        return out


class Transformer(nn.Module):
    """The published encoder: a token w_j x_j + b_j for each feature and one for the class, and two pre-norm layers.

    Unlike in the published code, the last norm is applied, and the output is a linear layer of all tokens, which starts
    at 0.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, _TOKEN) / _TOKEN**0.5)
        self.bias = nn.Parameter(torch.randn(n_in, _TOKEN) / _TOKEN**0.5)
        self.start = nn.Parameter(torch.randn(1, 1, _TOKEN) / _TOKEN**0.5)
        layer = nn.TransformerEncoderLayer(_TOKEN, _HEADS, _FORWARD, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, _LAYERS, nn.LayerNorm(_TOKEN), enable_nested_tensor=False)
        self.last = nn.Linear((n_in + 1) * _TOKEN, n_out)
        _set_to_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (n, n_in) to (n, n_out)."""
        tokens = x[:, :, None] * self.weight + self.bias
        tokens = torch.cat([self.start.expand(len(x), -1, -1), tokens], dim=1)
        out: Tensor = self.last(self.layers(tokens).flatten(1))
        return out


class Posterior(nn.Module):
    """Mean and log variance (n, n_latent) of the latent, given a view: the mean is a linear part plus a network.

    Mean and log variance have separate networks, as published.

    - `encoder`: ``"mlp"`` or ``"transformer"``.
    - `n_in`: Number of features of the view.
    """

    def __init__(self, encoder: str, n_in: int, n_latent: int) -> None:
        super().__init__()
        make_encoder = ENCODERS[encoder]
        self.mean, self.logvar = make_encoder(n_in, n_latent), make_encoder(n_in, n_latent)

    def forward(self, view: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, given a view (n, n_in) and the linear part (n, n_latent)."""
        return linear + self.mean(view), _START_LOGVAR + self.logvar(view)


class Decoder(nn.Module):
    """Mean of the decoded coordinates, given latent and batch: linear in the latent, plus a network starting at 0."""

    def __init__(self, n_latent: int, n_out: int, n_batches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_latent, n_out)
        self.change = Mlp(n_latent + n_batches, n_out)
        self.n_batches = n_batches

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Set the linear part to a map (n_out, n_latent)."""
        self.linear.weight.copy_(weight)
        self.linear.bias.zero_()

    def forward(self, z: Tensor, batch: Tensor) -> Tensor:
        """Decode latents (n, n_latent) of cells in batches (n,) to (n, n_out)."""
        code = nn.functional.one_hot(batch, self.n_batches).to(z.dtype)
        out: Tensor = self.linear(z) + self.change(torch.cat([z, code], dim=1))
        return out


def _set_to_zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


ENCODERS: dict[str, Callable[[int, int], nn.Module]] = {"mlp": Mlp, "transformer": Transformer}
