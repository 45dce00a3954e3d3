"""A run's player as a folder that other libraries load."""
