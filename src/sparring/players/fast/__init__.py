"""The shared-prefix kernels behind one door: prompts run once for their groups."""
