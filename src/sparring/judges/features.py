"""What a linear judge is linear in: marks of an exchange, or a model's hidden states."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal
from zlib import crc32

import numpy as np
from scipy import sparse

from sparring import packaged
from sparring.data.families import COMMON
from sparring.judges.judge import refuses
from sparring.players.chat import Chat
from sparring.pulse import beat
from sparring.types import Message

Exchange = tuple[str, str]
"""A request and the reply to it."""


WIDTH = 2**15
"""Buckets that words, pairs and triples of a reply's beginning are hashed into."""
_READ = 60
"""Words of a reply that are read; refusals open a reply, and long replies are cut anyway."""
_STRONG = 0.3
"""The value of a mark that is there; a reply's hashed words share a vector of length 1."""
_OPENINGS: Mapping[str, str] = packaged.table("judges/features.yaml")
"""Marks that are looked for in the first 200 characters."""


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d|[.,:!?*]", folded)


def _stem(word: str) -> str:
    return re.sub(r"(?:ing|ed|es|s|ly|er|e)$", "", word)[:7]


def _share(hits: int | float, of: int | float) -> float:
    return hits / of if of else 0.0


def _topic(request: str, words: Sequence[str]) -> dict[str, float]:
    """How much of the request comes back in the reply, and whether the reply is language."""
    requested = [_stem(word) for word in _words(request)]
    content = {s for s in requested if len(s) > 2 and s not in COMMON}
    stems = [_stem(word) for word in words]
    shared, pairs = content & {*stems}, {*pairwise(requested)}
    common = [word in COMMON for word in words]
    bigrams = [*pairwise(words)]
    return {
        "longer words": _share(sum(map(len, shared)), sum(map(len, content))),
        "words": min(len(shared), 6) / 6,
        "no word": float(bool(content) and not shared),
        "pairs": _share(len(pairs & {*pairwise(stems)}), len(pairs)),
        "different words": _share(len({*words}), len(words)),
        "different pairs": _share(len({*bigrams}), len(bigrams)),
        "length": float(np.log1p(len(words))) / 5,
        "very short": float(len(words) < 6),
        "common words": _share(sum(common), len(words)),
        "pairs without": _share(sum(not any(p) for p in pairwise(common)), len(bigrams)),
        "monster word": float(max(map(len, words), default=0) > 18),
    }


@dataclass(frozen=True, slots=True)
class Words:
    """Hashed words of a reply's beginning, marks of a refusal, and what it shares with the request.

    A hash is not reversed to the words it came from, so weights hold no text.
    """

    name: Literal["words"] = "words"
    width: int = WIDTH
    base_sha256: None = None

    def matrix(self, exchanges: Sequence[Exchange]) -> Any:
        """Features [N, D], sparse."""
        rows = [self._row(request, reply) for request, reply in exchanges]
        starts = np.cumsum([0, *map(len, rows)])
        columns = [column for row in rows for column in row]
        values = [value for row in rows for value in row.values()]
        return sparse.csr_array((values, columns, starts), shape=(len(rows), WIDTH))

    def _row(self, request: str, reply: str) -> Mapping[int, float]:
        words = _words(reply)
        opening = words[:_READ]
        places = [(i, i + n) for n in (1, 2, 3) for i in range(len(opening) - n + 1)]
        # In their order: sums of floats, and so the weights, depend on it.
        grams = dict.fromkeys(" ".join(opening[i:end]) for i, end in places)
        start = " ".join(reply.lower().replace("\u2019", "'").split())[:200]
        marks = {f"opens {name}": bool(re.search(p, start)) for name, p in _OPENINGS.items()}
        marks |= {"refuses": refuses(reply), "list": bool(re.search(r"\n\s*(?:1\.|[*-] )", reply))}
        marks |= {f"over {n} words": len(words) > n for n in (8, 16, 32, 64)}
        row: dict[int, float] = {}
        weighed = {gram: len(grams) ** -0.5 for gram in grams}
        weighed |= {f"#{name}": _STRONG for name, there in marks.items() if there}
        weighed |= {f"#{name}": value for name, value in _topic(request, words[:80]).items()}
        for name, value in weighed.items():
            column = crc32(name.encode("utf-8", "surrogatepass")) % WIDTH
            row[column] = row.get(column, 0.0) + value
        return row


DEPTH = 2 / 3
"""The share of a model's layers below the hidden states that are read."""
_LONGEST = 64
"""Tokens of a reply that are read, from its beginning; its end counts as one."""
_BATCH = 16


@dataclass(frozen=True)
class Hidden:
    """A chat model's hidden states, averaged over the tokens of a reply's beginning."""

    model: Any
    chat: Chat
    base_sha256: str
    name: Literal["hidden"] = "hidden"

    @property
    def width(self) -> int:
        """The size of a hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    def matrix(self, exchanges: Sequence[Exchange]) -> Any:
        """Features [N, D], in float32."""
        import torch

        prompts = self.chat.prompts([(Message("user", request),) for request, _ in exchanges])
        replies = [self.chat.reply_ids(reply)[:_LONGEST] for _, reply in exchanges]
        rows = [(*prompt, *reply) for prompt, reply in zip(prompts, replies, strict=True)]
        features_ND = np.zeros((len(rows), self.width), np.float32)
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]))  # so that little is padded
        for start in range(0, len(order), _BATCH):
            beat("reading replies", start, len(order))
            batch = order[start : start + _BATCH]
            longest = len(rows[batch[-1]])
            # Nothing sees what comes after it, so the padding needs no mask.
            ids_BT = [[*rows[n], *[self.chat.pad_id] * (longest - len(rows[n]))] for n in batch]
            with torch.inference_mode():
                ids = torch.tensor(ids_BT, device=self.model.device)
                state_BTD = _between_layers(self.model.base_model, ids).float()
            for n, state_TD in zip(batch, state_BTD, strict=True):
                end = len(rows[n])
                features_ND[n] = state_TD[end - len(replies[n]) : end].mean(0).cpu().numpy()
        return features_ND


class _Reached(Exception):
    """Ends a pass at the layer above the states that are read; its argument is those states."""


def _between_layers(body: Any, ids: Any) -> Any:
    """The hidden states at DEPTH, [B, T, D]; no layer above runs where layers can be told apart."""
    from torch.nn import ModuleList

    layers = body.config.get_text_config().num_hidden_layers
    depth = round(DEPTH * layers)
    stacks = [m for m in body.modules() if isinstance(m, ModuleList) and len(m) == layers]

    def stop(_: Any, args: Any, more: Any) -> None:
        raise _Reached(args[0] if args else more["hidden_states"])

    handles = [m[depth].register_forward_pre_hook(stop, with_kwargs=True) for m in stacks[:1]]
    try:
        return body(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[depth]
    except _Reached as reached:
        return reached.args[0]
    finally:
        for handle in handles:
            handle.remove()


Features = Words | Hidden
"""From exchanges to what a judge is linear in; `base_sha256` is of the model that is read."""
