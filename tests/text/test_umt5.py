"""UMT5 and the cache of its embeddings, at a tiny size, with random weights and a tokenizer in the real format."""

import logging
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from lightning_adastate.text import CachedEncoder, UMT5Encoder, VocabularyEncoder
from lightning_adastate.text.umt5 import clean
from lightning_adastate.text.umt5_native import config_of

SIZES = {
    "vocab_size": 64,
    "d_model": 12,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": 2,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
}
PROMPTS = ["a cat", "a red boat & a dog, drifting west"]


def tiny_tokenizer():
    """Letters and a few words, as a unigram model with T5's marks and T5's end mark behind each prompt."""
    pieces = [
        "<pad>",
        "</s>",
        "<unk>",
        "\u2581",
        *"abcdefghijklmnopqrstuvwxyz&,",
        "\u2581cat",
        "\u2581a",
    ]
    model = models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_ids=0,
    )


def save_model(folder, seed=0):
    torch.manual_seed(seed)
    UMT5EncoderModel(UMT5Config(**SIZES)).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as diffusers lays Wan's out."""
    root = tmp_path_factory.mktemp("wan")
    save_model(root / "text_encoder")
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    return root


def encoder(folder, **options):
    return UMT5Encoder(
        str(folder), **{"text_dim": 12, "max_tokens": 48, "dtype": "float32", **options}
    )


def test_it_encodes_what_padding_and_masking_would(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    padded = tokenizer(PROMPTS, padding="max_length", max_length=48, return_tensors="pt")
    with torch.no_grad():
        model = UMT5EncoderModel.from_pretrained(folder / "text_encoder")
        expected = model(**padded).last_hidden_state * padded.attention_mask.unsqueeze(-1)
    text = encoder(folder)(PROMPTS)
    assert text.shape == (2, 48, 12)
    torch.testing.assert_close(text, expected, rtol=1e-5, atol=1e-5)
    lengths = padded.attention_mask.sum(1).tolist()
    assert 0 < lengths[0] < lengths[1] < 48
    for row, length in zip(text, lengths, strict=True):
        assert row[length - 1].abs().max() > 0.0
        assert row[length:].abs().max() == 0.0


def test_a_prompt_does_not_depend_on_its_neighbours(folder):
    umt5 = encoder(folder)
    assert torch.equal(umt5(PROMPTS)[1:], umt5(PROMPTS[1:]))


def test_prompts_are_cleaned_before_they_are_read(folder):
    messy = "  a\tred boat &amp;amp; a dog,\n\n drifting   west "
    assert clean(messy) == PROMPTS[1]
    assert clean("caf\u00c3\u00a9") == "caf\u00e9"
    umt5 = encoder(folder)
    assert torch.equal(umt5([messy]), umt5([PROMPTS[1]]))


def test_weights_are_loaded_for_the_first_prompt_and_are_no_part_of_the_module(folder):
    umt5 = encoder(folder)
    assert not umt5.is_loaded
    umt5(PROMPTS)
    assert umt5.is_loaded
    assert not list(umt5.parameters())
    assert not umt5.state_dict()


def test_released_weights_are_gone_and_come_back(folder):
    umt5 = encoder(folder, after="release")
    first = umt5(PROMPTS)
    assert not umt5.is_loaded
    assert torch.equal(umt5(PROMPTS), first)
    kept = encoder(folder, after="keep")
    kept(PROMPTS)
    kept.release()
    assert not kept.is_loaded


def test_model_and_tokenizer_may_lie_side_by_side(folder, tmp_path):
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(folder / part, tmp_path, dirs_exist_ok=True)
    assert torch.equal(encoder(tmp_path)(PROMPTS), encoder(folder)(PROMPTS))


def test_bfloat16_is_near_float32(folder):
    half = encoder(folder, dtype="bfloat16")(PROMPTS)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), encoder(folder)(PROMPTS), rtol=0.1, atol=0.1)


