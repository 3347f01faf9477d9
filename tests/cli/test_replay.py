"""The recorded cases of public code replay within 1e-5, through the configs shipped for them."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from reference import NaiveWan, warped_levels
from safetensors.torch import load_file, save_file
from tiny import GOLDEN, LATENT, frames, golden_backbone, streamer, text

from lightning_adastate.analysis.replay import cache_by_label, run_replay
from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import SlidingCache
from lightning_adastate.cli.replay import main

CONFIGS = GOLDEN.parent.parent / "configs" / "replay"
WEIGHTS = str(GOLDEN / "weights_seed0.safetensors")
CASES = {
    "infer_global": "self_forcing_global",
    "infer_local6_sink3": "self_forcing_local6_sink3",
    "infer_first_frame_independent": "self_forcing_first_frame",
    "adastate_w3_fs1": "adastate",
    "infinity_rope_a6_s1": "infinity_rope",
    "infinity_rope_a6_s1_flush_cut": "infinity_rope",
    "reward_forcing_a9_s3_alpha0.9": "reward_forcing",
    "rolling_sink_a9": "rolling_sink",
    "longlive_a12_s3_absolute": "longlive",
    "longlive_a12_s3_switch_keep_sink": "longlive",
    "memrope_a12_s3_al0.3_as0.6": "memrope",
    "causal_forcing_framewise_local6_s1": "causal_forcing_framewise",
}


def replay(config, case, *overrides):
    return main(
        [
            f"--config={CONFIGS / config}.yaml",
            f"--weights={WEIGHTS}",
            f"--case={case}",
            *overrides,
        ]
    )


@pytest.mark.parametrize("case", CASES)
def test_public_systems_replay(case, capsys):
    assert replay(CASES[case], GOLDEN / f"{case}.safetensors") == 0
    out = capsys.readouterr().out
    assert "within tolerance" in out
    if case in {
        "adastate_w3_fs1",
        "memrope_a12_s3_al0.3_as0.6",
        "rolling_sink_a9",
        "longlive_a12_s3_absolute",
    }:
        assert "cache (" in out


@pytest.mark.parametrize(
    ("case", "override"),
    [
        ("reward_forcing_a9_s3_alpha0.9", "--model.anchor.decay=0.99"),
        ("adastate_w3_fs1", "--model.cache.window_frames=7"),
        ("infer_local6_sink3", "--model.anchor.num_frames=2"),
        ("rolling_sink_a9", "--model.anchor.bank_frames=5"),
        ("infinity_rope_a6_s1", "--model.schedule.shift=4.0"),
        ("memrope_a12_s3_al0.3_as0.6", "--model.cache.budget_frames=13"),
    ],
)
def test_another_setting_is_noticed(case, override, capsys):
    assert replay(CASES[case], GOLDEN / f"{case}.safetensors", override) == 1
    assert "ABOVE tolerance" in capsys.readouterr().out


def test_without_its_layout_a_prompt_switch_is_noticed(tmp_path):
    case = tmp_path / "case.safetensors"
    shutil.copy(GOLDEN / "longlive_a12_s3_switch_keep_sink.safetensors", case)
    assert replay("longlive", case) == 1


def test_a_case_that_lacks_tensors_is_refused():
    with pytest.raises(ValueError, match="lacks noise, latents"):
        replay("adastate", WEIGHTS)


CASE = GOLDEN / "longlive_a12_s3_switch_keep_sink"


def changed(tmp_path, *, tensors=None, slots=None):
    """The LongLive case with other tensors or other names of slots."""
    case = tmp_path / "case.safetensors"
    save_file({**load_file(f"{CASE}.safetensors"), **(tensors or {})}, case)
    layout = json.loads(Path(f"{CASE}.layout.json").read_text())
    layout["slots_after"].update(slots or {})
    case.with_suffix(".layout.json").write_text(json.dumps(layout))
    return case


def test_a_tensor_that_is_not_compared_is_refused(tmp_path):
    case = changed(tmp_path, tensors={"flow": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"holds 'flow', which replay does not compare"):
        replay("longlive", case)


@pytest.mark.parametrize(
    "name", ["drawn.999", "states", "state_noise", "cache0.chunk11.k", "cache0.recache06.k"]
)
def test_a_known_tensor_without_a_place_is_not_called_within(name, tmp_path, capsys):
    extra = {name: torch.zeros(1, 1, 1, 1, 1), "state_chunks": torch.zeros(0)}
    if name.startswith("cache0"):
        extra[name.removesuffix("k") + "v"] = torch.zeros(1)
    if name != "states":
        del extra["state_chunks"]
    assert replay("longlive", changed(tmp_path, tensors=extra)) == 1
    out = capsys.readouterr().out
    assert "NOT COMPARED" in out
    assert name in out


def test_what_a_prompt_switch_encodes_anew_is_compared(tmp_path, capsys):
    assert replay("longlive", f"{CASE}.safetensors") == 0
    assert "re-encoded cache (12 frames) k" in capsys.readouterr().out
    keys = load_file(f"{CASE}.safetensors")["cache0.recache07.k"]
    case = changed(tmp_path, tensors={"cache0.recache07.k": keys + 0.1})
    assert replay("longlive", case) == 1


def test_an_event_encodes_once(monkeypatch):
    model = streamer(StaticAnchor(3), SlidingCache(budget_frames=12))
    calls, forward = [], WanTransformer.forward
    monkeypatch.setattr(
        WanTransformer, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    assert run_replay(model, weights=WEIGHTS, case=f"{CASE}.safetensors") == 0
    assert len(calls) == 14 * 5 + 1, "five passes a chunk, and the re-encoding"


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit_step", [0, 3])
def test_recorded_gradients_replay(exit_step, capsys):
    case = GOLDEN / f"train_exit{exit_step}.safetensors"
    assert replay("self_forcing_training", case, f"--exit_step={exit_step}") == 0
    assert "gradients of 69 of 69 parameters" in capsys.readouterr().out


def test_a_wrong_gradient_is_noticed(tmp_path, capsys):
    case = GOLDEN / "train_exit0.safetensors"
    options = ["--exit_step=0", "--kv_gradient=detach"]
    assert replay("self_forcing_training", case, *options) == 1
    assert "ABOVE" in capsys.readouterr().out
    tensors, other = load_file(case), tmp_path / "case.safetensors"
    name = "grad.model.head.head.bias"
    save_file({**tensors, name: tensors[name] * 1.001}, other)
    assert replay("self_forcing_training", other, "--exit_step=0") == 1
    assert "most head.head.bias" in capsys.readouterr().out
    save_file({**tensors, "grad.model.heed": tensors[name] + 0}, other)
    with pytest.raises(ValueError, match="'grad.model.heed' .* no such parameter"):
        replay("self_forcing_training", other, "--exit_step=0")
    del tensors["loss_weight"]
    save_file(tensors, other)
    with pytest.raises(ValueError, match="lacks loss_weight"):
        replay("self_forcing_training", other, "--exit_step=0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "needs a list `chunks`"),
        ('{"chunks": 3}', "needs a list `chunks`"),
        ('{"chunks": [{"start": 1}]}', "mappings with `chunk`"),
    ],
)
def test_a_layout_that_is_none_is_refused(text, said, tmp_path):
    layout = tmp_path / "layout.json"
    layout.write_text(text)
    with pytest.raises(ValueError, match=said):
        replay("longlive", f"{CASE}.safetensors", f"--layout={layout}")


def test_a_folder_and_a_negative_tolerance_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give its .safetensors file"):
        replay("longlive", tmp_path)
    with pytest.raises(ValueError, match="`tolerance` must be 0 or more, got -1"):
        replay("longlive", f"{CASE}.safetensors", "--tolerance=-1")


def test_a_pass_that_no_chunk_has_is_refused():
    with pytest.raises(ValueError, match=r"`exit_step` must be in \[0, 4\) in chunk 0, got 4"):
        replay("self_forcing_training", GOLDEN / "train_exit0.safetensors", "--exit_step=4")


# -- given frames -----------------------------------------------------------------------------------


def image_to_video(tmp_path, **changes):
    """Two given frames and three others, recorded from the naive model in the public code's order."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(3), dtype=torch.float32)
    given, noise, words = draw(1, 2, *LATENT), draw(1, 3, *LATENT), text()
    naive = NaiveWan(golden_backbone().state_dict(), heads=4, freq_dim=64)
    past, made, drawn = [], list(given[0]), []
    for index, frame in enumerate(given[0]):
        _, memory = naive.forward([frame], [0.0], words[0], past, range(index + 1))
        past += memory
    for block, x in enumerate(noise[0]):
        levels = warped_levels((1000, 750, 500, 250) if block == 0 else (1000, 500), 5.0)
        places = range(3 + block)
        for step, (time, sigma) in enumerate(levels):
            velocity, _ = naive.forward([x], [time], words[0], past, places)
            x0 = x - sigma * velocity[0]
            if step + 1 < len(levels):
                drawn.append(draw(1, *LATENT))
                after = levels[step + 1][1]
                x = (1 - after) * x0 + after * drawn[-1][0]
        _, memory = naive.forward([x0], [0.0], words[0], past, places)
        past, made = [*past, *memory], [*made, x0.float()]
    case = tmp_path / "case.safetensors"
    tensors = {"initial_latent": given, "noise": noise, "text": words}
    tensors |= {f"drawn.{i:03d}": one for i, one in enumerate(drawn)}
    save_file({**tensors, "latents": torch.stack(made)[None], **changes}, case)
    return case


