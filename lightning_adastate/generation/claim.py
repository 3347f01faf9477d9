"""Whose an output is: free, begun with the same settings, or somebody else's."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lightning_adastate.files import make_folder, missing_folders, remove_empty
from lightning_adastate.generation.journal import Journal
from lightning_adastate.generation.lock import OutputRefusedError, only_writer
from lightning_adastate.generation.options import AUTO_OUTPUT, Generation
from lightning_adastate.generation.outputs import numbered
from lightning_adastate.generation.settings import Setting
from lightning_adastate.media.latents import unfinished_path


class Claim(NamedTuple):
    """What a run may write: the video's name, and the journal; it exists if the output is to be continued."""

    video: str | None
    journal: Journal


@contextlib.contextmanager
def claimed(
    generation: Generation, settings: Mapping[str, Setting], num_streams: int
) -> Iterator[Claim]:
    """Take an output's names for as long as the block runs.

    Raises:
        OutputRefusedError: If it is finished, was begun with other settings, or another process is writing it.
        ValueError: If nothing can be written there.
    """
    wanted = (generation.state_video, generation.latents, generation.state_out)
    others = [Path(name) for name in wanted if name]
    for video in _videos(generation.output):
        names = [Path(video), *others] if video is not None else others
        journal = Journal(names[0], settings)
        with contextlib.ExitStack() as held:
            held.callback(remove_empty, missing_folders(*names))  # the last to go
            try:
                for name in names:
                    make_folder(name.parent)
                held.enter_context(only_writer(names))
                if not generation.overwrite:
                    _check_free(journal, names, num_streams)
            except OutputRefusedError as error:
                if generation.output == "auto" and error.output == names[0]:
                    continue
                raise
            yield Claim(video, journal)
            return


def _videos(output: str | None) -> Iterator[str | None]:
    """Yield the names to try: one, or all that an output without a name may have."""
    if output != "auto":
        yield output
        return
    first = Path(AUTO_OUTPUT)
    yield str(first)
    for number in itertools.count(2):
        yield str(first.with_name(f"{first.stem}_{number}{first.suffix}"))


def _check_free(journal: Journal, names: list[Path], num_streams: int) -> None:
    """Refuse an output that these settings cannot go on with."""
    if journal.exists:
        if obstacle := journal.obstacle():
            raise OutputRefusedError(
                journal.output,
                f"{obstacle}; give another name, or `--generation.overwrite` to start anew",
            )
        return
    for name in names:
        if found := _written(name, num_streams):
            raise OutputRefusedError(
                name,
                f"'{found[0]}' is there already; give another name, or `--generation.overwrite` to "
                "start anew",
            )


def _written(name: Path, num_streams: int) -> list[Path]:
    """Return what there is of a name, with and without the streams' numbers."""
    paths = [name, *(numbered(name, row, num_streams) for row in range(num_streams))]
    hidden = [unfinished_path(path) for path in paths] if name.suffix != ".mp4" else []
    return [path for path in (*paths, *hidden) if path.exists()]
