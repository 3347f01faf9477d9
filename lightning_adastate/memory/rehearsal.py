"""Run a stage's own training step, and its own stream, on tensors without memory, and note what was alive."""

# Shapes: B batch, F frames, H W height / width of pixels.

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_adastate.backbones import Backbone
from lightning_adastate.callbacks.graceful_stop import GracefulStop
from lightning_adastate.memory.hollow import HollowBytes, rehearsing
from lightning_adastate.memory.live import tensor_bytes
from lightning_adastate.memory.watch import (
    BESIDE,
    CALLED,
    Moment,
    Record,
    Watch,
    cuda_steps,
    networks_of,
)
from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.manual import ManualModule

FEW, MORE = 2, 3
"""Blocks of the shortened networks that are rehearsed; memory is affine in the number of blocks."""

MOST_CHUNKS = 48
"""A stream is rehearsed until its window is full twice, and no further than this."""


class Sizes(NamedTuple):
    """Sizes of a run.

    Args:
        rows: Videos per step, or streams in lock-step.
        num_frames: Latent frames of a training video.
    """

    rows: int = 1
    num_frames: int = 21


class Elsewhere(SingleDeviceStrategy):
    """Move weights without memory to the CPU, whose memory counts; networks that are no part of the module wait."""

    def __init__(self, live: HollowBytes) -> None:
        super().__init__(device=torch.device("cpu"))
        self.live = live

    def model_to_device(self) -> None:
        """Replace the weights."""
        assert self.lightning_module is not None
        inside = set(self.lightning_module.modules())
        settle(self.lightning_module, self.live)
        for network in networks_of(self.lightning_module).values():
            if network not in inside:
                settle(network, self.live, away=True)

    def teardown(self) -> None:
        """Leave all as it is; it is thrown away."""


class Recorder(Callback):
    """Give every optimiser its state, let every batch be a busy one, and read out at the end."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step once without a gradient worth the name: AdamW's state comes with its first step."""
        for optimizer in trainer.optimizers:
            fill_gradients(optimizer)
            optimizer.step()
            optimizer.zero_grad()
        self.watch.learn_names()
        self.watch.record.moments.clear()
        self.watch.live.mark()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Go to the last batch of a step in which all learn, with the gradients that wait for it."""
        if isinstance(pl_module, ManualModule):
            pl_module.batches_seen = pl_module.busiest_batches[batch_idx]
            if pl_module.accumulate > 1:
                for optimizer in trainer.optimizers:
                    fill_gradients(optimizer)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Begin a moment."""
        self.watch.cut("backward pass", hold=True)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End it."""
        self.watch.cut(BESIDE)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what is there all the time."""
        self.watch.cut(BESIDE)
        found = resident_of(pl_module)
        for optimizer in trainer.optimizers:
            first = optimizer.param_groups[0]["params"][0]
            name = next(n for n, p in pl_module.named_parameters() if p is first)
            whose = name.partition(".")[0]
            states = (part for state in optimizer.state.values() for part in state.values())
            size = tensor_bytes(part for part in states if isinstance(part, Tensor))
            found[f"{CALLED.get(whose, whose)}'s optimiser"] = size
        self.watch.record.resident = found


def fill_gradients(optimizer: Optimizer) -> None:
    """Give everything that an optimiser steps a gradient of zeros."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)


def resident_of(module: nn.Module) -> dict[str, int]:
    """Return the bytes of the weights of every child."""
    found = {}
    for name, child in module.named_children():
        size = tensor_bytes([*child.parameters(), *child.buffers()])
        if size:
            found[CALLED.get(name, name)] = size
    return found


def settle(module: nn.Module, live: HollowBytes, *, away: bool = False) -> None:
    """Replace weights and buffers by hollow ones, in place; what is tied stays tied."""
    made: dict[
        Tensor, nn.Parameter
    ] = {}  # keeps the old ones, whose identities must not be used again
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            if weight not in made:
                hollow = live.like(weight, away=away)
                made[weight] = nn.Parameter(hollow, requires_grad=weight.requires_grad)
            setattr(part, name, made[weight])
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, live.like(buffer, away=away))


def rehearse_fit(module: StreamModule, sizes: Sizes, precision: str) -> Record:
    """Return what training takes once every optimiser has stepped; ``module`` is used up.

    Args:
        module: After ``setup("fit")``, its weights on any device.
        sizes: Of the run.
        precision: As ``trainer.precision``.
    """
    with rehearsing() as live, quiet():
        watch = Watch(module, live)
        trainer = trainer_with(
            precision, strategy=Elsewhere(live), callbacks=[Recorder(watch), Deaf()], max_epochs=1
        )
        batch = module.example_batch(["a prompt"] * sizes.rows, sizes.num_frames)
        # Automatic optimisation keeps the last batch's gradients until it has the next one's loss.
        repeats = len(module.busiest_batches) if isinstance(module, ManualModule) else 2
        with watch.watching(), cuda_steps():
            trainer.fit(module, DataLoader([batch] * repeats, batch_size=None))  # type: ignore[arg-type]
    return watch.record


def blocks_of(network: Backbone) -> nn.ModuleList | None:
    """Return the list of a network's blocks, if it has just one list of that length."""
    lists = [each for each in network.modules() if isinstance(each, nn.ModuleList)]
    found = [each for each in lists if len(each) == network.num_layers]
    return found[0] if len(found) == 1 else None