FRAMEWISE = (
    "--model.schedule.steps=[1000,500]",
    "--model.schedule.first_chunk_steps=[1000,750,500,250]",
)


def test_given_frames_replay_and_the_first_block_behind_them_has_the_first_steps(tmp_path, capsys):
    case = image_to_video(tmp_path)
    assert replay("causal_forcing_framewise", case, *FRAMEWISE) == 0
    out = capsys.readouterr().out
    assert "given      frames    0-1    max abs difference 0.000e+00" in out
    assert "chunk   2  frames    2-2" in out


def test_other_given_frames_are_noticed(tmp_path):
    case = image_to_video(tmp_path, initial_latent=torch.zeros(1, 2, *LATENT))
    assert replay("causal_forcing_framewise", case, *FRAMEWISE) == 1


def test_latents_that_are_not_given_and_generated_frames_are_refused(tmp_path):
    case = image_to_video(tmp_path, latents=torch.zeros(1, 3, *LATENT))
    with pytest.raises(ValueError, match=r"needs `latents` \[1, 5, 16, 4, 6\]: .* got \[1, 3, "):
        replay("causal_forcing_framewise", case)


def test_slots_without_a_name_are_refused(tmp_path):
    names = json.loads(Path(f"{CASE}.layout.json").read_text())["slots_after"]["chunk07"]
    case = changed(tmp_path, slots={"chunk07": names[:-1]})
    with pytest.raises(ValueError, match="names 11 slots of chunk07, the case holds 12 keys"):
        replay("longlive", case)


