"""Suffixes that make a model begin its reply as an attacker wants: greedy coordinate gradient.

Zou et al., arXiv:2307.15043, algorithm 1. Published: 20 tokens, 500 steps, 512 candidates a step
from the 256 best replacements of each token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.players.chat import Chat, Vocabulary
from sparring.players.local import uniforms
from sparring.players.logprobs import logprobs, pad
from sparring.players.weights import Weights
from sparring.pulse import beat

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Suffixes:
    """Suffixes of `length` tokens behind what a user says to the model of `weights`.

    A step tries `candidates` replacements of one token each, drawn from the `best` ones of every
    place by the gradient. `allowed` says of a word whether a suffix may hold it.
    """

    weights: Weights
    chat: Chat
    length: int = 20
    candidates: int = 32
    best: int = 64
    allowed: Callable[[str], bool] = lambda _: True

    def drawn(self, address: str) -> str:
        """Return a suffix of tokens drawn at an address."""
        places = uniforms(address, self.length) * len(self._tokens)
        return self.words.text([self._tokens[int(place)] for place in places])

    def improved(self, request: str, suffix: str, target: str, steps: int, address: str) -> str:
        """Return the suffix after so many steps towards a reply that begins with `target`.

        A replacement that the tokenizer would read otherwise than it was written is not tried.
        """
        before, after = self.chat.around()
        words, wanted = self.words.content(request), self.chat.reply_ids(target, finished=False)
        ids = self._behind(request, suffix)
        with self.weights.merged() as model:
            model.eval()
            for step in range(steps):
                beat("gradient steps", step, steps)
                head = (*before, *words)
                gain_SV = self._gain(model, head, ids, (*after, *wanted), len(wanted))
                tried = [ids, *self._replaced(request, ids, gain_SV, f"{address}/{step}")]
                rows = [((*head, *suffix_ids, *after), wanted) for suffix_ids in tried]
                with torch.no_grad():
                    batch = pad(rows, range(len(rows)), self.chat.pad_id, model.device)
                    ids = tried[int(logprobs(model, batch, 1.0).sum(1).argmax())]
        return self.words.text(ids)

    @cached_property
    def _tokens(self) -> list[int]:
        """Tokens that a suffix may hold: whole words of printable ASCII that are no control."""
        size = min(len(self.chat.tokenizer), self._vocabulary)
        texts = {i: self.words.text([i]) for i in range(size)}
        return [
            i
            for i, text in texts.items()
            if text.isascii() and text.isprintable() and text.strip() and self.allowed(text)
            if self.words.content(f"x {text}")[-1:] == (i,)
        ]

    @property
    def words(self) -> Vocabulary:
        """The words of the chat's contents."""
        return self.chat.words

    @property
    def _vocabulary(self) -> int:
        return int(self.weights.model.config.get_text_config().vocab_size)

    def _behind(self, request: str, suffix: str) -> Ids:
        """The tokens of a suffix where it follows a request."""
        return self.words.content(f"{request} {suffix}")[len(self.words.content(request)) :]

    def _gain(self, model: Any, head: Ids, suffix: Ids, tail: Ids, wanted: int) -> Tensor:
        """How much each token at each place of the suffix would raise log p of the target: [S, V].

        To first order: the gradient by the one-hot matrix of the suffix's tokens.
        """
        embed, ids_S = model.get_input_embeddings(), torch.tensor([*head, *suffix, *tail])
        ids_S = ids_S.to(model.device)
        with torch.no_grad():
            table_VD = embed(torch.arange(self._vocabulary, device=model.device))
            embedded_1SD = table_VD[ids_S].unsqueeze(0)
        with torch.enable_grad():
            embedded_1SD.requires_grad_()
            out = model(inputs_embeds=embedded_1SD, use_cache=False)
            logp_TV = out.logits[0, -wanted - 1 : -1].float().log_softmax(-1)
            total = logp_TV.gather(1, ids_S[-wanted:].unsqueeze(1)).sum()
            [grad_1SD] = torch.autograd.grad(total, embedded_1SD)
        grad_SD = grad_1SD[0, len(head) : len(head) + len(suffix)].float()
        gain_SV: Tensor = grad_SD @ table_VD.float().T
        return gain_SV

    def _replaced(self, request: str, ids: Ids, gain_SV: Tensor, address: str) -> list[Ids]:
        """Suffixes with one token replaced, each of which is read as it was written."""
        usable = torch.tensor(self._tokens, device=gain_SV.device)
        ranked_SK = gain_SV[:, usable].topk(min(self.best, len(usable)), dim=1).indices
        draws_2C = uniforms(address, 2 * self.candidates).reshape(2, -1)
        sizes = np.array([[len(ids)], [ranked_SK.shape[1]]])
        replaced = []
        for place, rank in (draws_2C * sizes).astype(int).T:
            token = self._tokens[int(ranked_SK[place, rank])]
            new = (*ids[:place], token, *ids[place + 1 :])
            if self._behind(request, self.words.text(new)) == new:
                replaced.append(new)
        return replaced
