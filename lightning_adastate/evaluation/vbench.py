"""Hand-over of generated videos to VBench and VisionReward: their names, and a list of prompts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning_adastate.data.video_names import video_name
from lightning_adastate.evaluation.video_groups import VideoGroup
from lightning_adastate.files import partial_path, put_in_place, write_text

How = Literal["link", "copy"]

NUMBER = re.compile(r"-(\d{2,})$")


def hand_over(
    groups: Sequence[VideoGroup], prompts: Sequence[str], folder: Path, how: How
) -> tuple[int, int]:
    """Put videos into ``folder`` as ``{prompt}-{index}.mp4``; group k gives index k of every prompt.

    ``name-03.mp4``, as `generate` writes it, belongs to the fourth prompt. A prompt that occurs again is
    left out, as its name is taken. Beside the folder, in ``{folder}.json``, is every video's path and
    prompt. The folder holds videos alone: VBench takes the ending of whatever file it sees first.

    Returns:
        How many videos are there, and how many lines repeat a prompt.

    Raises:
        ValueError: If videos and prompts do not fit, or a name cannot be or is taken.
    """
    names: dict[str, Path] = {}
    manifest: dict[str, str] = {}
    for index, group in enumerate(groups):
        for prompt, source in zip(prompts, _by_prompt(group, len(prompts)), strict=True):
            name = video_name(prompt, index, source.suffix.lower())
            names.setdefault(name, source)
            manifest[str((folder / name).absolute())] = prompt
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other.name not in names:
            raise ValueError(f"'{folder}' holds other things ('{other.name}'); name a new folder")
    for name, source in names.items():
        _put(source, folder / name, how)
    write_text(folder.parent / f"{folder.name}.json", json.dumps(manifest, indent=1) + "\n")
    return len(names), len(prompts) - len(set(prompts))


def _by_prompt(group: VideoGroup, num_prompts: int) -> list[Path]:
    """Return a group's videos in the order of the prompts."""
    paths = [file.path for file in group.files]
    if num_prompts == 1 and len(paths) == 1:
        return paths
    by_number: dict[int, Path] = {}
    for path in paths:
        found = NUMBER.search(path.stem)
        if found is None:
            raise ValueError(
                f"'{path}' does not end in a prompt's number, as name-00.mp4; generate all prompts in "
                "one run, or give one prompt"
            )
        number = int(found[1])
        if number in by_number:
            raise ValueError(
                f"'{by_number[number]}' and '{path}' are of the same prompt; give one"
            )
        by_number[number] = path
    wrong = sorted(by_number.keys() ^ set(range(num_prompts)))
    if wrong:
        what = "no video of" if wrong[0] < num_prompts else "a video of no"
        raise ValueError(
            f"'{group.name}' has {what} prompt {wrong[0]}; there are {num_prompts} prompts (0 to "
            f"{num_prompts - 1}) and {len(paths)} videos"
        )
    return [by_number[number] for number in range(num_prompts)]


def _put(source: Path, target: Path, how: How) -> None:
    source = source.resolve()
    if target.is_symlink() or target.exists():
        if target.resolve() == source:
            return
        raise ValueError(f"'{target}' is already there; name a new folder")
    if how == "link":
        target.symlink_to(source)
        return
    partial = partial_path(target.parent)  # VBench reads every file of the folder
    shutil.copyfile(source, partial)
    put_in_place(partial, target)
