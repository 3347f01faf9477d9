"""Predicted memory is that of real tensors in the same run."""

import copy

import pytest
import torch
from tiny import LATENT, golden_backbone, streamer, text

from lightning_adastate.anchors import AdaptiveAnchor, EMAAnchor, StaticAnchor
from lightning_adastate.backbones import LoRABackbone, WanTransformer
from lightning_adastate.caches import SlidingCache
from lightning_adastate.memory.passes import (
    LiveBytes,
    PassShape,
    Precision,
    adamw_bytes,
    pass_memory,
    tensor_bytes,
    trained_numbers,
)
from lightning_adastate.memory.rollout import interpolate
from lightning_adastate.memory.stream import state_bytes, stream_memory
from lightning_adastate.streaming.streamer import StreamBuffers
from lightning_adastate.training.optimization import build_optimizer
from lightning_adastate.types import LivePositions, Window

WIDE = Precision("32-true")
FRAMES, CONTEXT = 3, 30


def network(layers: int = 5, **options) -> WanTransformer:
    sizes = {"ffn_dim": 96, "num_heads": 2, "freq_dim": 16, "text_dim": 8, "text_tokens": 4}
    return WanTransformer(48, num_layers=layers, **sizes, **options)


def test_memory_is_counted_once_for_views_and_given_back():
    with LiveBytes() as live:
        whole = torch.zeros(100)
        part = whole[:10]
        assert live.now == 400
        del whole
        assert live.now == 400
        del part
        assert live.now == 0
        assert live.peak == 400
        live.mark()
        assert live.peak == 0


def test_memory_that_was_there_before_is_not_counted():
    before = torch.zeros(100)
    with LiveBytes() as live:
        before.add_(1.0)
        view = before[:50]
        assert (live.now, live.peak, view.shape) == (0, 0, (50,))


@pytest.mark.parametrize(
    "anchor", [StaticAnchor(2), EMAAnchor(2), AdaptiveAnchor(1)], ids=["static", "ema", "adaptive"]
)
@pytest.mark.parametrize("sliding", [False, True], ids=["relativistic", "sliding"])
def test_a_stream_holds_exactly_the_bytes_that_are_predicted(anchor, sliding):
    ours = streamer(anchor, SlidingCache(window_frames=6) if sliding else None)
    texts = text(rows=2)
    predicted = stream_memory(ours, WIDE, rows=2, latent_shape=LATENT, text_tokens=texts.shape[1])
    buffers, state = StreamBuffers(), ours.start(texts, latent_shape=LATENT, stream_ids=[0, 1])
    most = dict.fromkeys(state_bytes(state), 0)
    for _ in range(8):
        with torch.no_grad():
            state = ours.step(state, buffers=buffers).state
        most = {name: max(size, most[name]) for name, size in state_bytes(state).items()}
    assert most == {name: getattr(predicted, name) for name in most}
    parts = [part for pair in buffers._buffers.values() for part in pair]
    parts += [part for time in buffers._times.values() for part in time.parts]
    parts += list(buffers._numbers.values())
    held = tensor_bytes(parts)
    assert held < predicted.buffers < 1.15 * held  # memoised angles stay as well


def test_the_states_before_the_chunks_of_a_rollout_share_their_frames():
    ours = streamer(StaticAnchor(1))
    sizes = {"rows": 1, "latent_shape": LATENT, "text_tokens": 16}
    whole = stream_memory(ours, WIDE, **sizes, num_chunks=5)
    late = stream_memory(ours, WIDE, **sizes, num_chunks=5, scored=1)
    states, state = [], ours.start(text(), latent_shape=LATENT)
    for _ in range(5):
        states.append(state)
        state = ours.step(state).state
    kept = [p for s in states for kv in (*s.blocks, *s.anchor.values()) for p in kv_tensors(kv)]
    kept += [s.recent_BFCHW for s in states]
    assert whole.earlier_states == tensor_bytes(kept)
    assert late.earlier_states < whole.earlier_states


def kv_tensors(kv):
    return [kv.key_LBFTND, kv.value_LBFTND]


def run(backbone, graph, *, context=CONTEXT):
    """Two passes of the whole network on real tensors: held once, by each, and on top."""
    latents = torch.randn(2, FRAMES, 16, 8, 12, requires_grad=graph == "inputs")
    places = tuple(float(index) for index in range(FRAMES))
    for parameter in backbone.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    def window():
        size = (backbone.num_layers, 2, context, backbone.num_heads, backbone.head_dim)
        return Window(torch.randn(size), torch.randn(size), context, False)

    timestep = torch.full((2, FRAMES), 500.0)
    with torch.set_grad_enabled(graph != "none"), LiveBytes() as live:
        with torch.set_grad_enabled(graph == "weights"):
            kv = backbone.text_kv(torch.randn(2, 4, 8))
        outs, held = [], []
        for _ in range(2):
            held.append(live.now)
            outs.append(
                backbone(
                    latents,
                    timestep_BF=timestep,
                    text=kv,
                    positions=LivePositions(places, places),
                    window=window(),
                ).velocity_BFCHW
            )
        each = live.now - held[1]
        forward, before = live.peak - live.now, live.now
        live.mark()
        if graph == "weights":
            sum(out.sum() for out in outs).backward()
        elif graph == "inputs":
            torch.autograd.grad(sum(out.sum() for out in outs), latents)
    return each, max(forward, live.peak - before)


