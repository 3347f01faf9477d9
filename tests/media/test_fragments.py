"""Fragments for a browser: each plays by itself, from time 0, and shows what it was given."""

import io

import av
import pytest
import torch

from lightning_adastate.media.fragments import encode_fragment


def test_a_fragment_plays_by_itself_and_begins_with_a_key_frame():
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])
    video = colors[:, :, None, None].expand(-1, -1, 8, 16)
    fragment = encode_fragment(video, fps=12, scale=4)
    with av.open(io.BytesIO(fragment.data)) as container:
        frames = list(container.decode(video=0))
    assert [float(frame.time) for frame in frames] == pytest.approx([0, 1 / 12, 2 / 12])
    assert frames[0].key_frame
    shown = torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in frames]) / 255
    assert shown.shape == (3, 32, 64, 3)
    torch.testing.assert_close(shown.mean((1, 2)).float(), colors, atol=0.03, rtol=0.0)


def test_its_boxes_are_a_header_and_one_fragment():
    data = encode_fragment(torch.rand(4, 3, 8, 16), fps=8, scale=4).data
    boxes, place = [], 0
    while place < len(data):
        boxes.append(data[place + 4 : place + 8].decode())
        place += int.from_bytes(data[place : place + 4], "big")
    assert boxes[:4] == ["ftyp", "moov", "moof", "mdat"]
    assert boxes.count("moof") == 1


def test_its_type_names_profile_and_level_of_the_stream():
    mime = encode_fragment(torch.rand(1, 3, 8, 16), fps=8, scale=4).mime
    assert mime.startswith('video/mp4; codecs="avc1.64')
    assert len(mime) == len('video/mp4; codecs="avc1.64000a"')


def test_odd_sides_are_padded():
    fragment = encode_fragment(torch.rand(1, 3, 7, 5), fps=8)
    with av.open(io.BytesIO(fragment.data)) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (8, 6)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 1, 8, 8), (3, 8, 8)])
def test_what_is_no_video_is_refused(shape):
    with pytest.raises(ValueError, match="expected frames"):
        encode_fragment(torch.zeros(shape), fps=8)
