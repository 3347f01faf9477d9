"""Prompts from the command line or from a file."""

from __future__ import annotations

from pathlib import Path


def read_prompts(text_or_path: str) -> list[str]:
    """Return the prompts in a UTF-8 text file, one per line, or the one prompt that was given.

    Blank lines are skipped. What ends in ``.txt`` is always a file.

    Raises:
        ValueError: If there is no prompt, the file cannot be read, or it is a folder.
    """
    if not text_or_path.strip():
        raise ValueError("the prompt is empty; write at least one word")
    path = Path(text_or_path)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError:  # a long prompt is no file name
        is_file = is_folder = False
    if is_folder:
        raise ValueError(
            f"the prompt {text_or_path!r} is a folder; give text, or a text file with one prompt per line"
        )
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
