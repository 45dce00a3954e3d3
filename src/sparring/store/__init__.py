"""What goes to disk: a run's folder, its checkpoints, and games as JSON."""
