"""evaluate: score any videos without a network: motion, consistency and drift, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning_adastate.data import read_prompts
from lightning_adastate.evaluation.console import wide_console
from lightning_adastate.evaluation.vbench import How, hand_over
from lightning_adastate.evaluation.video_groups import VideoGroup, find_groups
from lightning_adastate.files import output_folder
from lightning_adastate.metrics.video_frames import Flow
from lightning_adastate.recipes.parser import SentenceParser

Pictures = Literal["none", "plots", "all"]

DESCRIPTION = """Score video files: how much they move, whether they hold together and whether their look drifts. A folder
stands for all videos in it. Videos of one folder are a group; several groups are compared with the first, in pairs if
their file names are the same. No network and no GPU is needed. Writes scores.csv, scores.json and plots. With `vbench`, nothing is
scored: the videos are handed over under the names that VBench looks for."""


def evaluate_parser() -> SentenceParser:
    """Return the parser of ``evaluate``."""
    parser = SentenceParser(prog="lightning_adastate evaluate", description=DESCRIPTION)
    parser.add_argument("videos", nargs="*", type=Path, help="Video files, or folders of them.")
    parser.add_argument(
        "--chunk_frames",
        type=int | None,
        help="Frames per chunk, for `boundary_jump` and `ssim_seam`; 12 for three latents of Wan.",
    )
    parser.add_argument(
        "--first_chunk_frames",
        type=int | None,
        help="Frames of the first chunk if it has fewer; 9 for three latents of Wan.",
    )
    parser.add_argument(
        "--window_frames",
        type=int,
        default=24,
        help="Frames the model sees back; `novelty` compares with older ones.",
    )
    parser.add_argument(
        "--num_parts", type=int, default=5, help="Parts of the drift error (vde_*)."
    )
    parser.add_argument(
        "--flow",
        type=Flow | None,
        help="Score optical flow too, for `flow_top` and VBench's `dynamic_degree`: `dis`, or `farneback`, "
        "which is slower. Needs the extra `metrics`.",
    )
    parser.add_argument(
        "--device", type=str, default="auto", help="`auto` is CUDA if there is one."
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/scores"), help="Folder.")
    parser.add_argument(
        "--pictures",
        type=Pictures,
        default="plots",
        help="`plots` of the scores, `all`: also the videos side by side and a sheet of key frames, or `none`.",
    )
    parser.add_argument(
        "--sheet_seconds", type=float, default=12.0, help="Seconds between two key frames."
    )
    parser.add_argument(
        "--vbench",
        type=Path | None,
        help="Hand the videos over to this folder as {prompt}-{index}.mp4; the folders given are "
        "index 0, 1, ...",
    )
    parser.add_argument(
        "--prompts",
        type=str | None,
        help="With `vbench`: the prompts, one per line; name-00.mp4 is of the first.",
    )
    parser.add_argument("--hand_over", type=How, default="link", help="`link` or `copy`.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, score or hand over, print and write."""
    parsed = evaluate_parser().parse_args(args)
    if not parsed.videos:
        raise ValueError("give video files, or folders of them")
    if parsed.pictures == "all":
        from lightning_adastate.evaluation.video_pictures import check_sheet_seconds

        check_sheet_seconds(parsed.sheet_seconds)
    if (parsed.vbench is None) != (parsed.prompts is None):
        raise ValueError("`vbench` and `prompts` go together; give both or neither")
    if parsed.vbench is not None:
        groups = find_groups(parsed.videos)
        return _hand_over(groups, parsed.prompts, parsed.vbench, parsed.hand_over)
    from lightning_adastate.evaluation.videos import (
        evaluate,  # torchmetrics takes as long as torch
    )

    with output_folder(parsed.output):
        evaluation = evaluate(
            parsed.videos,
            chunk_frames=parsed.chunk_frames,
            first_chunk_frames=parsed.first_chunk_frames,
            window_frames=parsed.window_frames,
            num_parts=parsed.num_parts,
            flow=parsed.flow,
            device=parsed.device,
        )
        names = evaluation.write(parsed.output)
        if parsed.pictures != "none":
            names += evaluation.write_plots(parsed.output)
        if parsed.pictures == "all":
            names += evaluation.write_pictures(parsed.output, sheet_seconds=parsed.sheet_seconds)
    console = wide_console()
    console.print(evaluation.table())
    console.print(f"written to {parsed.output}: {', '.join(names)}")
    return 0


def _hand_over(groups: Sequence[VideoGroup], prompts: str, folder: Path, how: How) -> int:
    count, repeated = hand_over(groups, read_prompts(prompts), folder, how)
    again = f", {repeated} lines repeat a prompt and are left out" if repeated else ""
    print(f"{count} videos in {folder}, prompts in {folder}.json{again}")
    return 0
