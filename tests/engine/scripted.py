"""A denoiser whose answers are written down, so that the engine's bookkeeping can be checked by hand."""

from types import SimpleNamespace

import torch
from torch import nn

from dmaxlit.tokens import SpecialTokens

SPECIAL = SpecialTokens(mask_id=9, eos_id=8, pad_id=7, vocab_size=10)


class ScriptedDenoiser(nn.Module):
    """Predicts, with certainty, ``script(position, fed)`` at every position.

    Args:
        script: Token for a position of the sequence that was fed the given token.
        block_length: Tokens per block.
        max_length: Longest sequence.
    """

    def __init__(self, script, block_length=4, max_length=32):
        super().__init__()
        self.script = script
        self.block_length = block_length
        self.max_length = max_length
        self.special = SPECIAL
        self.tokenizer = SimpleNamespace(eos_token_id=SPECIAL.eos_id, mask_token_id=SPECIAL.mask_id)
        self.table = nn.Parameter(torch.randn(SPECIAL.vocab_size, 3, generator=torch.Generator().manual_seed(0)))
        self.layer = nn.Dropout(0.5)
        self.model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=1))
        self.calls = []
        self.modes = set()

    @property
    def vocab_size(self):
        return len(self.table)

    @property
    def device(self):
        return self.table.device

    def embed(self, ids):
        return self.table[ids]

    def embedder(self):
        return self.embed

    def scorer(self):
        return self.logits

    def model_mask(self, allowed, num_queries):
        return allowed

    def hidden(self, allowed, position_ids, cache=None, inputs_embeds=None):
        assert not torch.is_grad_enabled()
        self.modes.add(self.training)
        self.calls.append(tuple(inputs_embeds.shape[:2]))
        assert allowed.any(-1).all(), "a query without keys"
        fed = torch.cdist(inputs_embeds, self.table.expand(len(inputs_embeds), -1, -1)).argmin(-1)
        return torch.stack([position_ids, fed], -1).to(inputs_embeds.dtype)

    def logits(self, hidden):
        logits = torch.full((*hidden.shape[:-1], SPECIAL.vocab_size), -torch.inf)
        tokens = [self.script(int(position), int(fed)) for position, fed in hidden.flatten(0, -2).tolist()]
        return logits.scatter(-1, torch.tensor(tokens).view(*hidden.shape[:-1], 1), 0.0)