def test_too_long_a_prompt_is_refused_or_cut_before_its_end_mark(folder):
    with pytest.raises(ValueError, match="prompt 1 has .* tokens, the most is 8"):
        encoder(folder, max_tokens=8)(PROMPTS)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    cut = tokenizer(PROMPTS[1:], truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        model = UMT5EncoderModel.from_pretrained(folder / "text_encoder")
        expected = model(**cut).last_hidden_state
    made = encoder(folder, max_tokens=8, too_long="cut")(PROMPTS[1:])
    torch.testing.assert_close(made, expected)


def test_what_does_not_fit_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        encoder(folder)(["fine", " \n"])
    with pytest.raises(TypeError, match="list of prompts"):
        encoder(folder)("a cat")
    with pytest.raises(ValueError, match="`max_tokens` must be 1 or more, got 0"):
        encoder(folder, max_tokens=0)
    with pytest.raises(ValueError, match="have 12 numbers, `text_dim` is 16"):
        encoder(folder, text_dim=16)(PROMPTS)
    with pytest.raises(ValueError, match="is no folder, and cannot be fetched"):
        encoder(tmp_path / "nowhere")(PROMPTS)
    T5EncoderModel(T5Config(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is a t5 model, not umt5"):
        encoder(tmp_path)(PROMPTS)


def test_weights_that_are_not_all_there_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    gone = next(name for name in weights if "wi_0" in name)
    save_file({n: t for n, t in weights.items() if n != gone}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"its weights lack {gone}"):
        encoder(tmp_path)(PROMPTS)


def to_native(name):
    """Wan's own name for one of transformers'."""
    for theirs, ours in (
        (r"^shared", "token_embedding"),
        (r"^encoder\.final_layer_norm", "norm"),
        (r"^encoder\.block", "blocks"),
        (r"layer\.(\d)\.layer_norm", lambda found: f"norm{int(found[1]) + 1}"),
        (r"layer\.0\.SelfAttention\.relative_attention_bias", "pos_embedding.embedding"),
        (r"layer\.0\.SelfAttention", "attn"),
        (r"layer\.1\.DenseReluDense\.wi_0", "ffn.gate.0"),
        (r"layer\.1\.DenseReluDense\.wi_1", "ffn.fc1"),
        (r"layer\.1\.DenseReluDense\.wo", "ffn.fc2"),
    ):
        name = re.sub(theirs, ours, name)
    return name


@pytest.fixture
def native(folder, tmp_path):
    """The same encoder as a folder of Wan's own."""
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    weights.pop("encoder.embed_tokens.weight", None)
    found = {to_native(name): weight for name, weight in weights.items()}
    torch.save(found, tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(folder / "tokenizer", tmp_path / "google" / "umt5-xxl")
    return tmp_path, found


def test_wans_own_file_gives_the_same_embeddings(folder, native):
    root, weights = native
    assert sorted(n for n in weights if n.startswith("blocks.1")) == [
        "blocks.1.attn.k.weight",
        "blocks.1.attn.o.weight",
        "blocks.1.attn.q.weight",
        "blocks.1.attn.v.weight",
        "blocks.1.ffn.fc1.weight",
        "blocks.1.ffn.fc2.weight",
        "blocks.1.ffn.gate.0.weight",
        "blocks.1.norm1.weight",
        "blocks.1.norm2.weight",
        "blocks.1.pos_embedding.embedding.weight",
    ]
    assert torch.equal(encoder(root)(PROMPTS), encoder(folder)(PROMPTS))


def test_only_text_files_are_part_of_the_fingerprint_of_a_folder_of_wans(native):
    root, weights = native
    own = encoder(root).fingerprint
    (root / "diffusion_pytorch_model.safetensors").write_bytes(b"another part")
    assert encoder(root).fingerprint == own
    weights["norm.weight"] += 1.0
    torch.save(weights, root / "models_t5_umt5-xxl-enc-bf16.pth")
    assert encoder(root).fingerprint != own


def test_another_file_is_refused(native):
    root, weights = native
    file = root / "models_t5_umt5-xxl-enc-bf16.pth"
    for gone, message in (
        ("blocks.1.norm2.weight", "Missing key.*encoder.block.1.layer.1.layer_norm.weight"),
        ("token_embedding.weight", "it lacks 'shared.weight'"),
    ):
        torch.save({name: w for name, w in weights.items() if name != gone}, file)
        with pytest.raises(ValueError, match=f"no file of Wan's UMT5: {message}"):
            encoder(root)(PROMPTS)


def test_the_real_encoder_is_read_from_its_shapes():
    with torch.device("meta"):
        real = UMT5EncoderModel(
            UMT5Config(
                vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64
            )
        )
    config = config_of(real.state_dict())
    for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
        assert getattr(config, name) == getattr(real.config, name)
    assert config.dense_act_fn == real.config.dense_act_fn == "gelu_new"
    assert (config.relative_attention_num_buckets, config.relative_attention_max_distance) == (
        32,
        128,
    )


# -- the cache ------------------------------------------------------------------------------------


def test_a_prompt_is_encoded_once_and_then_without_the_encoder(folder, tmp_path):
    expected = encoder(folder)(PROMPTS)
    assert torch.equal(CachedEncoder(encoder(folder), folder=str(tmp_path))(PROMPTS), expected)
    later = CachedEncoder(encoder(folder), folder=str(tmp_path))
    assert torch.equal(later([PROMPTS[1], PROMPTS[0], PROMPTS[1]]), expected[[1, 0, 1]])
    assert not later.encoder.is_loaded


def test_only_new_prompts_reach_the_encoder(tmp_path):
    class Counting(VocabularyEncoder):
        def forward(self, prompts):
            seen.append(list(prompts))
            return super().forward(prompts)

    seen = []
    cached = CachedEncoder(Counting(), folder=str(tmp_path))
    cached(["west", "east", "west"])
    text = cached(["north", "east"])
    assert seen == [["west", "east"], ["north"]]
    assert torch.equal(text, VocabularyEncoder()(["north", "east"]))


def test_another_encoder_does_not_read_these_files(tmp_path):
    names = set()
    for umt5 in (VocabularyEncoder(8), VocabularyEncoder(9), VocabularyEncoder(8, max_tokens=9)):
        cached = CachedEncoder(umt5, folder=str(tmp_path))
        assert torch.equal(cached(["west"]), umt5(["west"]))
        names.add(cached.fingerprint)
    assert len(names) == 3


def test_an_encoder_of_the_same_size_does_not_read_them_either(tmp_path):
    class Negative(VocabularyEncoder):
        def forward(self, prompts):
            return -super().forward(prompts)

    CachedEncoder(VocabularyEncoder(), folder=str(tmp_path))(["west"])
    assert torch.equal(
        CachedEncoder(Negative(), folder=str(tmp_path))(["west"]), -VocabularyEncoder()(["west"])
    )


def test_the_fingerprint_names_weights_tokenizer_and_options_but_not_the_place(folder, tmp_path):
    own = encoder(folder).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert encoder(tmp_path / "copy").fingerprint == own
    assert encoder(folder, after="keep").fingerprint == own
    assert encoder(folder, dtype="bfloat16").fingerprint != own
    assert encoder(folder, max_tokens=9).fingerprint != own
    shutil.copytree(folder, tmp_path / "other")
    save_model(tmp_path / "other" / "text_encoder", seed=1)
    assert encoder(tmp_path / "other").fingerprint != own
    words = tmp_path / "copy" / "tokenizer" / "tokenizer.json"
    words.write_text(words.read_text().replace("cat", "cow"))
    assert encoder(tmp_path / "copy").fingerprint != own


def test_registered_weights_are_part_of_a_fingerprint():
    class Learned(VocabularyEncoder):
        def __init__(self, value):
            super().__init__(4)
            self.weight = torch.nn.Parameter(torch.full((3,), value, dtype=torch.bfloat16))

    assert Learned(1.0).fingerprint == Learned(1.0).fingerprint != Learned(2.0).fingerprint


def test_a_damaged_file_is_made_anew(tmp_path, caplog):
    cached = CachedEncoder(VocabularyEncoder(), folder=str(tmp_path))
    expected = cached(["go west"])
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cached(["go west"]), expected)
    assert "damaged" in caplog.text
    assert file.read_bytes() == whole


def test_files_hold_the_words_alone_and_nothing_half_written(tmp_path, monkeypatch):
    cached = CachedEncoder(VocabularyEncoder(max_tokens=8), folder=str(tmp_path))
    cached(["go west"])
    (file,) = tmp_path.rglob("*.safetensors")
    assert load_file(file)["text"].shape == (2, 32)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("lightning_adastate.files.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        cached(["go east"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
