"""Numbers with their intervals: nothing here knows what a game is."""