def test_keys_without_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lacks kv0_v"):
        replay("longlive", changed(tmp_path, tensors={"kv0_k": torch.zeros(1)}))


def test_a_slot_of_unknown_name_is_refused(tmp_path):
    names = json.loads(Path(f"{CASE}.layout.json").read_text())["slots_after"]["chunk07"]
    case = changed(tmp_path, slots={"chunk07": ["x9", *names[1:]]})
    with pytest.raises(ValueError, match="names slot 0 of chunk07 'x9'"):
        replay("longlive", case)


def test_a_slot_whose_frame_our_stream_has_lost_is_a_difference(tmp_path, capsys):
    names = json.loads(Path(f"{CASE}.layout.json").read_text())["slots_after"]["chunk07"]
    case = changed(tmp_path, slots={"chunk07": [*names[:-1], "f9"]})
    assert replay("longlive", case) == 1
    assert "cache, without f9 inf" in capsys.readouterr().out


def test_frames_of_an_anchor_that_began_anew_have_the_names_of_encoded_ones():
    """After a re-base the recordings call the sink's frames r12, r13, ...: they are compared, too."""
    model = streamer(StaticAnchor(1))
    state = replace(model.start(text(), latent_shape=LATENT), anchor={"sink": frames(12)})
    assert {"f12", "r12"} <= cache_by_label(state).keys()
