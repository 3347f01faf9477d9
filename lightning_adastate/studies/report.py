"""One HTML file that holds everything a person looks at: tables, plots, videos, and where it comes from."""

# Shapes: E episodes, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_adastate.files import write_text
from lightning_adastate.media.pictures import side_by_side
from lightning_adastate.media.video import write_video
from lightning_adastate.studies import plots
from lightning_adastate.studies.rows import StudyRows, about
from lightning_adastate.studies.tables import Estimate, StudyTable

COLUMNS = 6
"""Videos beside each other; more go below."""

SHOWN_VIDEOS = 2
"""Episodes in the report; the folder has more."""

VIDEO_WIDTH = 1260
FPS = 8

HORIZON = (
    "Length in frames below, 95 % intervals as bands. Pale and dotted: the weights before training. "
    "The thin grey line is what the truth would have."
)
SCATTER = "Late in the longest stream; crosses are 95 % intervals, small dots single seeds. Up and left is worse."
ATTENTION = "In the last chunk that was streamed with the probe, mean over its noisy passes, layers and heads; first seed."

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1280px; margin: 2em auto; padding: 0 1em }}
h1 {{ font-size: 1.6em }} h2 {{ font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ddd }}
h3 {{ font-size: 1em; margin: 1.4em 0 .4em }}
.wide {{ overflow-x: auto }} table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ text-align: right; padding: .25em .55em; border-bottom: 1px solid #eee; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }} thead th {{ border-bottom: 2px solid #bbb }}
small {{ color: #777 }} td.sure {{ font-weight: 600 }} td.sure small {{ color: #444 }}
summary {{ cursor: pointer; margin-top: 1em }}
.failed {{ background: #fdecea; border-left: 4px solid #c33; padding: .5em 1em }}
img, video {{ max-width: 100%; display: block; margin: .5em 0 }}
code, pre {{ font-size: 12.5px }} pre {{ white-space: pre-wrap; background: #f6f6f6; padding: .6em 1em }}
</style></head><body>
{body}
</body></html>
"""


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    rows: StudyRows,
    found: Sequence[Estimate],
    tables: Sequence[StudyTable],
    metrics: Sequence[str],
    failed: Mapping[str, str],
    origin: str,
) -> list[str]:
    """Write the report and its videos; return the names of the videos.

    Args:
        path: The HTML file; videos go into ``videos`` beside it, and into the file as well.
        title: Above everything.
        summary: What was done, one paragraph.
        rows: All scores.
        found: All means and differences.
        tables: What of them is shown, as tables.
        metrics: Scores to plot.
        failed: What failed, and why.
        origin: The study's configuration and commands, as text.
    """
    look = plots.styles(rows)
    drawn = (
        ("Scores against the horizon", HORIZON, plots.horizon_plot(rows, found, metrics, look)),
        ("Motion against identity", SCATTER, plots.scatter_plot(rows, found, look)),
        ("Attention per cached frame", ATTENTION, plots.attention_plot(rows, look)),
    )
    first = [table for table in tables if table.frames == rows.horizons[-1]]
    rest = [table for table in tables if table.frames != rows.horizons[-1]]
    videos = write_videos(path.parent / "videos", rows)
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(summary)}</p>", _failures(failed)]
    parts += ["<h2>Tables</h2>", *(table.html() for table in first), "<details>"]
    parts += ["<summary>Other horizons</summary>", *(table.html() for table in rest), "</details>"]
    for name, caption, svg in drawn:
        if svg is not None:
            parts += [f"<h2>{name}</h2>", f"<p>{caption}</p>", _picture(svg, name)]
    parts += ["<h2>Side by side</h2>"]
    parts += [_video(video, caption) for video, caption in list(videos.items())[:SHOWN_VIDEOS]]
    parts += ["<h2>Where it comes from</h2>", f"<pre>{html.escape(origin)}</pre>"]
    write_text(path, PAGE.format(title=html.escape(title), body="\n".join(parts)))
    return [f"videos/{video.name}" for video in videos]


def _failures(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    lines = "".join(
        f"<li><b>{html.escape(n)}</b>: {html.escape(why)}</li>" for n, why in failed.items()
    )
    return f"<div class=failed><b>{len(failed)} failed</b><ul>{lines}</ul></div>"


def _picture(svg: str, name: str) -> str:
    coded = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/svg+xml;base64,{coded}">'


def _video(path: Path, caption: str) -> str:
    coded = base64.b64encode(path.read_bytes()).decode()
    return (
        f"<h3>{html.escape(caption)}</h3><video controls loop muted autoplay playsinline "
        f'src="data:video/mp4;base64,{coded}"></video>'
    )


# -- videos ---------------------------------------------------------------------------------------


def write_videos(folder: Path, rows: StudyRows) -> dict[Path, str]:
    """Write one video for each kept episode, the truth and every row's first seed; return their captions."""
    streams = {
        name: load_file(rows.first(name).scores.folder / "videos.safetensors")
        for name in rows.names
    }
    first = about(rows.first(rows.names[0]))
    prompts = first["prompts"]
    assert isinstance(prompts, list)
    truth_EFCHW = streams[rows.names[0]]["truth"]
    names = ["truth", *streams]
    written = {}
    for episode, prompt in enumerate(prompts):
        videos = [truth_EFCHW[episode], *(each["video"][episode] for each in streams.values())]
        path = folder / f"episode-{episode}.mp4"
        write_video(path, in_lines(videos, names), fps=FPS)
        written[path] = f'"{prompt}"; first seed of each'
    return written


def in_lines(videos: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """Return videos ``[F, 3, H, W]`` in lines of a few, each under its name, uint8 ``[F, 3, H', W']``."""
    columns = min(COLUMNS, len(videos))
    scale = max(1, VIDEO_WIDTH // columns // videos[0].shape[3])
    blank = torch.full_like(videos[0], 255)
    lines = []
    for begin in range(0, len(videos), columns):
        line, labels = list(videos[begin : begin + columns]), list(names[begin : begin + columns])
        missing = columns - len(line)
        lines.append(side_by_side(line + [blank] * missing, labels + [" "] * missing, scale=scale))
    return torch.cat(lines, dim=2)
