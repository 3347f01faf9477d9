"""The recorded cases of public code replay within 1e-5, through the configs shipped for them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import GOLDEN, LATENT, frames, streamer, text

from lightning_adastate.analysis.replay import cache_by_label
from lightning_adastate.anchors import StaticAnchor
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
    case = changed(tmp_path, tensors={"grad.head": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"holds 'grad.head', which replay does not compare"):
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
