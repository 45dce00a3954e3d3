"""Who plays and learns: models, adapters, how they are sampled and how they are trained."""
