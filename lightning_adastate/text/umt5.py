"""UMT5: Wan's text encoder, through transformers; loaded when the first prompt comes."""

# Shapes: B batch, S text tokens, D text dim.

from __future__ import annotations

import gc
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from lightning_adastate.text.base import TextEncoder
from lightning_adastate.text.umt5_files import find_folders, sampled
from lightning_adastate.text.umt5_native import load_native

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel


class UMT5Encoder(TextEncoder):
    """Encode prompts with a UMT5 encoder, as Wan does: 512 tokens, zeros behind each prompt's end.

    Each prompt goes through alone and without padding. That is the same maths as padding to 512 tokens
    and masking, at a fraction of the work, and a prompt's embedding does not depend on its neighbours.
    The weights (11 GB in bfloat16) are no part of this module's state: they are loaded for the first
    prompt and leave the device after each call.

    Args:
        folder: A folder with ``text_encoder`` and ``tokenizer`` as diffusers writes them, or one of Wan's own
            (``models_t5_umt5-xxl-enc-bf16.pth`` and ``google/umt5-xxl``), or one with a model and its
            tokenizer side by side, or a model's name on the hub.
        text_dim: Length of a token's vector; must be the model's.
        max_tokens: The most tokens of a prompt, its end mark included.
        dtype: Of weights and embeddings.
        device: Where to encode; ``auto`` is CUDA if there is one.
        after: Where the weights go after each call: ``offload`` to the CPU's memory, ``release`` frees
            them (the next call loads them again), ``keep`` leaves them on the device.
        too_long: ``refuse`` a prompt of too many tokens, or ``cut`` it off.

    Raises:
        ValueError: If a number is below 1, or a local folder holds another kind of model or size.
    """

    def __init__(
        self,
        folder: str,
        *,
        text_dim: int = 4096,
        max_tokens: int = 512,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        device: str = "auto",
        after: Literal["keep", "offload", "release"] = "offload",
        too_long: Literal["refuse", "cut"] = "refuse",
    ) -> None:
        super().__init__()
        for name, value in (("text_dim", text_dim), ("max_tokens", max_tokens)):
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}")
        self.folder = folder
        self.text_dim = text_dim
        self.max_tokens = max_tokens
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = device
        self.after = after
        self.too_long = too_long
        self._words: PreTrainedTokenizerBase | None = None
        # In a tuple, so that it is no child: 11 GB in a checkpoint, or on each rank's GPU, help nobody.
        self._loaded: tuple[UMT5EncoderModel, PreTrainedTokenizerBase] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._loaded is not None

    @property
    def fingerprint(self) -> str:
        """Hash the options and the files: small ones whole, weights by size and evenly spread pieces."""
        options = f"umt5/{self.text_dim}/{self.max_tokens}/{self.dtype}/{self.too_long}"
        digest = hashlib.sha256(options.encode())
        folders = dict.fromkeys(find_folders(self.folder))
        inside = [[place] if place.is_file() else place.iterdir() for place in folders]
        for file in sorted(file for files in inside for file in files if file.is_file()):
            if file.suffix in {".json", ".model", ".txt", ".safetensors", ".bin", ".pth"}:
                digest.update(f"/{file.name}/{file.stat().st_size}/".encode() + sampled(file))
        return digest.hexdigest()[:16]

    def release(self) -> None:
        """Free the weights and the tokenizer; the next prompt loads them again."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Return ``[B, S, D]`` where the encoder worked, zeros behind each prompt's end mark."""
        if isinstance(prompts, str):
            raise TypeError(f"expected a list of prompts, got the string {prompts!r}")
        model, tokenizer = self._load()
        tokens = [self._tokens(tokenizer, row, prompt) for row, prompt in enumerate(prompts)]
        device = self._work_device()
        model.to(device)  # type: ignore[arg-type]
        text_BSD = torch.zeros(
            len(prompts), self.max_tokens, self.text_dim, dtype=self.dtype, device=device
        )
        for text_SD, ids in zip(text_BSD, tokens, strict=True):
            made = model(input_ids=torch.tensor([ids], device=device)).last_hidden_state
            text_SD[: len(ids)] = made[0]
        if self.after == "offload":
            model.to("cpu")  # type: ignore[arg-type]
        elif self.after == "release":
            del model
            self.release()
        return text_BSD

    def problem(self, prompt: str) -> str | None:
        """Say why a prompt cannot be encoded; ``None`` if it can. Needs the tokenizer, not the weights.

        Raises:
            ValueError: If the tokenizer is not there.
            ImportError: If transformers or ftfy is not installed.
        """
        found = self._ids(self._tokenizer(), prompt)
        return found if isinstance(found, str) else None

    def _tokens(self, tokenizer: PreTrainedTokenizerBase, row: int, prompt: str) -> list[int]:
        """Return a prompt's tokens, its end mark last.

        Raises:
            ValueError: If it is empty or too long.
        """
        found = self._ids(tokenizer, prompt)
        if isinstance(found, str):
            raise ValueError(f"prompt {row} {found}")  # noqa: TRY004, the prompt is what is wrong
        return found

    def _ids(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int] | str:
        """Return a prompt's tokens, or why it cannot be encoded."""
        cleaned = clean(prompt)
        if not cleaned:
            return f"is empty: {prompt!r}; write at least one word"
        ids: list[int] = tokenizer(cleaned, add_special_tokens=True).input_ids
        if len(ids) <= self.max_tokens:
            return ids
        if self.too_long == "refuse":
            return (
                f"has {len(ids)} tokens, the most is {self.max_tokens}: {prompt[:60]!r}...; shorten it, or set "
                "`too_long: cut`"
            )
        return [*ids[: self.max_tokens - 1], ids[-1]]

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, read from disk if it is not in memory.

        Raises:
            ValueError: If it is not there.
            ImportError: If transformers is not installed.
        """
        if self._loaded is not None:
            return self._loaded[1]
        if self._words is None:
            self._words = load_tokenizer(self.folder)
        return self._words

    def _work_device(self) -> torch.device:
        """Return where to encode."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def _load(self) -> tuple[UMT5EncoderModel, PreTrainedTokenizerBase]:
        """Return model and tokenizer, read from disk if they are not in memory.

        Raises:
            ValueError: If they are not there, or do not fit.
            ImportError: If transformers or ftfy is not installed.
        """
        if self._loaded is None:
            self._loaded = load_umt5(self.folder, self.text_dim, self.dtype)
        return self._loaded


