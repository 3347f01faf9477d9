"""Prompts from the command line or from a file."""

from __future__ import annotations

from pathlib import Path


def read_prompts(text_or_path: str) -> list[str]:
    """Return the prompts in a UTF-8 text file, one per line, or the one prompt that was given.

    Blank lines are skipped. What ends in ``.txt`` is always a file.

    Raises:
        ValueError: If there is no prompt, or the file cannot be read.
    """
    if not text_or_path.strip():
        raise ValueError("the prompt is empty; write at least one word")
    path = Path(text_or_path)
    try:
        is_file = path.is_file()
    except OSError:  # a long prompt is no file name
        is_file = False
    if not is_file:
        if path.suffix == ".txt":
            raise ValueError(f"prompt file '{text_or_path}' does not exist")
        return [text_or_path.strip()]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt file '{path}' is no readable UTF-8 text: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"prompt file '{path}' is empty; write one prompt per line")
    return prompts
