"""Texts and tables that come with the package."""

from importlib.resources import files
from typing import Any

import yaml


def text(path: str) -> str:
    """Return the text of a file by its path in the package, such as `judges/rubric.yaml`."""
    return (files("sparring") / path).read_text("utf-8")


def table(path: str) -> Any:
    """Return what a YAML file holds, by its path in the package."""
    return yaml.safe_load(text(path))
