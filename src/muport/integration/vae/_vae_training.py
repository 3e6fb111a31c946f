"""Training of the dual-view VAE by scvi-tools: the training plan, minibatches of arrays, and one run."""

from __future__ import annotations

import logging
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

from muport._global_state import preserve_generators
from muport._parallel import single_threaded_torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from muport.integration.vae._vae_module import DualViewVAE
    from muport.integration.vae._vae_options import TrainingOptions

__all__ = ["ArraySplitter", "VAETrainingPlan", "seed_generators", "train"]

_PATIENCE, _WARMUP = 15, 8  # epochs; after eight, all terms of the loss have their full weight
_WARMUP_FRACTION = 0.1  # of the steps, in which the learning rate rises


class VAETrainingPlan(TrainingPlan):  # type: ignore[misc]
    """Training plan: the loss depends on the epoch, the learning rate has one cycle, the prototypes are averaged."""

    def __init__(self, module: DualViewVAE, *, lr: float = 1e-3, weight_decay: float = 1e-4) -> None:
        super().__init__(module, optimizer="AdamW", lr=lr, weight_decay=weight_decay, eps=1e-8)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW with one cycle of the learning rate."""
        optimizer = super().configure_optimizers()["optimizer"]
        steps = max(int(self.trainer.estimated_stepping_batches), 3)
        # the schedule divides by the number of warm-up steps minus one: there must be two or more
        warmup = max(_WARMUP_FRACTION, 2 / steps)
        schedule = OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps, pct_start=warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Pass the epoch to the loss."""
        self.loss_kwargs["epoch"] = self.current_epoch

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the prototypes toward the cells of the minibatch, over all devices."""
        if self.module.objective.proto_ema_m < 1 and (sums := self.module.assignment_sums) is not None:
            reduce = self.trainer.strategy.reduce
            self.module.move_prototypes(*(reduce(part, reduce_op="sum") for part in sums))


class _Rows(Dataset[dict[str, "Tensor"]]):
    """Tensors whose rows are taken one minibatch at a time."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: value[rows] for name, value in self.tensors.items()}


class _Minibatches(Sampler["Tensor"]):
    """Rows of each minibatch: in random order with a generator, otherwise in their order."""

    def __init__(self, rows: Tensor, size: int, generator: torch.Generator | None = None) -> None:
        self.rows, self.size, self.generator = rows, size, generator

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[Tensor]:
        rows = self.rows
        if self.generator is not None:
            rows = rows[torch.randperm(len(rows), generator=self.generator)]
        yield from torch.split(rows, self.size)


class ArraySplitter(pl.LightningDataModule):
    """Training and validation minibatches of tensors that stay on the CPU.

    - `tensors`: (n, ...) each.
    - `held_out`: Fraction of the cells that is held out for validation.
    """

    def __init__(self, tensors: Mapping[str, Tensor], size: int, seed: int, held_out: float) -> None:
        super().__init__()
        self.data, self.size, self.seed = _Rows(tensors), size, seed
        order = np.random.default_rng(seed).permutation(len(self.data))
        self.n_val = round(held_out * len(order))
        self.val_idx, self.train_idx = np.sort(order[: self.n_val]), np.sort(order[self.n_val :])
        self.n_train = len(order) - self.n_val

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the training minibatches, in random order."""
        generator = torch.Generator().manual_seed(self.seed)
        rows = _Minibatches(torch.from_numpy(self.train_idx), self.size, generator)
        return DataLoader(self.data, batch_size=None, sampler=rows, generator=generator)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        """Return the validation minibatches in order; none if no cells were held out."""
        if not self.n_val:
            return []
        rows = _Minibatches(torch.from_numpy(self.val_idx), self.size)
        return DataLoader(self.data, batch_size=None, sampler=rows, generator=torch.Generator().manual_seed(self.seed))


class _RunnerModel:
    """The attributes of a model that scvi-tools' runner reads and sets."""

    def __init__(self, module: DualViewVAE) -> None:
        self.module = module
        self.history_: dict[str, Any] | None = None
        self.is_trained_ = False

    def to_device(self, device: Any) -> None:
        self.module.to(device)


@contextmanager
def seed_generators(seed: int) -> Iterator[None]:
    """Seed the global generators, from which Lightning's loops and torch's layers draw, and restore them afterwards.

    Torch uses one thread in the meantime: in such small products threads mostly wait for each other, and their number
    could change a sum.
    """
    with preserve_generators(seed), single_threaded_torch():
        yield


def train(module: DualViewVAE, data: ArraySplitter, training: TrainingOptions) -> dict[str, NDArray[np.float64]]:
    """Train the module in place.

    - `training`: Options. With ``trainer_kwargs={"enable_checkpointing": True}`` the weights of the best epoch are
      restored at the end; nothing is written to the working directory.

    Returns the value of each loss and metric in each epoch, by name.
    """
    model = _RunnerModel(module)
    plan = VAETrainingPlan(module, **({"lr": training.lr} | dict(training.plan_kwargs or {})))
    trainer_kwargs = {"enable_progress_bar": training.progress} | dict(training.trainer_kwargs or {})
    validated = data.n_val > 0
    best = _BestEpoch()
    if trainer_kwargs.pop("enable_checkpointing", False) and validated:
        trainer_kwargs["callbacks"] = [*trainer_kwargs.get("callbacks", []), best]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _silence_device_messages():
        warnings.filterwarnings("ignore", module="lightning")
        runner = TrainRunner(
            model,
            plan,
            data,
            training.max_epochs,
            training.accelerator,
            training.devices,
            default_root_dir=folder,
            early_stopping=training.early_stopping and validated,
            early_stopping_monitor="validation_loss",
            early_stopping_patience=_PATIENCE,
            early_stopping_warmup_epochs=_WARMUP,
            check_val_every_n_epoch=1 if validated else None,
            **trainer_kwargs,
        )
        runner()
    module.cpu().eval()
    if best.weights:
        module.load_state_dict(best.weights)
    return {name: frame.to_numpy(np.float64).ravel() for name, frame in (model.history_ or {}).items()}


@contextmanager
def _silence_device_messages() -> Iterator[None]:
    """Silence the messages in which Lightning lists the devices; its warnings stay."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


class _BestEpoch(pl.Callback):
    """Weights of the epoch with the lowest validation loss, once all terms of the loss have their full weight."""

    def __init__(self) -> None:
        self.loss, self.weights = np.inf, dict[str, Tensor]()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["validation_loss"])
        if loss < self.loss and trainer.current_epoch >= _WARMUP:
            # the module is an attribute of the training plan, so the names of its tensors begin with "module."
            state = pl_module.state_dict()
            tensors = {name: value for name, value in state.items() if name.startswith("module.")}
            self.weights = {name.removeprefix("module."): value.cpu().clone() for name, value in tensors.items()}
            self.loss = loss
