"""A configuration as YAML whose comments say what every field is."""

from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from sparring.settings import sections
from sparring.settings.config import RunConfig


def commented(config: RunConfig) -> str:
    """Return the configuration as YAML with every field's description beside it."""
    head = f"""\
# Settings for models of billions of weights; delete what you leave as it is.
# Set both model_name_or_path and data.train: without them this plays the sandbox, which
# wants its own settings (sparring config show {config.recipe}).
"""
    return head + "\n".join(_commented(config, "")) + "\n"


def _commented(model: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel) and not isinstance(value, sections.PerPlayer):
            lines += [f"{indent}{name}:", *_commented(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            lines.append(f"{indent}{name}:".ljust(56) + f"  # {field.description}")
            for entry in value:
                first, *rest = _commented(entry, indent + "    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
        else:
            plain = model.model_dump(mode="json")[name]
            text = yaml.safe_dump(plain, default_flow_style=True, width=1000).split("\n...")[0]
            about = f"{field.description}{_choices(field.annotation)}"
            lines.append(f"{indent}{name}: {text.strip()}".ljust(56) + f"  # {about}")
    return lines


def _choices(annotation: Any) -> str:
    """Return the words that a setting can have, for the end of its comment; '' for others."""
    words = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f" ({', '.join(map(str, words))})" if words else ""
