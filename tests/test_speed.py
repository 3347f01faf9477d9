"""Which fast paths a stream takes, decided from facts alone; and that they are taken, or not, in a real stream."""

from dataclasses import replace

import pytest
import torch
from tiny import LATENT, streamer, text
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_adastate.backbones import WanTransformer
from lightning_adastate.backbones.attention import fastest_first
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.components.compiled import CompiledOrPlain
from lightning_adastate.generation.generate import plan_speed
from lightning_adastate.generation.options import Generation
from lightning_adastate.media.video import to_uint8
from lightning_adastate.noise import CounterNoise, NoiseKey, RecordedNoise, RepeatedNoise
from lightning_adastate.streaming.noise_ahead import NoiseAhead
from lightning_adastate.streaming.pipeline import StreamPipeline
from lightning_adastate.streaming.speed import DeviceFacts, SpeedPlan, Wishes
from lightning_adastate.text import VocabularyEncoder

CPU = DeviceFacts("cpu", has_triton=True)
H200 = DeviceFacts("cuda", "NVIDIA H200", (9, 0), has_triton=True)
SMALL, LARGE = Wishes(block_operations=1e9), Wishes(block_operations=4e11)
ALL = {
    "compile_blocks",
    "cuda_graphs",
    "compile_passes",
    "fast_attention",
    "overlapped",
    "noise_ahead",
    "bytes_out",
}


def taken(speed, facts, wishes=SMALL):
    plan = SpeedPlan.decide(speed, facts, wishes)
    return {name for name, choice in plan.choices().items() if choice.taken}


def test_a_card_takes_everything_and_a_cpu_only_the_recipes_kernel():
    assert taken("auto", H200) == ALL
    assert taken("auto", CPU) == {"fast_attention"}


@pytest.mark.parametrize("facts", [CPU, H200], ids=["cpu", "card"])
def test_plain_takes_nothing_whatever_the_recipe_says(facts):
    wishes = Wishes("steady", "steady", "steady", "overlapped", 1e9)
    assert taken("plain", facts, wishes) == set()


def test_what_the_recipe_says_is_done():
    never = Wishes("never", "never", "never", "in_turn", 1e9)
    assert taken("auto", H200, never) == {"fast_attention", "noise_ahead", "bytes_out"}
    steady = Wishes("steady", "steady", "steady", "overlapped", 1e9)
    assert taken("auto", CPU, steady) == ALL - {"noise_ahead", "bytes_out"}


def test_passes_are_recorded_where_launching_takes_longer_than_the_work():
    assert "cuda_graphs" in taken("auto", H200, SMALL)
    assert "cuda_graphs" not in taken("auto", H200, LARGE)
    assert taken("auto", H200, LARGE) == ALL - {"cuda_graphs"}


@pytest.mark.parametrize(
    ("change", "lost", "why"),
    [
        ({"has_triton": False}, {"compile_blocks", "compile_passes"}, "pip install triton"),
        (
            {"capability": (6, 1)},
            {"compile_blocks", "compile_passes"},
            "capability 6.1 is below 7.0",
        ),
        ({"autocast": True}, {"cuda_graphs"}, "use the precision bf16-true"),
    ],
    ids=["no triton", "old card", "mixed precision"],
)
def test_what_cannot_be_done_is_left_out_and_one_line_says_why(change, lost, why):
    facts = replace(H200, **change)
    assert taken("auto", facts) == ALL - lost
    sentence = SpeedPlan.decide("auto", facts, SMALL).sentence()
    assert why in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("capability", "version", "order"),
    [
        (None, (2, 13), ("sdpa",)),
        ((9, 0), (2, 11), ("flash3", "sdpa", "flash")),
        ((9, 0), (2, 6), ("flash3", "flash", "sdpa")),
        ((8, 0), (2, 13), ("flash", "sdpa")),
        ((8, 9), (2, 13), ("flash", "sdpa")),
        ((10, 0), (2, 13), ("sdpa",)),
        ((12, 0), (2, 13), ("sdpa",)),
    ],
)
def test_the_order_of_kernels_is_the_cards(capability, version, order):
    assert fastest_first(capability, version) == order


# -- taken in a stream ------------------------------------------------------------------------------


def pipeline(**backbone):
    sizes = {"ffn_dim": 32, "num_heads": 2, "num_layers": 2, "in_channels": 12, "freq_dim": 16}
    options = {"patch_size": (1, 1, 1), "text_dim": 8, "text_tokens": 4, **backbone}
    net = WanTransformer(24, **sizes, **options)
    parts = {"codec": PixelShuffleCodec(2), "text_encoder": VocabularyEncoder(8, max_tokens=4)}
    return StreamPipeline(streamer(backbone=net, chunk_frames=1), **parts, frame_size=(4, 6))


