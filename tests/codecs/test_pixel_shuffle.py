import pytest
import torch

from lightning_adastate.codecs import Codec, PixelShuffleCodec
from lightning_adastate.worlds import PanWorld


def test_decoding_what_was_encoded_gives_the_same_pixels():
    video = torch.rand(2, 3, 3, 6, 10)
    for stride in (1, 2):
        codec = PixelShuffleCodec(stride)
        latents = codec.encode(video)
        assert latents.shape[2:] == codec.latent_shape(6, 10)
        torch.testing.assert_close(
            codec.decode(latents, codec.empty())[0], video, atol=1e-6, rtol=0
        )


def test_a_latent_channel_holds_the_pixel_it_should():
    video = torch.zeros(1, 1, 3, 4, 4)
    video[0, 0, 1, 2, 3] = (
        1.0  # green, second block row, second block column, inner row 0, column 1
    )
    latents = PixelShuffleCodec(2, scale=1.0).encode(video)
    assert (latents > 0).nonzero().tolist() == [[0, 0, 5, 1, 1]]
    assert latents.min() == -1.0


def test_decoding_in_parts_equals_decoding_at_once():
    codec = PixelShuffleCodec(2)
    latents = torch.randn(2, 5, 12, 3, 4)
    state = codec.empty()
    first, state = codec.decode(latents[:, :2], state)
    rest, _ = codec.decode(latents[:, 2:], state)
    assert torch.equal(torch.cat([first, rest], 1), codec.decode(latents, codec.empty())[0])


def test_wild_latents_decode_into_zero_to_one():
    video, _ = PixelShuffleCodec(2).decode(100.0 * torch.randn(1, 1, 12, 2, 2), {})
    assert video.min() == 0.0
    assert video.max() == 1.0


def test_the_default_scale_gives_the_default_world_unit_latents():
    latents = PixelShuffleCodec().encode(PanWorld().episodes(8, 21).video_BFCHW)
    assert abs(latents.std() - 1.0) < 0.1
    assert abs(latents.mean()) < 0.2


class FourToOne(Codec):
    temporal_stride = 4
    latent_channels, spatial_stride = 16, 8

    def encode_next(self, video_BFCHW, state):
        raise NotImplementedError

    def decode(self, latents_BFCHW, state):
        raise NotImplementedError


def test_frames_are_counted_as_one_and_then_the_stride_each():
    codec = FourToOne()
    assert [codec.pixel_frames(n) for n in (0, 1, 2, 21)] == [0, 1, 5, 81]
    assert [codec.latent_frames(n) for n in (1, 5, 81)] == [1, 2, 21]
    with pytest.raises(ValueError, match=r"must be 1 \+ 4 n, got 4"):
        codec.latent_frames(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PixelShuffleCodec(0), "`stride` must be 1 or more, got 0"),
        (lambda: PixelShuffleCodec(scale=0.0), "`scale` must be positive, got 0.0"),
        (lambda: PixelShuffleCodec(2).encode(torch.zeros(1, 1, 3, 5, 4)), "multiples of 2"),
        (lambda: PixelShuffleCodec(2).encode(torch.zeros(1, 1, 4, 4, 4)), "expected video"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
