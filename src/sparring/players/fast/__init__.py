"""The shared-prefix kernels behind one door: prompts run once for their groups."""

from sparring.players.fast.decoding import begin, check_playable
from sparring.players.fast.sharing import by_beginning, path_of, recompute

__all__ = ["begin", "by_beginning", "check_playable", "path_of", "recompute"]