@pytest.mark.parametrize("graph", ["weights", "inputs"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_the_graph_of_a_pass_is_that_of_all_blocks(graph, recompute):
    backbone = network(checkpoint_activations=recompute)
    shape = PassShape((2, FRAMES, 16, 8, 12), CONTEXT, 4)
    predicted = pass_memory(backbone, shape, WIDE, graph)
    each, work = run(copy.deepcopy(backbone), graph)
    assert predicted.each == pytest.approx(each, rel=0.01)
    assert predicted.work == pytest.approx(work, rel=0.05)


def test_recomputed_activations_keep_less_but_the_window():
    shape = PassShape((2, FRAMES, 16, 8, 12), CONTEXT, 4)
    kept = pass_memory(network(), shape, WIDE, "weights").each
    less = pass_memory(network(checkpoint_activations=True), shape, WIDE, "weights").each
    window = 2 * 5 * 2 * CONTEXT * 48 * 4
    assert window < less < kept / 3


def test_a_frozen_network_keeps_nothing_for_its_weights():
    shape = PassShape((2, FRAMES, 16, 8, 12), 0, 4)
    frozen = network().requires_grad_(requires_grad=False)
    trained = pass_memory(network(), shape, WIDE, "inputs").each
    assert 0 < pass_memory(frozen, shape, WIDE, "inputs").each < trained
    assert pass_memory(frozen, shape, WIDE, "weights").each < trained / 10


def test_mixed_precision_keeps_cast_weights_of_what_learns_alone():
    shape = PassShape((1, FRAMES, 16, 8, 12), 0, 4)
    mixed = Precision("bf16-mixed")
    learning, frozen = network(), network().requires_grad_(requires_grad=False)
    apart = pass_memory(learning, shape, mixed, "none").once
    apart -= pass_memory(frozen, shape, mixed, "none").once
    linear = sum(p.numel() for p in learning.parameters() if p.ndim > 1)
    assert apart == pytest.approx(2 * linear, rel=0.05)


def test_a_narrow_teacher_stays_narrow_in_mixed_precision():
    shape = PassShape((1, FRAMES, 16, 8, 12), 0, 4)
    wide = network().requires_grad_(requires_grad=False)
    narrow = copy.deepcopy(wide).bfloat16()
    mixed = Precision("bf16-mixed")
    one, other = (pass_memory(each, shape, mixed, "none").work for each in (narrow, wide))
    assert one < other
    assert mixed.stored(narrow) == mixed.stored(wide) // 2


def test_weights_are_counted_as_lightning_stores_them():
    backbone = golden_backbone()
    backbone.register_buffer("count", torch.zeros(3, dtype=torch.int64))
    floats = sum(p.numel() for p in backbone.parameters())
    assert Precision("32-true").stored(backbone) == 4 * floats + 24
    assert Precision("bf16-mixed").stored(backbone) == 4 * floats + 24
    assert Precision("bf16-true").stored(backbone) == 2 * floats + 24


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_the_optimisers_state_is_exactly_what_is_predicted(lora):
    backbone = network(2)
    if lora:
        pytest.importorskip("peft")
        backbone = LoRABackbone(backbone, rank=2)
    optimizer = build_optimizer(backbone.parameters(), torch.optim.AdamW)["optimizer"]
    assert tensor_bytes(t for s in optimizer.state.values() for t in s.values()) == 0
    for parameter in backbone.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    held = tensor_bytes(t for state in optimizer.state.values() for t in state.values())
    assert adamw_bytes(backbone, WIDE) == held
    assert (trained_numbers(backbone) < sum(p.numel() for p in backbone.parameters())) == lora


def test_bytes_between_two_contexts_lie_on_a_line():
    assert interpolate([(10, 100), (30, 300)], 20) == 200
    assert interpolate([(10, 100)], 10) == 100


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="`precision` must be 32-true.*got 'fp8'"):
        Precision("fp8")


def test_a_prediction_changes_neither_network_nor_tables():
    backbone = network(4)
    before = copy.deepcopy(backbone.state_dict())
    pass_memory(backbone, PassShape((1, 1, 16, 4, 4), 0, 4), WIDE, "weights")
    assert backbone.num_layers == 4
    assert all(p.grad is None for p in backbone.parameters())
    for name, tensor in backbone.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
