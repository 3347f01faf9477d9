"""Videos that users have: odd, turned, broken and hostile, made with PyAV."""

import struct
from fractions import Fraction

import av
import numpy as np


def frame(number, height=36, width=48):
    """Columns from dark to bright; the first row says the number."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:] = np.linspace(40, 200, width).astype(np.uint8)[None, :, None]
    picture[: height // 4] = 10 * number % 250
    return picture


def write(
    path, num_frames=12, *, size=(36, 48), codec="libx264", pix_fmt="yuv420p", rate=8, times=None,
    turned=0, options=None,
):  # fmt: skip
    """Write a video; ``times`` are the frames' times in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(
        str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}
    ) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turned:
            stream.set_display_rotation(turned)
        for number in range(num_frames):
            picture = av.VideoFrame.from_ndarray(frame(number, *size), format="rgb24")
            picture.pts = number if times is None else times[number]
            if times is not None:
                picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    path.with_suffix(".txt").write_text("a word")
    return path


def patched(path, box, offset, number, form=">I"):
    """Overwrite a number of an mp4's box, so that its header lies."""
    data = bytearray(path.read_bytes())
    at = data.index(box)
    struct.pack_into(form, data, at + 4 + offset, number)
    path.write_bytes(bytes(data))
    return path


def numbers(video_FCHW):
    """Read the frames' numbers back."""
    return (
        (video_FCHW[:, :, video_FCHW.shape[2] // 9].float().mean(dim=(1, 2)) / 10)
        .round()
        .int()
        .tolist()
    )
