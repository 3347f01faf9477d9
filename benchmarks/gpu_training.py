"""Step 6: two optimiser steps of the paper's recipe with random weights: milliseconds, allocated and reserved memory.

`wan1.3b/adastate` as it stands (1.3B generator with its average, 1.3B critic, 14B teacher, 21 latent frames at
480 x 832), but for its files: random weights, embeddings of the encoder's size behind a tensor as large as UMT5-XXL,
and the generator learns in every step.
"""

import functools
import tempfile
import time
from pathlib import Path

import torch
from bound import wait
from lightning.pytorch import Callback, Trainer
from models import SIZES, made_as
from rows import PeakMemory, Row, device_name, module_bytes
from torch.utils.data import DataLoader

from lightning_adastate.text import TextEncoder

RECIPE = "wan1.3b/adastate"
NO_FILES = (
    "--model.weights=null",
    "--model.teacher_weights=null",
    "--model.critic_weights=null",
    "--data=null",
    "--trainer.logger=false",
    "--trainer.callbacks=[]",
    "--model.generator_interval=1",
)
SMALL = (
    "--model.frame_size=[32, 48]",
    "--model.num_frames=6",
    *(
        f"--model.{part}.{name}={value}"
        for part in ("backbone", "teacher", "critic")
        for name, value in (("dim", 48), ("ffn_dim", 96), ("num_heads", 2), ("num_layers", 2))
    ),
)
STEPS = 2


class RandomEncoder(TextEncoder):
    """Give random embeddings, behind a tensor of as many bytes as the encoder's weights.

    Args:
        weight_bytes: Bytes that are there while it works.
        text_dim: Width.
        max_tokens: Tokens.
    """

    def __init__(
        self, weight_bytes: int = 0, *, text_dim: int = 4096, max_tokens: int = 512
    ) -> None:
        super().__init__()
        self.weight_bytes = weight_bytes
        self.text_dim, self.max_tokens = text_dim, max_tokens
        self.register_buffer("place", torch.zeros(()), persistent=False)

    def forward(self, prompts):
        """Return ``[B, S, D]``."""
        held = torch.empty(self.weight_bytes, dtype=torch.uint8, device=self.place.device)
        size = (len(prompts), self.max_tokens, self.text_dim)
        made = torch.randn(size, device=held.device, dtype=torch.bfloat16)
        del held
        return made


class Clock(Callback):
    """Milliseconds between optimiser steps of the generator."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times, self.last = device, [], 0.0

    def on_train_start(self, trainer, module) -> None:
        """Begin."""
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer, module, *args: object) -> None:
        """Note a step that is whole."""
        if module.batches_seen % module.accumulate:
            return
        wait(self.device)
        now = time.perf_counter()
        self.times.append(1e3 * (now - self.last))
        self.last = now


def training_parts(scale, folder: Path):
    """Return step 6."""
    del folder
    return {"paper's recipe": lambda: measure(scale)}


def measure(scale) -> tuple[list[Row], dict[str, object]]:
    """Train for two optimiser steps; the second one is timed."""
    device = scale.device
    width = SIZES[scale.model].vae_width
    with tempfile.TemporaryDirectory() as folder:
        module, precision = load(folder, width, is_small=scale.is_small)
        module.build_teacher = on(device, torch.bfloat16, module.build_teacher)
        module.build_critic = on(device, torch.float32, module.build_critic)
        batch = module.example_batch(["a calm sea"], module.num_frames)
        clock = Clock(device)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(
            precision=precision,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            enable_model_summary=False,
            callbacks=[clock],
            **quiet,
        )
        data = DataLoader([batch] * (STEPS * module.accumulate), batch_size=None)
        with PeakMemory(device) as memory:
            trainer.fit(module, data)
    sizes = {
        name: module_bytes(part) / 1e9
        for name, part in (
            ("generator", module.generator),
            ("critic", module.critic),
            ("teacher", module.teacher),
        )
    }
    own: dict[str, object] = {"recipe": RECIPE, "precision": precision, "GB": sizes}
    own |= {"accumulate": module.accumulate, "frames": module.num_frames, "step ms": clock.times}
    if device.type == "cuda":
        own["reserved GB"] = torch.cuda.max_memory_reserved(device) / 1e9
    row = Row(
        model=f"{scale.model} + {scale.model} + {'tiny' if scale.is_small else '14B'}",
        scope="training step",
        path=f"{RECIPE}, accumulate {module.accumulate}",
        device=device_name(device),
        dtype=precision,
        attention="sdpa",
        cached_frames=3,
        anchor="state",
        streams=1,
        ms=clock.times[-1],
        peak_mb=memory.megabytes,
    )
    return [row], own


def load(folder: str, width: int, *, is_small: bool):
    """Return the recipe's stage with random weights, and its precision."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    from lightning_adastate.memory.stand_ins import UMT5_XXL
    from lightning_adastate.recipes import recipe as recipes

    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=width, z_dim=16).save_pretrained(folder)
    size = 1000 if is_small else 2 * UMT5_XXL
    text = (
        "--model.text_encoder=gpu_training.RandomEncoder",
        f"--model.text_encoder.weight_bytes={size}",
    )
    more = (*NO_FILES, *text, f"--model.codec.folder={folder}", *(SMALL if is_small else ()))
    recipe = recipes.load_recipe(RECIPE, more)
    return recipe.module, recipe.trainer["precision"]


def on(device: torch.device, dtype: torch.dtype, build):
    """Return a builder that makes its network on this device at once: 14B twice would not fit a host."""

    @functools.wraps(build)
    def made():
        with made_as(dtype, device):
            return build()

    return made
