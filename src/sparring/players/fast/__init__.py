"""The shared-prefix kernels behind one door: prompts run once for their groups."""

from sparring.players.fast.decoding import begin
from sparring.players.fast.sharing import path_of, recompute

__all__ = ["begin", "path_of", "recompute"]
