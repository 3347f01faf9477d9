"""Pieces of video for a browser: every chunk a whole little fragmented mp4, so that a viewer can begin with any."""

# Shapes: F frames, H W height / width in pixels.

from __future__ import annotations

import io
from typing import NamedTuple

import av
from torch import Tensor
from torch.nn.functional import pad

from lightning_adastate.media.video import check_fps, check_picture, to_uint8, upscale

MOVIE = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
CODER = {
    "preset": "superfast",
    "tune": "zerolatency",
    "crf": "16",
    "threads": "1",
    "sc_threshold": "0",
}
"""No frame waits for another. A cut in the picture makes no key frame of its own, which would begin another fragment."""


class Fragment(NamedTuple):
    """A chunk of video as Media Source Extensions take it.

    Args:
        data: Header, one moof and its mdat.
        mime: What a SourceBuffer is opened with.
    """

    data: bytes
    mime: str


def encode_fragment(video_FCHW: Tensor, *, fps: int, scale: int = 1) -> Fragment:
    """Return frames ``[F, 3, H, W]``, uint8 or floats in [0, 1], as one H.264 fragment that begins at time 0.

    It has its own header and begins with a key frame: none of those before it is needed. A SourceBuffer in the
    mode ``sequence`` plays one behind the other, whichever are left out. Odd sides are padded by a pixel.

    Raises:
        ValueError: If they are no RGB frames, there is none, or a number is out of range.
    """
    if video_FCHW.ndim != 4 or video_FCHW.shape[1] != 3 or not len(video_FCHW):
        raise ValueError(f"expected frames [F, 3, H, W], got shape {tuple(video_FCHW.shape)}")
    check_fps(fps)
    height, width = video_FCHW.shape[2:]
    check_picture(height, width, scale)
    frames = upscale(to_uint8(video_FCHW), scale)
    height, width = frames.shape[2:]
    if height % 2 or width % 2:
        frames = pad(frames.float(), (0, width % 2, 0, height % 2), mode="replicate").byte()
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4", options=MOVIE) as container:
        stream = container.add_stream("libx264", rate=fps, options=CODER)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = len(frames)
        for index, picture in enumerate(frames.permute(0, 2, 3, 1).contiguous().numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        described = stream.codec_context.extradata
    data = memory.getvalue()
    return Fragment(data, f'video/mp4; codecs="avc1.{_profile(described or b"")}"')


def _profile(described: bytes) -> str:
    """Return profile, constraints and level of H.264's sequence parameters as RFC 6381 writes them."""
    start = described.find(b"\x00\x00\x01\x67") + 4
    return described[start : start + 3].hex()
