"""From a configuration to a run that is played: recipes, parts, seats, training."""
