"""Whether data fits the model it is for, found out before anything is trained or streamed."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningDataModule

from lightning_adastate.streaming.pipeline import PixelStreaming

MOST_LISTED = 50
"""Problems that one message lists."""


def model_of(data: LightningDataModule) -> PixelStreaming | None:
    """Return the model that a trainer brings to data, or ``None`` where there is none that streams pixels."""
    module = None if data.trainer is None else data.trainer.lightning_module
    return module if isinstance(module, PixelStreaming) else None


def frame_size_for(
    model: PixelStreaming | None, height: int | None, width: int | None
) -> tuple[int, int]:
    """Return the size of the pictures: the model's, where the data names none.

    Raises:
        ValueError: If they differ, or nobody names one.
    """
    asked = None if height is None or width is None else (height, width)
    if model is None:
        if asked is None:
            raise ValueError("give `height` and `width`: there is no model to take them from")
        return asked
    wanted = (model.frame_size[0], model.frame_size[1])
    if asked is not None and asked != wanted:
        raise ValueError(
            f"the data's `height` and `width` are {asked[0]} x {asked[1]}, `model.frame_size` is {wanted[0]} x "
            f"{wanted[1]}; make them the same, or leave out the data's"
        )
    return wanted


def prompt_problem(model: PixelStreaming | None, prompt: str) -> str | None:
    """Return why the model's text encoder cannot take a prompt, or ``None`` if it can."""
    return None if model is None else model.text_encoder.problem(prompt)


def listed(problems: Sequence[str], total: int, noun: str, remedy: str) -> str:
    """Return all problems in one sentence.

    Args:
        problems: What is wrong, each naming its file.
        total: How many were looked at.
        noun: Of what.
        remedy: What to do.
    """
    more = len(problems) - MOST_LISTED
    end = f"; and {more} more" if more > 0 else ""
    return f"{len(problems)} of {total} {noun} cannot be used: {'; '.join(problems[:MOST_LISTED])}{end}; {remedy}"
