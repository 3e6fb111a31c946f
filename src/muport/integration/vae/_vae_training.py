"""Training of the dual-view VAE by a scvi-tools training plan: loaders over arrays, one run, generators left alone."""

from __future__ import annotations

import logging
import random
import tempfile
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from scvi.train import TrainingPlan, TrainRunner
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, Sampler

from muport._parallel import single_threaded_torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from muport.integration.vae._vae_module import DualViewVAE

__all__ = ["ArraySplitter", "RefinePlan", "own_generators", "train"]

_PATIENCE, _WARMUP = 15, 8  # epochs; the ramps are up after eight
_WARM_SHARE = 0.1  # of the steps, in which the learning rate rises


class RefinePlan(TrainingPlan):  # type: ignore[misc]
    """Training plan that tells the loss the epoch, cycles the learning rate once, and averages the prototypes.

    Parameters
    ----------
    module
        The module.
    lr
        Largest learning rate.
    weight_decay
        Of AdamW.
    """

    def __init__(self, module: DualViewVAE, *, lr: float = 1e-3, weight_decay: float = 1e-4) -> None:
        super().__init__(module, optimizer="AdamW", lr=lr, weight_decay=weight_decay, eps=1e-8)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW under one cycle of the learning rate."""
        optimizer = super().configure_optimizers()["optimizer"]
        steps = max(int(self.trainer.estimated_stepping_batches), 3)
        # two steps or more to warm up: the schedule divides by one less
        warm = max(_WARM_SHARE, 2 / steps)
        schedule = OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps, pct_start=warm)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Set the ramps."""
        self.loss_kwargs["epoch"] = self.current_epoch

    def on_train_batch_end(self, *_: Any) -> None:
        """Average the prototypes, over all devices."""
        if self.module.objective.proto_ema_m < 1 and (pulled := self.module.pulled()) is not None:
            reduce = self.trainer.strategy.reduce
            self.module.move_prototypes(*(reduce(part, reduce_op="sum") for part in pulled))


class _Rows(Dataset[dict[str, "Tensor"]]):
    """Tensors of which a whole minibatch is taken at once."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: value[rows] for name, value in self.tensors.items()}


class _Minibatches(Sampler["Tensor"]):
    """Rows of each minibatch: all in turn, or drawn with weights."""

    def __init__(
        self, rows: Tensor, size: int, generator: torch.Generator | None = None, weight: Tensor | None = None
    ) -> None:
        self.rows, self.size, self.generator, self.weight = rows, size, generator, weight

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.split(self._order(), self.size)

    def _order(self) -> Tensor:
        if self.generator is None:
            return self.rows
        if self.weight is None:
            return self.rows[torch.randperm(len(self.rows), generator=self.generator)]
        edges = self.weight.double().cumsum(0)
        draws = torch.rand(len(self.rows), generator=self.generator, dtype=torch.float64) * edges[-1]
        return self.rows[torch.searchsorted(edges, draws, right=True).clamp_max(len(edges) - 1)]


class ArraySplitter(pl.LightningDataModule):
    """Training and validation minibatches of tensors that stay on the CPU.

    Parameters
    ----------
    tensors
        (n, ...) each.
    size
        Cells of a minibatch.
    seed
        Seed of the split and the order.
    weight
        (n,) weights with which training cells are drawn; each once per epoch by default.
    held_out
        Share of the cells that is kept for validation.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        size: int,
        seed: int,
        weight: NDArray[np.float64] | None = None,
        held_out: float = 0.1,
    ) -> None:
        super().__init__()
        self.data, self.size, self.seed = _Rows(tensors), size, seed
        order = np.random.default_rng(seed).permutation(len(self.data))
        cut = round(held_out * len(order))
        self.val_idx, self.train_idx = np.sort(order[:cut]), np.sort(order[cut:])
        self.n_val, self.n_train = cut, len(order) - cut
        self.weight = None if weight is None else torch.from_numpy(weight[self.train_idx])

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Minibatches in random order."""
        generator = torch.Generator().manual_seed(self.seed)
        rows = _Minibatches(torch.from_numpy(self.train_idx), self.size, generator, self.weight)
        return DataLoader(self.data, batch_size=None, sampler=rows, generator=generator)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        """Minibatches in order; none if nothing was held out."""
        if not self.n_val:
            return []
        rows = _Minibatches(torch.from_numpy(self.val_idx), self.size)
        return DataLoader(self.data, batch_size=None, sampler=rows, generator=torch.Generator().manual_seed(self.seed))


class _Host:
    """What scvi-tools' runner asks of a model."""

    def __init__(self, module: DualViewVAE) -> None:
        self.module = module
        self.history_: dict[str, Any] | None = None
        self.is_trained_ = False

    def to_device(self, device: Any) -> None:
        self.module.to(device)


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Seed the global generators, which Lightning's loops and torch's layers draw from, and give them back after.

    Torch keeps to one thread meanwhile: in products this small two mostly wait for each other, and their number could
    change a sum.
    """
    before, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(), single_threaded_torch():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_state)  # noqa: NPY002


def train(
    module: DualViewVAE,
    data: ArraySplitter,
    *,
    max_epochs: int,
    early_stopping: bool,
    accelerator: str,
    devices: Any,
    plan_kwargs: Mapping[str, Any],
    trainer_kwargs: Mapping[str, Any],
) -> dict[str, NDArray[np.float64]]:
    """Train in place.

    Parameters
    ----------
    module
        The module.
    data
        Minibatches.
    max_epochs
        Most epochs.
    early_stopping
        Stop when the loss of the validation cells no longer falls.
    accelerator, devices
        As Lightning's trainer.
    plan_kwargs
        For :class:`RefinePlan`.
    trainer_kwargs
        For scvi-tools' trainer. ``enable_checkpointing=True`` goes back to the best epoch's weights at the end;
        nothing is written to the working directory.

    Returns
    -------
    Name -> values of each epoch.
    """
    host = _Host(module)
    settings = {"enable_progress_bar": False} | dict(trainer_kwargs)
    checked = data.n_val > 0
    best = _Best()
    if settings.pop("enable_checkpointing", False) and checked:
        settings["callbacks"] = [*settings.get("callbacks", []), best]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _quiet():
        warnings.filterwarnings("ignore", module="lightning")
        runner = TrainRunner(
            host, RefinePlan(module, **plan_kwargs), data, max_epochs, accelerator, devices,
            default_root_dir=folder, early_stopping=early_stopping and checked,
            early_stopping_monitor="validation_loss", early_stopping_patience=_PATIENCE,
            early_stopping_warmup_epochs=_WARMUP, check_val_every_n_epoch=1 if checked else None, **settings,
        )  # fmt: skip
        runner()
    module.cpu().eval()
    if best.weights:
        module.load_state_dict(best.weights)
    return {name: frame.to_numpy(np.float64).ravel() for name, frame in (host.history_ or {}).items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from listing the devices it found; its warnings stay."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Best(pl.Callback):
    """Weights of the epoch with the lowest validation loss, once the ramps are up."""

    def __init__(self) -> None:
        self.loss, self.weights = np.inf, dict[str, Tensor]()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["validation_loss"])
        if loss < self.loss and trainer.current_epoch >= _WARMUP:
            state = pl_module.state_dict()
            own = {name: value.cpu().clone() for name, value in state.items() if name.startswith("module.")}
            self.loss, self.weights = loss, {name.removeprefix("module."): value for name, value in own.items()}
