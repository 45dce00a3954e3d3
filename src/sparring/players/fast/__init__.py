"""The shared-prefix kernels behind one door: prompts run once for their groups."""

from sparring.players.fast.decoding import begin, check_playable
from sparring.players.fast.sharing import path_of, recompute

__all__ = ["begin", "check_playable", "path_of", "recompute"]
