"""Settings that turn off what TRL's trainer does besides training: logs, saves, progress bars."""

QUIET = {
    "shuffle_dataset": False,
    "report_to": "none",
    "logging_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
}
