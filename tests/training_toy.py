"""Tiny training runs shared by tests: real modules, random videos, no files."""

from functools import partial

import torch
from lightning.pytorch import Trainer
from torch.optim import AdamW
from torch.utils.data import Dataset

from lightning_adastate.anchors import AdaptiveAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.data.video_clips import Clip
from lightning_adastate.data.video_folder import VideoFolderData
from lightning_adastate.losses import CriticLoss, DMDLoss, FlowMatchingLoss
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.text import VocabularyEncoder
from lightning_adastate.training import CausalFlowMatching, FlowMatching, SelfForcing
from lightning_adastate.training.teacher_forcing import TeacherForcing

FRAME_SIZE = (4, 6)


def backbone(seed: int = 0) -> WanTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WanTransformer(
            24,
            ffn_dim=32,
            num_heads=2,
            num_layers=2,
            in_channels=12,
            patch_size=(1, 1, 1),
            freq_dim=16,
            text_dim=8,
            text_tokens=4,
        )
        torch.nn.init.normal_(model.head.head.weight, std=0.1)  # a zero head blocks all gradients
        return model


def parts(**options):
    """What every module needs, at tiny size."""
    return {
        "anchor": AdaptiveAnchor(1),
        "cache": RelativisticCache(window_frames=2),
        "schedule": FewStepSchedule(1, steps=(1000, 500), shift=1.0),
        "codec": PixelShuffleCodec(2),
        "text_encoder": VocabularyEncoder(8, max_tokens=4),
        "frame_size": FRAME_SIZE,
        **options,
    }


def self_forcing(**options) -> SelfForcing:
    fast = partial(AdamW, lr=1e-2, betas=(0.5, 0.9))
    defaults = {
        "loss": DMDLoss(guidance=0.0, shift=1.0),
        "critic_loss": CriticLoss(shift=1.0),
        "teacher": lambda: backbone(1),
        "critic": lambda: backbone(2),
        "num_frames": 5,
        "generator_interval": 2,
        "optimizer": fast,
        "critic_optimizer": fast,
        "ema_decay": 0.5,
    }
    return SelfForcing(backbone(), **parts(**{**defaults, **options}))


class Clips(Dataset):
    """Random clips, the same for the same index."""

    def __init__(self, count: int, frames: int) -> None:
        self.count, self.frames = count, frames

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: tuple[int, int]) -> Clip:
        generator = torch.Generator().manual_seed(draw[0])
        video = torch.rand(self.frames, 3, *FRAME_SIZE, generator=generator) * 255
        return Clip(video.to(torch.uint8), f"clip {draw[0]}")


class ClipData(VideoFolderData):
    """The real data module, without a folder."""

    def __init__(
        self, count: int = 12, *, val_count: int = 4, batch_size: int = 2, frames: int = 5
    ) -> None:
        height, width = FRAME_SIZE
        super().__init__(
            ".", clip_frames=frames, height=height, width=width, batch_size=batch_size
        )
        self.train_rows, self.val_rows = Clips(count, frames), Clips(val_count, frames)


def trainer(path, **options) -> Trainer:
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 1,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(path),
    }
    return Trainer(**{**quiet, **options})


def flow_matching(**options) -> FlowMatching:
    fast = partial(AdamW, lr=1e-2, betas=(0.9, 0.99))
    defaults = {"loss": FlowMatchingLoss(1.0), "optimizer": fast, "ema_decay": 0.5}
    return FlowMatching(backbone(), **parts(**{**defaults, **options}))


def causal(stage: type[TeacherForcing] = CausalFlowMatching, **options) -> TeacherForcing:
    fast = partial(AdamW, lr=1e-2, betas=(0.9, 0.99))
    defaults = {"loss": FlowMatchingLoss(1.0), "optimizer": fast, "ema_decay": 0.5}
    return stage(backbone(), **parts(**{**defaults, **options}))
