import pytest
import torch
from safetensors.torch import load_file
from tiny import GOLDEN, golden_backbone

from lightning_adastate.backbones import WanTransformer
from lightning_adastate.backbones.masks import diffusion_forcing_mask, teacher_forcing_mask
from lightning_adastate.flow import SigmaTable, velocity_to_x0
from lightning_adastate.types import LivePositions

CHUNKS = (3, 3, 3)


@pytest.mark.parametrize(
    ("case", "seed", "shift", "mask"),
    [
        ("bidirectional", 1, 8.0, None),
        ("diffusion_forcing", 0, 5.0, diffusion_forcing_mask(CHUNKS)),
        ("teacher_forcing", 0, 5.0, teacher_forcing_mask(CHUNKS)),
    ],
)
def test_forward_equals_public_code(case, seed, shift, mask):
    golden = load_file(GOLDEN / f"forward_{case}.safetensors")
    model = golden_backbone(seed)
    with torch.no_grad():
        out = model(
            golden["x"],
            timestep_BF=golden["t"],
            text=model.text_kv(golden["text"]),
            mask_FF=mask,
            clean_latents_BFCHW=golden.get("clean_x"),
        )
    sigma = SigmaTable(shift).sigma_at(golden["t"])
    x0 = velocity_to_x0(out.velocity_BFCHW, golden["x"], sigma)
    torch.testing.assert_close(out.velocity_BFCHW, golden["flow"], atol=1e-5, rtol=0)
    torch.testing.assert_close(x0, golden["x0"], atol=1e-5, rtol=0)


RENAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("attn1.to_", "self_attn."),
    ("attn2.to_", "cross_attn."),
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    (".norm2.", ".norm3."),
)


def wan_key(key: str) -> str:
    if key == "scale_shift_table":
        return "head.modulation"
    for theirs, ours in RENAMES:
        key = key.replace(theirs, ours)
    return key.replace("scale_shift_table", "modulation")


def test_forward_equals_diffusers_on_the_same_weights():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()
    ours = WanTransformer(
        24, ffn_dim=32, num_heads=2, num_layers=2, freq_dim=16, text_dim=32, text_tokens=7
    ).eval()
    ours.load_state_dict({wan_key(key): value for key, value in theirs.state_dict().items()})
    latents, text = torch.randn(2, 3, 16, 4, 6), torch.randn(2, 7, 32)
    with torch.no_grad():
        expected = theirs(latents.transpose(1, 2), torch.tensor([500.0, 20.0]), text)[0]
        out = ours(
            latents,
            timestep_BF=torch.tensor([500.0, 20.0])[:, None].expand(2, 3),
            text=ours.text_kv(text),
        )
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(out.velocity_BFCHW, expected.transpose(1, 2), atol=1e-4, rtol=0)


def test_positions_shifted_by_a_constant_change_nothing_but_other_positions_do():
    model = golden_backbone()
    latents, text = torch.randn(1, 3, 16, 4, 6), model.text_kv(torch.randn(1, 16, 48))
    time = torch.full((1, 3), 500.0)

    def run(*index: float):
        with torch.no_grad():
            places = LivePositions(index, index)
            return model(latents, timestep_BF=time, text=text, positions=places).velocity_BFCHW

    torch.testing.assert_close(run(0, 1, 2), run(40, 41, 42), atol=1e-5, rtol=0)
    assert (run(0, 1, 2) - run(0, 1, 5)).abs().max() > 1e-3


def test_keys_leave_unrotated():
    model = golden_backbone()
    latents, text = torch.randn(1, 2, 16, 4, 6), model.text_kv(torch.randn(1, 16, 48))
    keys = []
    for index in ((0.0, 1.0), (0.0, 9.0)):
        out = model(
            latents,
            timestep_BF=torch.zeros(1, 2),
            text=text,
            positions=LivePositions(index, index),
            return_kv=True,
        )
        keys.append(out.kv.key_LBFTND)
    assert keys[0].shape == (2, 1, 2, 6, 4, 24)
    assert torch.equal(keys[0][0], keys[1][0]), "layer 0 does not depend on positions"


def test_checkpointed_activations_give_the_same_gradients():
    latents, raw = torch.randn(1, 2, 16, 4, 6), torch.randn(1, 16, 48)
    grads = []
    for on in (False, True):
        model = golden_backbone()
        model.checkpoint_activations = on
        out = model(latents, timestep_BF=torch.full((1, 2), 300.0), text=model.text_kv(raw))
        out.velocity_BFCHW.square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_heads": 5}, "must be a multiple of `num_heads`"),
        ({"patch_size": (2, 2, 2)}, "must hold one latent frame"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        WanTransformer(24, **{"ffn_dim": 8, "num_heads": 2, "num_layers": 1, **change})


def test_odd_latents_and_wrong_text_are_refused():
    model = golden_backbone()
    with pytest.raises(ValueError, match="multiples of"):
        model.token_grid(3, 4)
    with pytest.raises(ValueError, match="up to 16 x 48, got 17 x 48"):
        model.text_kv(torch.randn(1, 17, 48))


def test_wan_1_3b_and_14b_have_the_published_parameter_counts():
    with torch.device("meta"):
        small = WanTransformer()
        large = WanTransformer(5120, ffn_dim=13824, num_heads=40, num_layers=40)
    counts = [sum(p.numel() for p in model.parameters()) for model in (small, large)]
    assert counts == [1_418_996_800, 14_288_491_584]
    assert [len(model.state_dict()) for model in (small, large)] == [825, 1095]
