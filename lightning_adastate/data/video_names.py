"""Names of video files, and those of generated ones as VBench looks for them: ``{prompt}-{index}.mp4``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
"""Endings of files that are taken for videos."""

LONGEST_NAME = 255
"""Bytes of a file name, in every common file system."""


def video_name(prompt: str, index: int, suffix: str = ".mp4") -> str:
    """Return the file name of a prompt's video number ``index``.

    Raises:
        ValueError: If no file can have it.
    """
    name = f"{prompt}-{index}{suffix}"
    if "/" in prompt or "\0" in prompt:
        raise ValueError(f"prompt {prompt[:60]!r} has a '/', which no file name can have")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(
            f"prompt '{prompt[:60]}...' makes a file name of {len(name.encode())} bytes, more than "
            f"{LONGEST_NAME}; name the files by VBench's own prompts, and give the extended ones to the model only"
        )
    return name


def first_of_each(prompts: Sequence[str]) -> Iterator[int]:
    """Yield the lines that repeat no earlier one: a prompt that occurs again has no name of its own."""
    seen: set[str] = set()
    for line, prompt in enumerate(prompts):
        if prompt not in seen:
            seen.add(prompt)
            yield line
