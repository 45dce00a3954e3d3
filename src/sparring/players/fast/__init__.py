"""The shared-prefix kernels behind one door: prompts run once for their groups."""

from sparring.players.fast.decoding import begin
from sparring.players.fast.sharing import (
    packed_logprobs,
    pair_cost,
    path_of,
    recompute,
    shared_logprobs,
)

__all__ = ["begin", "packed_logprobs", "pair_cost", "path_of", "recompute", "shared_logprobs"]
