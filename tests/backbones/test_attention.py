from concurrent.futures import ThreadPoolExecutor

import pytest
import reference
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_adastate.backbones import WanTransformer
from lightning_adastate.backbones.attention import (
    KERNELS,
    Flash,
    attend,
    kernels_of,
    torch_version,
)
from lightning_adastate.backbones.masks import (
    BLOCK,
    block_mask,
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
        out = attend(q, k, v, mask=used)
        expected = reference.attention(q[1, :, 2], k[1, :, 2], v[1, :, 2], used)
        torch.testing.assert_close(out[1, :, 2].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["cudnn", "flash", "flash3"])
def test_an_explicit_choice_that_is_unavailable_is_an_error(name):
    if KERNELS[name].missing() is None:
        pytest.skip("it works here")
    with pytest.raises(
        ValueError, match=f"attention `{name}` is not available: .*; or use `sdpa`"
    ):
        WanTransformer(24, ffn_dim=8, num_heads=2, num_layers=1, attention=name)


def test_an_explicit_choice_that_does_not_apply_is_an_error():
    q = torch.randn(1, 2, 1, 4)
    with pytest.raises(
        ValueError, match="`flash` needs half precision on CUDA and no mask, got torch.float32"
    ):
        attend(q, q, q, kernels=("flash",))
    with pytest.raises(ValueError, match="`flex` needs a frame mask"):
        attend(q, q, q, kernels=("flex",))
    assert torch.equal(attend(q, q, q, kernels=("flash", "sdpa")), attend(q, q, q))


def test_auto_takes_the_first_that_is_there(monkeypatch):
    assert kernels_of("sdpa") == ("sdpa",)
    assert kernels_of("flex") == ("flex", "sdpa")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    newer = torch_version() >= (2, 11)
    assert kernels_of("auto") == ("sdpa",)
    monkeypatch.setattr(Flash, "missing", lambda self: None)
    assert kernels_of("auto") == (
        ("flash3", "sdpa", "flash") if newer else ("flash3", "flash", "sdpa")
    )


class Half(torch.Tensor):
    """A tensor that passes for one on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("extra", [False, True])
def test_flash_gets_tokens_before_heads_whatever_it_returns(monkeypatch, extra):
    seen = []

    def call(query, key, value):
        seen.append(query.shape)
        return (value[:, :2], None) if extra else value[:, :2]

    monkeypatch.setattr(KERNELS["flash"], "call", call)
    q, k = (torch.randn(1, n, 3, 4).half().as_subclass(Half) for n in (2, 5))
    out = attend(q, k, k, kernels=("flash", "sdpa"))
    assert seen == [(1, 2, 3, 4)]
    assert torch.equal(out, k[:, :2])


class Flags(TorchDispatchMode):
    """Note which kernels another thread may use while an operation runs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with ThreadPoolExecutor(1) as other:
            self.seen.append(other.submit(allowed).result())
        return func(*args, **(kwargs or {}))


def allowed():
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()


def test_cudnn_leaves_the_kernels_of_other_threads_alone():
    """A VAE decodes meanwhile: its heads of 384 are none of cuDNN's."""
    q, k = (torch.empty(1, n, 2, 64, device="meta", dtype=torch.bfloat16) for n in (3, 5))
    with Flags() as flags:
        out = KERNELS["cudnn"].run(q, k, k, None)
    assert out.shape == (1, 3, 2, 64)
    assert set(flags.seen) == {(True, True, True)}


@pytest.mark.parametrize("grad", [False, True])
def test_cudnn_keeps_what_a_backward_pass_needs_only_for_one(grad):
    q = torch.empty(1, 3, 2, 64, device="meta", dtype=torch.bfloat16, requires_grad=grad)
    with Watch() as watch:
        KERNELS["cudnn"].run(q, q.detach(), q.detach(), None)
    (kept,) = watch.kept
    assert kept is grad


class Watch(TorchDispatchMode):
    """Note whether cuDNN's kernel is to keep the sums."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "cudnn_attention" in func.name():
            self.kept.append(args[4])
        return func(*args, **(kwargs or {}))


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


@pytest.mark.parametrize("tokens", [1, 50, 130, 256])
@pytest.mark.parametrize("make", [diffusion_forcing_mask, teacher_forcing_mask])
def test_blocks_hide_what_the_mask_hides(make, tokens):
    frames = make([1, 2, 3, 3], window_frames=5)
    blocks = block_mask(frames, tokens, torch.device("cpu"))
    dense = token_mask(frames, tokens)
    pieces = [
        [dense[i : i + BLOCK, j : j + BLOCK] for j in range(0, len(dense), BLOCK)]
        for i in range(0, len(dense), BLOCK)
    ]
    for row, parts in enumerate(pieces):
        part = blocks.kv_indices[0, 0, row, : blocks.kv_num_blocks[0, 0, row]].tolist()
        full = blocks.full_kv_indices[0, 0, row, : blocks.full_kv_num_blocks[0, 0, row]].tolist()
        assert full == [j for j, piece in enumerate(parts) if piece.all()]
        assert part == [j for j, piece in enumerate(parts) if piece.any() and not piece.all()]


def test_the_mask_within_a_block_is_the_frames():
    frames = teacher_forcing_mask([2, 1])
    blocks = block_mask(frames, 3, torch.device("cpu"))
    index = torch.arange(18)
    found = blocks.mask_mod(torch.tensor(0), torch.tensor(0), index[:, None], index[None])
    assert torch.equal(found, token_mask(frames, 3))


@pytest.mark.slow
def test_flex_attention_equals_the_dense_mask():
    torch.manual_seed(0)
    frames = teacher_forcing_mask([1, 2])
    tokens = 45
    q, k, v = (torch.randn(2, 6 * tokens, 2, 16) for _ in range(3))
    with torch.no_grad():
        expected = attend(q, k, v, mask=token_mask(frames, tokens))
        mask = block_mask(frames, tokens, torch.device("cpu"))
        found = attend(q, k, v, mask=mask, kernels=("flex", "sdpa"))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