def test_a_plan_sets_what_streams_and_plain_sets_it_back():
    module = pipeline(compile_blocks="auto", cuda_graphs="auto")
    backbone = module.streamer.backbone
    before = module.streamer.components_fingerprint
    wishes = Wishes.of(module)
    assert (wishes.compile_blocks, wishes.cuda_graphs, wishes.compile_passes) == (
        "auto",
        "auto",
        "never",
    )
    per_block = sum(p.numel() for p in backbone.parameters()) / 2
    assert wishes.block_operations == 2 * per_block * 6  # one frame of 2 x 3 tokens
    SpeedPlan.decide("auto", H200, wishes).apply(module)
    assert (backbone.compile_blocks, backbone.cuda_graphs) == ("steady", "steady")
    assert module.streamer.draws_ahead
    assert module.streamer.new_buffers().ahead is not None
    backbone.use_kernels(("flash3", "sdpa"))
    SpeedPlan.decide("plain", H200, wishes).apply(module)
    assert (backbone.compile_blocks, backbone.cuda_graphs) == ("never", "never")
    assert {block.self_attn.kernels for block in backbone.blocks} == {("sdpa",)}
    assert {block.cross_attn.kernels for block in backbone.blocks} == {("sdpa",)}
    assert not module.streamer.draws_ahead
    assert module.streamer.new_buffers().ahead is None
    assert module.streamer.components_fingerprint == before


def test_generate_asks_the_device_and_the_precision():
    module = pipeline(compile_blocks="auto")
    auto = plan_speed(module, Generation("drifting west", decode="overlapped"))
    assert auto.overlapped == (True, "asked for: overlapped")
    assert auto.compile_blocks == (False, "cpu stays eager")
    plain = plan_speed(module, Generation("drifting west", speed="plain", decode="overlapped"))
    assert not any(choice.taken for choice in plain.choices().values())
    assert not DeviceFacts.of(torch.device("cpu")).autocast
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DeviceFacts.of(torch.device("cpu")).autocast


def test_auto_is_never_until_somebody_decides():
    model = streamer()
    state = model.start(text(), latent_shape=LATENT)
    expected = [chunk.latents_BFCHW for chunk in model.stream(state, 5)]
    model.backbone.compile_blocks = model.backbone.cuda_graphs = "auto"
    for chunk, latents in zip(model.stream(state, 5), expected, strict=True):
        assert torch.equal(chunk.latents_BFCHW, latents)


@pytest.mark.parametrize("source", [CounterNoise(), RepeatedNoise()])
def test_noise_drawn_ahead_gives_the_same_stream(source):
    model = streamer()
    state = model.start(text(2), latent_shape=LATENT)
    expected = [chunk.latents_BFCHW for chunk in model.stream(state, 5, noise=source)]
    model.draws_ahead = True
    for chunk, latents in zip(model.stream(state, 5, noise=source), expected, strict=True):
        assert torch.equal(chunk.latents_BFCHW, latents)


class Counted(CounterNoise):
    """Noise that notes what was drawn."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def draw(self, key, **options):
        self.drawn.append(key)
        return super().draw(key, **options)


def test_the_next_chunks_noise_is_drawn_before_it_is_asked_for():
    source, ahead = Counted(), NoiseAhead(pinned=False)
    options = {"seed": 0, "stream_ids": [0], "shape_FCHW": (1, 2, 2, 2)}
    key = NoiseKey(0, 1, "content")
    ahead.draw(source, key, **options)
    (coming,) = ahead.waiting.values()
    coming.result(timeout=20)
    assert sorted(source.drawn) == [key, key._replace(chunk=1)]
    found = ahead.draw(source, key._replace(chunk=1), **options)
    assert torch.equal(found, source.draw(key._replace(chunk=1), **options))
    assert source.drawn.count(key._replace(chunk=1)) == 2  # once ahead, once by this test


def test_what_fails_ahead_fails_only_where_it_is_asked_for():
    """A recording ends with its last chunk."""
    key, noise = NoiseKey(0, 0, "content"), torch.ones(1, 1, 2, 2, 2)
    ahead, source = NoiseAhead(pinned=False), RecordedNoise({key: noise})
    options = {"seed": 0, "stream_ids": [0], "shape_FCHW": (1, 2, 2, 2)}
    assert torch.equal(ahead.draw(source, key, **options), noise)
    with pytest.raises(ValueError, match="the recording has no noise"):
        ahead.draw(source, key._replace(chunk=1), **options)


def test_what_nobody_asks_for_does_not_pile_up():
    source, ahead = CounterNoise(), NoiseAhead(pinned=False)
    for chunk in range(0, 400, 2):
        key = NoiseKey(chunk, 0, "content")
        ahead.draw(source, key, seed=0, stream_ids=[0], shape_FCHW=(1, 1, 1, 1))
    assert len(ahead.waiting) <= 64


class Leaving(TorchDispatchMode):
    """Note what is copied from another device to the CPU."""

    def __init__(self):
        super().__init__()
        self.copied = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() == "aten::_to_copy" and (kwargs or {}).get("device") == torch.device("cpu"):
            self.copied.append(args[0].dtype)
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_pixels_leave_their_device_as_bytes():
    with Leaving() as leaving:
        found = to_uint8(torch.empty(2, 3, 4, 6, device="meta"))
    assert leaving.copied == [torch.uint8]
    assert found.dtype == torch.uint8
    pixels = torch.tensor([-1.0, 0.0, 0.5, 0.999, 2.0])
    assert to_uint8(pixels).tolist() == [0, 0, 128, 255, 255]


def test_where_compiling_fails_a_function_runs_plain_with_one_warning(caplog):
    calls = CompiledOrPlain(lambda x: x + 1, "the codec's passes")

    def broken(x):
        raise RuntimeError("no compiler here\nand a long trace")

    calls.compiled = broken
    assert [calls(1), calls(2)] == [2, 3]
    assert caplog.text.count("no compiler here); the codec's passes run plain") == 1
    assert "trace" not in caplog.text
