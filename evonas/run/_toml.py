"""Writing TOML (the standard library reads it only), with the origin of every value as a comment."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evonas.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dump_toml(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> str:
    """Nested mappings of str, bool, int, float, None, lists and mappings as TOML text.

    Args:
        origins: where a value comes from, by dotted key ("search.workers": "flag").

    TOML has no null: a None becomes a comment and is absent when the text is read.

    Raises:
        UsageError: a value of another type.
    """
    lines: list[str] = []
    _table(values, (), origins or {}, lines)
    return "\n".join(lines).strip("\n") + "\n"


def load_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        UsageError: it is missing, cannot be read or is malformed.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", hint="correct the file and try again") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UsageError(f"cannot read {str(path)!r}: {reason}", hint="name a TOML file") from None


def _table(
    values: Mapping[str, Any], path: tuple[str, ...], origins: Mapping[str, str], lines: list[str]
) -> None:
    if path:
        lines += ["", f"[{'.'.join(map(_key, path))}]"]
    for key, value in values.items():
        if isinstance(value, Mapping):
            continue
        dotted = ".".join((*path, key))
        origin = f"  # {origins[dotted]}" if dotted in origins else ""
        if value is None:
            lines.append(f"# {_key(key)} is not set{origin}")
        else:
            lines.append(f"{_key(key)} = {_value(value, dotted)}{origin}")
    for key, value in values.items():
        if isinstance(value, Mapping):
            _table(value, (*path, key), origins, lines)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any, dotted: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        return "nan" if value != value else "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v, dotted) for v in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {_value(v, dotted)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(pairs) + "}"
    raise UsageError(f"the setting {dotted} = {value!r} cannot be written to a configuration file")
