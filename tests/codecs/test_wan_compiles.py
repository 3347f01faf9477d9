"""How often the VAE's passes are compiled, counted with a compiler that only looks."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch._dynamo.testing import CompileCounter

from lightning_adastate.codecs import wan_fast


@pytest.mark.nightly
def test_the_whole_decoder_is_compiled_once_for_all_chunks_behind_the_first():
    """Without graph breaks: the first chunk has one picture for its first latent, and must leave no trace of it."""
    torch._dynamo.reset()
    counter = CompileCounter()
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=6, dim_mult=[1, 1, 1], num_res_blocks=1).eval()
    wan_fast.use_channels_last(vae)
    compiled = torch.compile(wan_fast.decode_frames, backend=counter, dynamic=False)
    with torch.no_grad():
        _, memory = wan_fast.decode_frames(vae, torch.randn(1, 16, 3, 2, 3), {})
        for _ in range(3):
            chunk = torch.randn(1, 16, 3, 2, 3)
            plain, _ = wan_fast.decode_frames(vae, chunk, memory)
            made, memory = compiled(vae, chunk, memory)
            torch.testing.assert_close(made, plain)
    assert counter.frame_count == 1
