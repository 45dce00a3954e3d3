"""The shared-prefix kernels behind one door: prompts run once for their groups."""

from sparring.players.fast.decoding import begin, check_playable
from sparring.players.fast.sharing import batches, path_of, recompute, why_plain

__all__ = ["batches", "begin", "check_playable", "path_of", "recompute", "why_plain"]
