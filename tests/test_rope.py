import pytest
import reference
import torch

from lightning_adastate.rope import rope_table, rotate, rotate_into, split_pairs

CPU = torch.device("cpu")


def table(positions, grid=(2, 3), dim=24):
    return rope_table(tuple(float(p) for p in positions), *grid, dim, CPU)


def test_rotation_equals_the_complex_reference():
    x = torch.randn(2 * 6, 24, generator=torch.Generator().manual_seed(0))
    ours = rotate(x[:, None], table((3, 7)))[:, 0]
    torch.testing.assert_close(ours.double(), reference.rotary(x, (3, 7), 2, 3), atol=1e-5, rtol=0)


def test_wan_splits_64_pairs_into_22_21_21():
    assert split_pairs(128) == (22, 21, 21)
    with pytest.raises(ValueError, match="even"):
        split_pairs(23)


def test_rotation_at_the_origin_is_identity():
    x = torch.randn(1, 1, 24)
    torch.testing.assert_close(rotate(x, table((0,), grid=(1, 1))), x, atol=0, rtol=0)


def test_only_differences_of_positions_matter():
    q, k = torch.randn(6, 1, 24), torch.randn(6, 1, 24)
    scores = [(rotate(q, table((5 + s,))) * rotate(k, table((2 + s,)))).sum(-1) for s in (0, 1000)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-4)
    other = (rotate(q, table((6,))) * rotate(k, table((2,)))).sum(-1)
    assert (other - scores[0]).abs().max() > 1e-2


def test_a_float_position_lies_between_its_neighbours():
    x = torch.ones(1, 1, 24)
    low, mid, high = (rotate(x, table((p,), grid=(1, 1)))[0, 0, 0] for p in (1.0, 1.5, 2.0))
    assert low > mid > high


def test_tables_made_in_inference_mode_serve_training():
    with torch.inference_mode():
        made = table((123,))
    x = torch.randn(6, 1, 24, requires_grad=True)
    rotate(x, made).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_rotation_written_in_place_is_the_rotation_to_the_last_bit(dtype):
    """Into the middle of a longer window, from frames that do not lie together, which stay as they were."""
    frames = torch.randn(2, 3, 4, 6, 2, 16).to(dtype)
    part = frames[:, :, 1:3].flatten(2, 3)
    before = frames.clone()
    table = rope_table((0.0, 3.0), 2, 3, 16, torch.device("cpu"))
    window = torch.full((2, 3, 20, 2, 16), 7.0).to(dtype)
    rotate_into(window[:, :, 4:16], part, table)
    assert torch.equal(window[:, :, 4:16], rotate(part, table))
    assert torch.equal(frames, before)
    assert (window[:, :, :4] == 7.0).all()
    assert (window[:, :, 16:] == 7.0).all()
