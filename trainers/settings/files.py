"""Reading a settings file: YAML or JSON, in which nothing is said twice."""

from pathlib import Path
from typing import Any

import yaml

from trainers.settings.options import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


def load_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML or JSON file that is not empty; what is wrong with it is a ConfigError of one line."""
    try:
        text = path.read_text(encoding="utf-8")
        # JSON is YAML, but for tabs as indentation
        document = yaml.load(text.replace("\t", " ") if path.suffix == ".json" else text, _StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"config file {path}{line}: {' '.join(str(problem).split())}") from error
    if document is None:
        raise ConfigError(f"config file {path}: empty")
    if not isinstance(document, dict):
        raise ConfigError(f"config file {path}: expected sections of key: value pairs, got {type(document).__name__}")
    return document
