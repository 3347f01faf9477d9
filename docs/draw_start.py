"""Make the pictures of docs/getting-started.md from what the demo wrote: python docs/draw_start.py demo_output

The video is the first episode of the demo's own, cut out and encoded small; the sheet and the curves are the demo's files.
"""

import argparse
import shutil
from pathlib import Path

import av

from lightning_adastate.media import read_video
from lightning_adastate.media.video import to_uint8

DOCS = Path(__file__).parent
EPISODES = 4
"""Episodes in the demo's video, one above the other."""

MOST_BYTES = 300_000


def write_small(video_FCHW, path, *, fps=8):
    """Encode pixels in [0, 1] for browsers, small rather than true."""
    frames, _, height, width = video_FCHW.shape
    with av.open(path, "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = height - height % 2, width, "yuv420p"
        stream.options = {"crf": "31", "preset": "veryslow", "threads": "1"}
        for picture in to_uint8(video_FCHW[:, :, : stream.height]).permute(0, 2, 3, 1):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    size = path.stat().st_size
    assert size <= MOST_BYTES, f"{path} has {size} bytes"
    print(f"{path}: {frames} frames, {size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="the demo's output folder")
    demo = parser.parse_args().demo
    video = read_video(demo / "comparison.mp4")
    write_small(video[:, :, : video.shape[2] // EPISODES], DOCS / "start.mp4")
    shutil.copy(demo / "contact_sheet.png", DOCS / "start-sheet.png")
    shutil.copy(demo / "retention.png", DOCS / "start-retention.png")


if __name__ == "__main__":
    main()
