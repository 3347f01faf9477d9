"""The preview: how far a linear map is from a decoder."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch.nn.functional import interpolate

from lightning_adastate.codecs import PixelShuffleCodec, PreviewCodec, WanCodec, fit_preview
from lightning_adastate.codecs.preview import psnr
from lightning_adastate.files import save_tensors
from lightning_adastate.worlds import PanWorld


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=6, dim_mult=[1, 2, 2, 3], num_res_blocks=1).save_pretrained(folder)
    return WanCodec(str(folder))


@pytest.fixture(scope="module")
def clips(wan):
    """Latents of moving pictures, 48 x 64, in groups of six."""
    torch.manual_seed(0)
    small = PanWorld().episodes(24, 13).video_BFCHW
    videos = interpolate(small.flatten(0, 1), size=(48, 64), mode="bilinear")
    return [wan.encode(video) for video in videos.unflatten(0, (24, 13)).split(6)]


@pytest.fixture(scope="module")
def fitted(wan, clips):
    preview = PreviewCodec(wan)
    fit_preview(preview, clips[:3])
    return preview


def test_of_a_decoder_that_is_linear_nothing_is_lost():
    codec = PixelShuffleCodec(2)
    preview = PreviewCodec(codec)
    videos = PanWorld().episodes(6, 5).video_BFCHW
    fit_preview(preview, [codec.encode(videos[:4])])
    latents = codec.encode(videos[4:])
    assert psnr(preview.decode(latents, {})[0], videos[4:]) > 60.0


def test_the_loss_on_clips_that_were_not_fitted_is_stated(wan, fitted, clips):
    # Measured: 31.5 dB, where each frame's mean colour gives 23.1 dB. A random decoder paints no
    # texture: this says what the fit does, not how Wan's pictures look.
    expected, _ = wan.decode(clips[3], {})
    colour = expected.mean((0, 3, 4), keepdim=True).expand_as(expected)
    shown, flat = psnr(fitted.decode(clips[3], {})[0], expected), psnr(colour, expected)
    assert 30.0 < shown < 40.0
    assert shown > flat + 7.0


def test_frames_colours_and_pixels_fall_where_the_decoder_puts_them():
    class Stripes(PixelShuffleCodec):
        """Four frames per latent, each pixel named by frame, row, column and colour."""

        temporal_stride = 4

        def decode(self, latents_BFCHW, state):
            batch, frames, _, height, width = latents_BFCHW.shape
            size = (batch, 1 + 4 * (frames - 1), 3, 2 * height, 2 * width)
            return torch.linspace(0, 1, 3 * 4).view(1, 1, 3, 2, 2).repeat(
                1, 1, 1, height, width
            ) * torch.linspace(0.5, 1, size[1]).view(1, -1, 1, 1, 1).expand(size), state

    codec = Stripes(2)
    preview = PreviewCodec(codec, reach=0)
    latents = torch.randn(3, 2, 12, 2, 3)
    fit_preview(preview, [latents])
    expected, _ = codec.decode(latents, {})
    torch.testing.assert_close(preview.decode(latents, {})[0], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_chunks_are_shown_as_the_whole_is(fitted, size):
    latents = torch.randn(2, 5, 16, 3, 4)
    state, parts = fitted.empty(), []
    for chunk in latents.split(size, dim=1):
        pixels, state = fitted.decode(chunk, state)
        parts.append(pixels)
    whole, _ = fitted.decode(latents, fitted.empty())
    assert whole.shape == (2, 17, 3, 24, 32)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-6)


def test_what_was_fitted_can_be_saved_and_loaded(wan, fitted, tmp_path):
    save_tensors(tmp_path / "p.safetensors", fitted.weights())
    loaded = PreviewCodec(wan, weights=str(tmp_path / "p.safetensors"))
    latents = torch.randn(1, 3, 16, 3, 4)
    assert torch.equal(loaded.decode(latents, {})[0], fitted.decode(latents, {})[0])
    assert loaded.is_fitted
    with pytest.raises(ValueError, match="for another codec or `reach`"):
        PreviewCodec(wan, weights=str(tmp_path / "p.safetensors"), reach=2)


def test_encoding_is_the_other_codecs(wan, fitted):
    video = torch.rand(1, 5, 3, 16, 24)
    assert torch.equal(fitted.encode(video), wan.encode(video))


def test_what_does_not_fit_is_refused(wan):
    with pytest.raises(ValueError, match="`reach` must be 0 or more, got -1"):
        PreviewCodec(wan, reach=-1)
    with pytest.raises(ValueError, match="cannot read preview weights"):
        PreviewCodec(wan, weights="/no/such/file")
    with pytest.raises(ValueError, match="two latent frames or more"):
        fit_preview(PreviewCodec(wan), [torch.randn(1, 1, 16, 3, 4)])
    with pytest.raises(ValueError, match="not fitted"):
        PreviewCodec(wan).decode(torch.randn(1, 1, 16, 3, 4), {})