def shortened(module: StreamModule, depths: dict[int, int]) -> StreamModule:
    """Return a copy whose networks of some depths have fewer blocks; what is long is not copied.

    Args:
        module: As built.
        depths: Blocks that networks of so many are to have.
    """
    memo: dict[int, object] = {}
    for network in networks_of(module).values():
        blocks, wanted = blocks_of(network), depths.get(network.num_layers)
        if blocks is not None and wanted is not None:
            kept = [copy.deepcopy(block) for block in blocks[:wanted]]
            memo[id(blocks)] = nn.ModuleList(kept)
    short: StreamModule = copy.deepcopy(module, memo)
    for network in networks_of(short).values():
        network.num_layers = depths.get(network.num_layers, network.num_layers)
    return short


def extrapolated(
    module: StreamModule, rehearse: Callable[[StreamModule], Record], *, whole: bool = False
) -> Record:
    """Return what a module takes from rehearsals of shortened copies.

    Memory is affine in the numbers of blocks, moment by moment: one rehearsal with few of all, and one more for
    every depth that there is. Where shortened copies do other things than each other, the whole is rehearsed.

    Args:
        module: As built.
        rehearse: Uses a copy up.
        whole: Rehearse the whole at once.
    """
    networks = [each for each in networks_of(module).values() if blocks_of(each) is not None]
    depths = sorted({each.num_layers for each in networks if each.num_layers > MORE})
    if whole or not depths:
        return rehearse(copy.deepcopy(module))
    few = dict.fromkeys(depths, FEW)
    base = rehearse(shortened(module, few))
    longer = {depth: rehearse(shortened(module, few | {depth: MORE})) for depth in depths}
    if any(other.script != base.script for other in longer.values()):
        return rehearse(copy.deepcopy(module))

    def grown(least: int, more: Sequence[int]) -> int:
        steps = (
            (size - least) * (depth - FEW) // (MORE - FEW)
            for depth, size in zip(depths, more, strict=True)
        )
        return least + sum(steps)

    others = list(longer.values())
    found = Record()
    for name, size in base.resident.items():
        found.resident[name] = grown(size, [each.resident[name] for each in others])
    for index, one in enumerate(base.moments):
        same = [each.moments[index] for each in others]
        size = grown(one.size, [each.size for each in same])
        found.moments.append(
            Moment(one.doing, size, grown(one.gradients, [each.gradients for each in same]))
        )
    return found


def rehearse_stream(module: StreamModule, sizes: Sizes, precision: str) -> Record:
    """Return what a stream without end takes; ``module`` is used up."""
    streamer = module.streamer
    frames = streamer.cache.max_frames + streamer.anchor.num_frames + streamer.cache.history_frames
    count = min(MOST_CHUNKS, 4 + 2 * frames // streamer.schedule.chunk_frames)
    with rehearsing() as live, quiet():
        plugin = trainer_with(precision).precision_plugin
        plugin.convert_module(module)
        settle(module, live)
        watch = Watch(module, live)
        watch.learn_names()
        weights = live.now
        with watch.watching(), plugin.forward_context():
            state = module.open_stream(["a prompt"] * sizes.rows)
            stream = module.stream(state, count)
            for _ in range(count):
                state = next(stream).state
            watch.cut(BESIDE)
            resident = {**resident_of(module), "stream": live.now - weights}
    watch.record.resident = resident
    return watch.record


class Deaf(GracefulStop):
    """Leave signals alone: a rehearsal has nothing to save, and must end when it is told to."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to nothing."""


def trainer_with(precision: str, **options: object) -> Trainer:
    """Return a trainer that writes nothing."""
    quietly = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    rest = {"enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    return Trainer(precision=precision, **quietly, **rest, **options)  # type: ignore[arg-type]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the trainer's remarks on its surroundings to ourselves."""
    log = logging.getLogger("lightning.pytorch")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
