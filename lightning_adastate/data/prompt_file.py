"""Prompts alone, one per line of a text file: all that self-forcing from text needs, and what videos are made of."""

# Shapes: B batch, F frames, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_adastate.data.fitting import listed, model_of, prompt_problem
from lightning_adastate.data.prompts import read_prompts
from lightning_adastate.data.resumable import ResumableData
from lightning_adastate.data.sampler import Draw, EachOnce
from lightning_adastate.data.video_names import first_of_each, video_name
from lightning_adastate.types import PromptBatch, VideoBatch


class Prompts(Dataset[object]):
    """Prompts by a draw."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        """Count them."""
        return len(self.prompts)

    def __getitem__(self, draw: Draw) -> str:
        """Return one."""
        return self.prompts[draw.video]


class PromptSamples(Dataset[PromptBatch]):
    """Batches of prompts, all once with seed 0, then all with seed 1, and so on.

    A batch has one seed, and a prompt's noise is that of its line: sample k of a prompt is what ``generate`` makes of
    the whole file with seed k.

    Args:
        prompts: What is streamed.
        names: What the files are called after, line by line; a line that repeats a name is left out.
        samples: Videos of each prompt.
        num_chunks: Length of a video.
        batch_size: Prompts in lock-step.
        at_least: Batches there must be; those beyond the prompts are empty.

    Raises:
        ValueError: If no file can have a name.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        names: Sequence[str],
        *,
        samples: int,
        num_chunks: int,
        batch_size: int,
        at_least: int = 1,
    ) -> None:
        self.prompts = list(prompts)
        self.names = list(names)
        self.lines = list(first_of_each(names))
        self.samples = samples
        self.num_chunks = num_chunks
        self.batch_size = batch_size
        self.at_least = at_least
        for line in self.lines:
            video_name(self.names[line], samples - 1)

    @property
    def batches_per_sample(self) -> int:
        """Count the batches that all prompts make."""
        return -(-len(self.lines) // self.batch_size)

    def __len__(self) -> int:
        """Count the batches."""
        return max(self.samples * self.batches_per_sample, self.at_least)

    def __getitem__(self, index: int) -> PromptBatch:
        """Return a batch."""
        seed, batch = divmod(index, self.batches_per_sample)
        first = batch * self.batch_size
        lines = self.lines[first : first + self.batch_size] if seed < self.samples else []
        return PromptBatch(
            **without_frames([self.prompts[line] for line in lines]),
            names=[video_name(self.names[line], seed) for line in lines],
            seed=seed,
            stream_ids=lines,
            num_chunks=self.num_chunks,
        )


class PromptFileData(ResumableData):
    """Read prompts from a UTF-8 text file, one per line; batches are ``VideoBatch`` without frames.

    Predicting takes all prompts, ``samples`` times each, over all processes; see ``VideoPredictionWriter``.

    Args:
        path: The text file.
        batch_size: Prompts per batch and rank; when predicting, the streams in lock-step.
        val_fraction: Share of the prompts set aside for validation, in [0, 1).
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the split and the order.
        samples: Predicting: videos of each prompt. Number k has noise of seed k and is called ``{prompt}-{k}.mp4``.
        num_chunks: Predicting: chunks of each video.
        names: Predicting: a text file of what the videos are called after, line by line: VBench's own prompts, where
            ``path`` has the extended ones. ``None`` is the prompts themselves.

    Raises:
        ValueError: If a number is out of range; at set-up, if a file cannot be read, or a prompt is too long.
    """

    noun = "prompts"

    def __init__(
        self,
        path: str,
        *,
        batch_size: int = 1,
        val_fraction: float = 0.0,
        num_workers: int = 0,
        seed: int = 0,
        samples: int = 1,
        num_chunks: int = 7,
        names: str | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size, val_fraction=val_fraction, num_workers=num_workers, seed=seed
        )
        for name, value in (("samples", samples), ("num_chunks", num_chunks)):
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}")
        self.path = Path(path).expanduser()
        self.collate = without_frames
        self.samples = samples
        self.num_chunks = num_chunks
        self.names = None if names is None else Path(names).expanduser()
        self.prompt_samples: PromptSamples | None = None

    @property
    def source(self) -> str:
        """Name the file."""
        return str(self.path)

    def setup(self, stage: str | None = None) -> None:
        """Read and split the prompts; the same split on every rank."""
        if stage == "predict":
            self.prompt_samples = self._samples()
        if self.train_rows is not None or stage == "predict":
            return
        prompts = self._prompts()
        train, val = self.split(len(prompts))
        self.train_rows = Prompts([prompts[i] for i in train])
        self.val_rows = Prompts([prompts[i] for i in val])

    def predict_dataloader(self) -> DataLoader[PromptBatch]:
        """Return all prompts, as often as ``samples`` says, shared out over the processes batch by batch."""
        assert self.prompt_samples is not None, 'call `setup("predict")` first'
        rank = 0 if self.trainer is None else self.trainer.global_rank
        kind = DistributedSampler if self._is_spread else EachOnce
        sampler: DistributedSampler[object] = kind(
            self.prompt_samples, num_replicas=self._num_ranks, rank=rank, shuffle=False
        )
        return DataLoader(
            self.prompt_samples, batch_size=1, sampler=sampler, collate_fn=only, num_workers=0
        )

    @property
    def _is_spread(self) -> bool:
        """Whether the networks are spread over the processes: each then needs as many passes as the others."""
        return self.trainer is not None and self.trainer.lightning_module.device_mesh is not None

    def _samples(self) -> PromptSamples:
        """Return what is predicted.

        Raises:
            ValueError: If the lines of ``names`` and ``path`` are not as many, or no file can have a name.
        """
        prompts = self._prompts()
        names = prompts if self.names is None else self._read(self.names)
        if len(names) != len(prompts):
            raise ValueError(
                f"`names` '{self.names}' has {len(names)} lines, '{self.path}' has {len(prompts)}; give one name "
                "for each prompt"
            )
        return PromptSamples(
            prompts,
            names,
            samples=self.samples,
            num_chunks=self.num_chunks,
            batch_size=self.batch_size,
            # Lightning waits for ranks with none.
            at_least=1 if self._is_spread else self._num_ranks,
        )

    def _read(self, path: Path) -> list[str]:
        if not path.exists():
            raise ValueError(f"prompt file '{path}' does not exist")
        return read_prompts(str(path))

    def _prompts(self) -> list[str]:
        """Return the prompts.

        Raises:
            ValueError: If the file cannot be read, or some are too long for the model; all are named.
        """
        prompts, model = self._read(self.path), model_of(self)
        problems = [
            f"prompt {number} of '{self.path}' {wrong}"
            for number, prompt in enumerate(prompts, 1)
            if (wrong := prompt_problem(model, prompt)) is not None
        ]
        if problems:
            raise ValueError(listed(problems, len(prompts), "prompts", "shorten them"))
        return prompts


def without_frames(prompts: list[str]) -> VideoBatch:
    """Return a batch of prompts, with clips of no frames."""
    return VideoBatch(video=torch.zeros(len(prompts), 0, 3, 1, 1), prompts=prompts)


def only(batches: list[PromptBatch]) -> PromptBatch:
    """Return the one batch of a list: rows are put together before they are loaded."""
    (batch,) = batches
    return batch
