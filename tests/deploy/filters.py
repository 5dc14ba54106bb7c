"""CloudWatch's filter patterns for JSON, as far as the template uses them; any other raises."""

import json
import re
from typing import Any

_CONDITION = re.compile(r'\$\.(\w+) (=|>=) ("[^"]*"|\d+)')


def matches(pattern: str, entry: dict[str, Any]) -> bool:
    """Tell whether a log line's object matches `{ $.field = "text" && $.field >= 0 }`."""
    if not (pattern.startswith("{ ") and pattern.endswith(" }")):
        raise ValueError(pattern)
    return all(_holds(condition, entry) for condition in pattern[2:-2].split(" && "))


def _holds(condition: str, entry: dict[str, Any]) -> bool:
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise ValueError(condition)
    field, comparison, operand = found.groups()
    value, wanted = entry.get(field), json.loads(operand)
    if comparison == "=":
        return value == wanted and isinstance(value, type(wanted))
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= wanted


def values(transformation: dict[str, Any], entries: list[dict[str, Any]]) -> list[float]:
    """Return what a filter publishes for the lines that it matched."""
    value = str(transformation["MetricValue"])
    return [float(entry[value[2:]]) if value.startswith("$.") else float(value) for entry in entries]
