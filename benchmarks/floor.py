"""The floor of a steady chunk: its linear layers and its attention, on the same weights and shapes, and nothing else.

No norm, modulation, rotation, activation, noise or cache: what any implementation with these kernels has to do. The
text's keys and values and the time embeddings are made once per stream, so they are no part of it.
"""

# Shapes: B batch, S live tokens, K all tokens that are attended to, N heads, D head dim, E model dim.

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_adastate.backbones import WanTransformer
from lightning_adastate.backbones.attention import attend
from lightning_adastate.schedules import FewStepSchedule


class Floor:
    """The passes of a chunk whose window is full.

    Args:
        model: Its linear layers are run.
        schedule: Its passes are.
        num_frames: Frames that a pass attends to, live ones included.
        text_BSE: Raw text embeddings.
        latent: ``(C, H, W)`` of a latent frame.
    """

    def __init__(
        self,
        model: WanTransformer,
        schedule: FewStepSchedule,
        num_frames: int,
        text_BSE: Tensor,
        latent: tuple[int, int, int],
    ) -> None:
        self.model, self.passes = model, schedule.passes(1)
        rows, columns = model.token_grid(*latent[1:])
        frames, width = schedule.chunk_frames, model.num_heads * model.head_dim
        self.text = model.text_kv(text_BSE)
        batch, tokens = text_BSE.shape[0], rows * columns
        heads = (model.num_heads, model.head_dim)
        self.x_BSE = torch.randn(batch, frames * tokens, width)
        self.ffn_BSE = torch.randn(batch, frames * tokens, model._blocks()[0].ffn[0].out_features)
        self.window_BKND = torch.randn(2, batch, num_frames * tokens, *heads)
        channels, height, columns = latent
        self.latents = torch.randn(batch, channels, frames, height, columns)

    @torch.no_grad()
    def stream(self) -> Iterator[Tensor]:
        """Yield what the last layer makes, chunk after chunk."""
        while True:
            for one in self.passes:
                out = self.forward(kv_only=one.kind == "commit")
            yield out

    def forward(self, *, kv_only: bool = False) -> Tensor:
        """Run one pass. Every layer gets the same input: what it makes is of no use to the next.

        A clean pass ends at the last layer's keys and values.
        """
        model, x = self.model, self.x_BSE
        model.patch_embedding(self.latents)
        for layer, block in enumerate(model._blocks()):
            own, cross = block.self_attn, block.cross_attn
            if kv_only and layer + 1 == model.num_layers:
                own.k(x)
                return own.v(x)
            query, _, _ = (own._heads(part(x)) for part in (own.q, own.k, own.v))
            mixed = attend(query, *self.window_BKND, mask=None, kernels=own.kernels)
            own.o(mixed.flatten(2))
            query = cross._heads(cross.q(x))
            pair = (self.text.key_LBSND[layer], self.text.value_LBSND[layer])
            cross.o(attend(query, *pair, mask=None, kernels=cross.kernels).flatten(2))
            block.ffn[0](x)
            block.ffn[2](self.ffn_BSE)
        return model.head.head(x)
