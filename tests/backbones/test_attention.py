import pytest
import reference
import torch

from lightning_adastate.backbones import WanTransformer
from lightning_adastate.backbones.attention import attend, flash_reason
from lightning_adastate.backbones.masks import (
    diffusion_forcing_mask,
    teacher_forcing_mask,
    token_mask,
)


def test_attention_equals_the_loop_reference():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, 4, generator=generator) for n in (5, 7, 7))
    mask = torch.rand(5, 7, generator=generator) > 0.3
    mask[:, 0] = True
    for used in (None, mask):
        out = attend(q, k, v, mask_SK=used)
        expected = reference.attention(q[1, :, 2], k[1, :, 2], v[1, :, 2], used)
        torch.testing.assert_close(out[1, :, 2].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.skipif(flash_reason() is None, reason="FlashAttention works here")
def test_an_explicit_choice_that_is_unavailable_is_an_error():
    with pytest.raises(ValueError, match="attention `flash` is not available"):
        WanTransformer(24, ffn_dim=8, num_heads=2, num_layers=1, attention="flash")
    q = torch.randn(1, 2, 1, 4)
    with pytest.raises(ValueError, match="use `auto` or `sdpa`"):
        attend(q, q, q, backend="flash")
    assert torch.equal(attend(q, q, q, backend="auto"), attend(q, q, q))


def test_diffusion_forcing_sees_its_own_chunk_and_all_before():
    mask = diffusion_forcing_mask([1, 2, 2])
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]
    assert mask.int().tolist() == expected
    limited = diffusion_forcing_mask([1, 2, 2], window_frames=3)
    assert limited.int().tolist()[3] == [0, 0, 1, 1, 1]


def test_teacher_forcing_noisy_frames_see_their_own_chunk_and_clean_frames_before_it():
    mask = teacher_forcing_mask([2, 1]).int().tolist()
    assert mask == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_token_mask_spreads_frames_over_tokens():
    assert token_mask(torch.tensor([[True, False]]), 2).int().tolist() == [[1, 1, 0, 0]] * 2
