"""Exams of finished players: tasks, cross-play, exploitation, calibration."""