def clean(prompt: str) -> str:
    """Mend a prompt's text: broken encodings, HTML entities (even twice escaped), runs of white space.

    Raises:
        ImportError: If ftfy is not installed.
    """
    try:
        import ftfy
    except ImportError as error:
        raise ImportError(
            "UMT5Encoder needs ftfy: pip install 'lightning-adastate[wan]'"
        ) from error
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer.

    Raises:
        ValueError: If it is not there.
        ImportError: If transformers is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(
            "UMT5Encoder needs transformers: pip install 'lightning-adastate[wan]'"
        ) from error
    _, words = find_folders(folder)
    try:
        return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(words))
    except (OSError, ValueError) as error:
        raise _unloadable(folder, error) from error


def _unloadable(folder: str, error: Exception) -> ValueError:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"cannot load a UMT5 encoder from {folder!r}: {line}")


def load_umt5(
    folder: str, text_dim: int, dtype: torch.dtype
) -> tuple[UMT5EncoderModel, PreTrainedTokenizerBase]:
    """Return a frozen model on the CPU, and its tokenizer.

    Raises:
        ValueError: If they are not there, or the model is another or of another size.
        ImportError: If transformers is not installed.
    """
    tokenizer = load_tokenizer(folder)
    weights, _ = find_folders(folder)
    try:
        model = load_native(weights, dtype) if weights.is_file() else _from_folder(weights, dtype)
        width = model.config.d_model
        if width != text_dim:
            raise ValueError(f"its vectors have {width} numbers, `text_dim` is {text_dim}")
    except (OSError, ValueError) as error:
        raise _unloadable(folder, error) from error
    model.requires_grad_(requires_grad=False).train(mode=False)
    return model, tokenizer


def _from_folder(weights: Path, dtype: torch.dtype) -> UMT5EncoderModel:
    """Return the encoder of a folder of transformers'."""
    from transformers import AutoConfig, UMT5EncoderModel

    config = AutoConfig.from_pretrained(weights)
    if config.model_type != "umt5":
        raise ValueError(f"it is a {config.model_type} model, not umt5")
    loaded = UMT5EncoderModel.from_pretrained(weights, dtype=dtype, output_loading_info=True)
    model, report = cast("tuple[UMT5EncoderModel, dict[str, set[str]]]", loaded)
    if report["missing_keys"]:
        raise ValueError(f"its weights lack {min(report['missing_keys'])}")
    return model
