"""What keeps TRL's trainer from work that ours is not asked to do."""

QUIET = {
    "shuffle_dataset": False,
    "report_to": "none",
    "logging_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
}
