import pytest
import torch

from lightning_adastate.noise import CounterNoise, NoiseKey, RecordedNoise, RepeatedNoise

KEY = NoiseKey(chunk=3, step=1, slot="content")
SHAPE = (2, 3, 4, 5)


def draw(key=KEY, source=None, seed=7, ids=(0, 1)):
    return (source or CounterNoise()).draw(key, seed=seed, stream_ids=ids, shape_FCHW=SHAPE)


def test_noise_is_a_pure_function():
    first = draw()
    torch.manual_seed(99)
    torch.randn(5)
    assert torch.equal(first, draw())


def test_every_part_of_the_key_changes_the_noise():
    base = draw()
    others = [
        draw(KEY._replace(chunk=4)),
        draw(KEY._replace(step=2)),
        draw(KEY._replace(slot="state")),
        draw(seed=8),
        draw(ids=(2, 3)),
    ]
    assert not any(torch.equal(base, other) for other in others)


def test_a_stream_keeps_its_noise_in_any_batch():
    assert torch.equal(draw(ids=(4, 9, 2))[1], draw(ids=(9,))[0])


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    draw()
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_standard_normal():
    big = CounterNoise().draw(KEY, seed=0, stream_ids=(0,), shape_FCHW=(8, 16, 32, 32))
    assert abs(float(big.mean())) < 0.01
    assert abs(float(big.std()) - 1) < 0.01


def test_repeated_noise_starts_every_chunk_alike_and_renoises_afresh():
    source = RepeatedNoise()
    start = [draw(NoiseKey(chunk, 0, "content"), source) for chunk in (0, 5)]
    later = [draw(NoiseKey(chunk, 1, "content"), source) for chunk in (0, 5)]
    assert torch.equal(*start)
    assert not torch.equal(*later)


def test_a_recording_refuses_what_it_does_not_hold():
    source = RecordedNoise({KEY: torch.zeros(2, *SHAPE)})
    assert torch.equal(draw(source=source), torch.zeros(2, *SHAPE))
    with pytest.raises(ValueError, match="no noise for"):
        draw(KEY._replace(chunk=9), source)
    with pytest.raises(ValueError, match="has shape"):
        draw(source=source, ids=(0,))
