"""Stream states and weights survive the disk bit for bit, and bad files get one sentence."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tiny import GOLDEN, LATENT, golden_backbone, streamer, text

from lightning_adastate.anchors import AdaptiveAnchor, EMAAnchor, TriangularAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.types import Event
from lightning_adastate.weights.loading import load_anchor, load_into, load_weights

CONTINUE = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from safetensors.torch import save_file
from tiny import streamer
from lightning_adastate.streaming.state_file import load_stream_state
torch.set_num_threads(1)
model = streamer()
state = model.resume(load_stream_state(sys.argv[1], fingerprint=model.fingerprint))
latents = torch.cat([chunk.latents_BFCHW for chunk in model.stream(state, 2)], dim=1)
save_file({"latents": latents.contiguous()}, sys.argv[1] + ".out")
"""


def latents(model, state, chunks):
    return torch.cat([chunk.latents_BFCHW for chunk in model.stream(state, chunks)], dim=1)


@pytest.mark.parametrize(
    "anchor", [AdaptiveAnchor(1), EMAAnchor(1), TriangularAnchor(2, bank_frames=4)]
)
def test_a_saved_stream_goes_on_bit_for_bit(anchor, tmp_path):
    model = streamer(anchor, RelativisticCache(window_frames=7))
    events = (Event(chunk=4, prompt=1, keep_frames=3, live_start=45.0),)
    state = model.start(
        text(2), latent_shape=LATENT, seed=3, timeline=events, later_texts=[text(2, seed=8)]
    )
    *_, last = model.stream(state, 3)
    last = replace(last.state, codec={"history": torch.randn(1, 2)})
    path = tmp_path / "state.safetensors"
    save_stream_state(path, last, fingerprint=model.fingerprint)
    back = model.resume(load_stream_state(path, fingerprint=model.fingerprint))
    assert back.timeline == events
    assert torch.equal(back.codec["history"], last.codec["history"])
    assert torch.equal(latents(model, last, 3), latents(model, back, 3))
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_stream_goes_on_in_another_process(tmp_path):
    torch.set_num_threads(1)
    model = streamer()
    state = model.start(text(), latent_shape=LATENT)
    whole = latents(model, state, 6)
    *_, last = model.stream(state, 4)
    path = tmp_path / "state.safetensors"
    save_stream_state(path, last.state, fingerprint=model.fingerprint)
    tests = str(GOLDEN.parent)
    subprocess.run([sys.executable, "-c", CONTINUE, str(path), tests], check=True)
    from safetensors.torch import load_file

    assert torch.equal(load_file(f"{path}.out")["latents"], whole[:, 12:])


def test_a_state_of_other_components_is_refused(tmp_path):
    model, other = streamer(), streamer(EMAAnchor(1))
    path = tmp_path / "state.safetensors"
    save_stream_state(
        path, model.start(text(), latent_shape=LATENT), fingerprint=model.fingerprint
    )
    with pytest.raises(ValueError, match="made with another anchor; continue"):
        load_stream_state(path, fingerprint=other.fingerprint)


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{broken", b"x" * 100])
def test_corrupt_files_get_one_sentence(content, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read a stream state from"):
        load_stream_state(path)
    with pytest.raises(ValueError, match="cannot read weights from"):
        load_weights(path)


def test_missing_weights_name_what_is_shipped():
    with pytest.raises(ValueError, match="there is no weights file 'nowhere.safetensors'"):
        load_weights("nowhere.safetensors")


def test_a_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "sentinel"), "w"))

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(ValueError, match="cannot read weights"):
        load_weights(path)
    assert not (tmp_path / "sentinel").exists()


def test_weights_that_do_not_fit_name_the_tensors(tmp_path):
    model = golden_backbone()
    weights = {f"model.{key}": value.clone() for key, value in model.state_dict().items()}
    del weights["model.head.head.bias"]
    weights["model.extra"] = torch.zeros(1)
    weights["model.blocks.0.modulation"] = torch.zeros(1, 6, 5)
    path = tmp_path / "other.safetensors"
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"1 missing \(head.head.bias.*1 unexpected.*1 misshapen"):
        load_into(model, path)


def test_a_training_checkpoint_gives_its_average_where_it_has_one(tmp_path):
    model = golden_backbone()
    average = {f"generator_ema.backbone.{k}": v + 1 for k, v in model.state_dict().items()}
    live = {f"generator.backbone.{k}": v for k, v in model.state_dict().items()}
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": {**live, **average}}, path)
    loaded = load_weights(path)
    assert torch.equal(loaded["head.head.bias"], model.head.head.bias + 1)
    torch.save({"state_dict": live}, path)
    assert torch.equal(load_weights(path)["head.head.bias"], model.head.head.bias)


def test_wrapper_prefixes_are_dropped_wherever_they_stand(tmp_path):
    model = golden_backbone()
    wrapped = {
        "model._fsdp_wrapped_module."
        + key.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): value.clone()
        for key, value in model.state_dict().items()
    }
    path = tmp_path / "wrapped.safetensors"
    save_file(wrapped, path)
    load_into(model, path)


class Scaled(EMAAnchor):
    """An anchor with a parameter of its own."""

    def __init__(self, num_frames=1):
        super().__init__(num_frames)
        self.gain = torch.nn.Parameter(torch.ones(3))


def test_an_anchors_own_parameters_come_back_from_a_training_checkpoint(tmp_path, caplog):
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": {"generator.anchor.gain": torch.full((3,), 5.0)}}, path)
    anchor = Scaled()
    load_anchor(anchor, path)
    assert anchor.gain.tolist() == [5.0] * 3
    save_file({"head.weight": torch.zeros(1)}, tmp_path / "backbone.safetensors")
    load_anchor(anchor, tmp_path / "backbone.safetensors")
    assert "holds no parameters of the anchor" in caplog.text
    torch.save({"state_dict": {"generator.anchor.other": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"do not fit Scaled: 1 missing \(gain"):
        load_anchor(anchor, path)
