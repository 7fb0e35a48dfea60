"""The functions of HCL2 that need nothing but their arguments, as Packer's documentation lists them.

What is wrong with an argument is any of TypeError, ValueError, IndexError, KeyError, ArithmeticError: the evaluator
reports it as a value that is not known. Regular expressions are RE2's, as in Packer, so they end in linear time.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import re2
import yaml

from pipeline.packer.hcl import get_item, to_bool, to_number
from pipeline.packer.limits import DEPTH, TEXT, Budget, NotKnown, known
from pipeline.packer.text_template import to_json, to_text

_FORMAT = re.compile(r"%(?:%|(?P<flags>[-+ #0]*)(?P<width>\d*)(?:\.(?P<exact>\d+))?(?P<verb>[vsdqtfgexXbo]))")
#: Go's words of formatdate(), longest first, and what they are of a time.
_DATE = re.compile(r"YYYY|YY|MMMM|MMM|MM|M|DD|D|EEEE|EEE|hh|h|HH|H|AA|aa|mm|m|ss|s|ZZZZZ|ZZZZ|ZZZ|Z|'(?:[^']|'')*'")
_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(h|m|s)")
_REFUSED = {
    "vault": "a secret of Vault",
    "consul_key": "a key of Consul",
    "aws_secretsmanager": "a secret of AWS",
    "aws_secretsmanager_raw": "a secret of AWS",
    "uuidv4": "a random number",
    "uuidv5": "a UUID",
    "bcrypt": "a random number",
    "rsadecrypt": "a private key",
}


def functions(variables: Mapping[str, str], now: datetime) -> dict[str, Callable[..., Any]]:
    """All functions by name. `variables` is the environment for env(), and `now` is the time for timestamp()."""
    table: dict[str, Callable[..., Any]] = {
        **_NUMBERS,
        **_TEXTS,
        **_LISTS,
        **_ENCODINGS,
        "env": lambda name: variables.get(to_text(name), ""),
        "timestamp": lambda: now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "formatdate": lambda form, time: format_date(to_text(form), to_text(time)),
        "timeadd": _add_time,
        "isotime": lambda form="": format_go_time(to_text(form), now),
        "legacy_isotime": lambda form="": format_go_time(to_text(form), now),
        "legacy_strftime": lambda form: now.astimezone(UTC).strftime(to_text(form)[:200]),
    }
    for name, what in _REFUSED.items():
        table[name] = _refuse(what)
    return table


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_values: Any) -> Any:
        raise NotKnown(what)

    return refuse


# -- numbers -----------------------------------------------------------------------------------------------------

_NUMBERS: dict[str, Callable[..., Any]] = {
    "abs": lambda x: abs(to_number(x)),
    "ceil": lambda x: math.ceil(to_number(x)),
    "floor": lambda x: math.floor(to_number(x)),
    "max": lambda *values: max(to_number(each) for each in values),
    "min": lambda *values: min(to_number(each) for each in values),
    "pow": lambda x, y: float(to_number(x)) ** float(to_number(y)),
    "log": lambda x, base: math.log(to_number(x), to_number(base)),
    "signum": lambda x: (to_number(x) > 0) - (to_number(x) < 0),
    "parseint": lambda text, base: int(to_text(text)[:200], base),
    "sum": lambda values: sum(to_number(each) for each in values),
}

# -- texts -------------------------------------------------------------------------------------------------------


def _require_short(length: int) -> None:
    """Raise ValueError for a text that would become longer than a text may be."""
    if length > TEXT:
        raise ValueError("the text becomes too long")


def _replace(value: Any, search: Any, replacement: Any) -> str:
    text, old, new = to_text(value), to_text(search), to_text(replacement)
    if len(old) > 1 and old[0] == old[-1] == "/":
        # a replacement of RE2 has $1 in Packer and \1 here
        count = sum(1 for _match in re2.finditer(old[1:-1], text))
        _require_short(len(text) + count * len(new))
        found = re2.sub(old[1:-1], re.sub(r"\$(\d)", r"\\\1", new.replace("\\", "\\\\")), text)
        return str(found)
    _require_short(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _captures(found: Any) -> Any:
    named = found.groupdict()
    return named or (list(found.groups()) if found.groups() else found.group(0))


def _regex(pattern: Any, text: Any) -> Any:
    found = re2.search(to_text(pattern), to_text(text))
    if found is None:
        raise ValueError("the expression does not match")
    return _captures(found)


def format_text(form: Any, *values: Any) -> str:
    """format() of HCL2: the verbs of Go that templates use."""
    waiting = list(values)

    def verb(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        width, exact = int(found["width"] or 0), found["exact"]
        if width > 1000 or int(exact or 0) > 1000:
            raise ValueError("the width is too large")
        value, kind = waiting.pop(0), found["verb"]
        if kind == "v":
            text = to_json(value) if isinstance(value, list | dict) else to_text(value)
        elif kind in "sqt":
            text = json.dumps(to_text(value)) if kind == "q" else to_text(value)
            text = text[: int(exact)] if exact is not None else text
        elif kind in "dxXbo":
            text = format(int(to_number(value)), kind)
        else:
            text = format(float(to_number(value)), f".{exact or 6}{kind}")
        if "+" in found["flags"] and kind in "dfge" and not text.startswith("-"):
            text = f"+{text}"
        if "-" in found["flags"]:
            return text.ljust(width)
        return text.zfill(width) if "0" in found["flags"] else text.rjust(width)

    return _FORMAT.sub(verb, to_text(form))


def _format_list(form: Any, *values: Any) -> list[str]:
    count = max((len(each) for each in values if isinstance(each, list)), default=1)
    _require_short(len(to_text(form)) * count)
    rows = ([each[n] if isinstance(each, list) else each for each in values] for n in range(count))
    return [format_text(form, *row) for row in rows]


def _join(separator: Any, *lists: Any) -> str:
    words = [to_text(item) for each in lists for item in each]
    _require_short(sum(map(len, words)) + len(words) * len(to_text(separator)))
    return to_text(separator).join(words)


def _indent(count: Any, text: Any) -> str:
    lines, blanks = to_text(text), " " * min(int(count), 1000)
    _require_short(len(lines) + lines.count("\n") * len(blanks))
    return lines.replace("\n", "\n" + blanks)


def _split(separator: Any, text: Any) -> list[str]:
    word = to_text(separator)
    return to_text(text).split(word) if word else list(to_text(text))


def _substr(value: Any, begin: int, length: int) -> str:
    text = to_text(value)
    start = begin if begin >= 0 else len(text) + begin
    return text[start:] if length < 0 else text[start : start + length]


_TEXTS: dict[str, Callable[..., Any]] = {
    "chomp": lambda text: to_text(text).rstrip("\r\n"),
    "format": format_text,
    "formatlist": _format_list,
    "indent": _indent,
    "join": _join,
    "lower": lambda text: to_text(text).lower(),
    "upper": lambda text: to_text(text).upper(),
    "title": lambda text: re.sub(r"\b[a-z]", lambda found: found[0].upper(), to_text(text)),
    "replace": _replace,
    "regex_replace": lambda text, old, new: _replace(text, f"/{to_text(old)}/", new),
    "regex": _regex,
    "regexall": lambda pattern, text: [_captures(each) for each in re2.finditer(to_text(pattern), to_text(text))],
    "split": _split,
    "strrev": lambda text: to_text(text)[::-1],
    "strlen": lambda text: len(to_text(text)),
    "substr": _substr,
    "trim": lambda text, letters: to_text(text).strip(to_text(letters)),
    "trimprefix": lambda text, start: to_text(text).removeprefix(to_text(start)),
    "trimsuffix": lambda text, end: to_text(text).removesuffix(to_text(end)),
    "trimspace": lambda text: to_text(text).strip(),
    "startswith": lambda text, start: to_text(text).startswith(to_text(start)),
    "endswith": lambda text, end: to_text(text).endswith(to_text(end)),
    "strcontains": lambda text, part: to_text(part) in to_text(text),
    "tostring": to_text,
    "tonumber": to_number,
    "tobool": to_bool,
    "convert": lambda value, _kind=None: value,
}

# -- lists and maps ----------------------------------------------------------------------------------------------


def _flatten(values: Any, depth: int = 0) -> list[Any]:
    if depth > 20:
        raise ValueError("the list is nested too deep")
    out: list[Any] = []
    for each in values:
        out.extend(_flatten(each, depth + 1) if isinstance(each, list) else [each])
        Budget.items(len(out))
    return out


def _distinct(values: Any) -> list[Any]:
    seen: dict[str, Any] = {}
    for each in values:
        seen.setdefault(to_json(each), each)
    return list(seen.values())


def _first_of(*values: Any) -> Any:
    for each in values:
        if each not in (None, "", []):
            return known(each)
    raise ValueError("all arguments are empty")


def _lookup(values: Any, key: Any, *default: Any) -> Any:
    if not isinstance(values, Mapping):
        raise TypeError("lookup() needs a map")
    if default and to_text(key) not in values:
        return known(default[0])
    return get_item(values, key)


def _range(*words: Any) -> list[Any]:
    numbers = [int(to_number(each)) for each in words]
    Budget.items(len(range(*numbers)))
    return list(range(*numbers))


def _slice(values: list[Any], begin: int, end: int) -> list[Any]:
    if not 0 <= begin <= end <= len(values):
        raise IndexError("the slice is outside of the list")
    return values[begin:end]


def _product(*lists: Any) -> list[list[Any]]:
    Budget.items(math.prod(len(each) for each in lists))
    return [list(each) for each in itertools.product(*lists)]


def _length(value: Any) -> int:
    return len(known(value))  # type: ignore[arg-type]


_LISTS: dict[str, Callable[..., Any]] = {
    "chunklist": lambda values, size: [values[n : n + size] for n in range(0, len(values), size)],
    "coalesce": _first_of,
    "coalescelist": _first_of,
    "compact": lambda values: [each for each in values if each not in ("", None)],
    "concat": lambda *lists: [item for each in lists for item in each],
    "contains": lambda values, value: value in values,
    "distinct": _distinct,
    "element": lambda values, index: known(values[int(index) % len(values)]),
    "flatten": _flatten,
    "index": lambda values, value: values.index(value),
    "keys": sorted,
    "length": _length,
    "lookup": _lookup,
    "merge": lambda *maps: {key: value for each in maps if each for key, value in each.items()},
    "one": lambda values: known(values[0]) if len(values) == 1 else None,
    "range": _range,
    "reverse": lambda values: values[::-1],
    "setintersection": lambda *sets: [each for each in _distinct(sets[0]) if all(each in other for other in sets)],
    "setproduct": _product,
    "setsubtract": lambda left, right: [each for each in _distinct(left) if each not in right],
    "setunion": lambda *sets: _distinct([item for each in sets for item in each]),
    "slice": _slice,
    "sort": lambda values: sorted(map(to_text, values)),
    "tolist": list,
    "tomap": dict,
    "toset": _distinct,
    "values": lambda values: [values[key] for key in sorted(values)],
    "zipmap": lambda keys, values: dict(zip(map(to_text, keys), values, strict=True)),
}

# -- encodings and digests ---------------------------------------------------------------------------------------


def _decode_yaml(text: Any) -> Any:
    """A YAML document without aliases, which could make a short text a large value."""
    depth = 0
    for event in yaml.parse(to_text(text), Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("goldsmith decodes no YAML with aliases")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError("the YAML is nested too deep")
    # dates and sets are texts and maps in HCL2
    return json.loads(json.dumps(yaml.safe_load(to_text(text)), default=str))


def _digest(kind: str) -> Callable[[Any], str]:
    return lambda text: hashlib.new(kind, to_text(text).encode(), usedforsecurity=False).hexdigest()


_ENCODINGS: dict[str, Callable[..., Any]] = {
    "base64encode": lambda text: base64.b64encode(to_text(text).encode()).decode(),
    "base64decode": lambda text: base64.b64decode(to_text(text), validate=True).decode("utf-8", "replace"),
    "csvdecode": lambda text: [dict(row) for row in csv.DictReader(io.StringIO(to_text(text)))],
    "jsonencode": to_json,
    "jsondecode": lambda text: json.loads(to_text(text)),
    "yamldecode": _decode_yaml,
    "yamlencode": to_json,  # each JSON document is a YAML document
    "urlencode": lambda text: quote_plus(to_text(text)),
    **{kind: _digest(kind) for kind in ("md5", "sha1", "sha256", "sha512")},
}

# -- time --------------------------------------------------------------------------------------------------------


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def format_date(form: str, text: str) -> str:
    """formatdate() of HCL2."""
    time = _parse_time(text)
    words = {
        "YYYY": "%Y", "YY": "%y", "MMMM": "%B", "MMM": "%b", "MM": "%m", "DD": "%d", "EEEE": "%A", "EEE": "%a",
        "hh": "%H", "HH": "%I", "AA": "%p", "mm": "%M", "ss": "%S", "ZZZZ": "%z", "ZZZ": "%Z",
    }  # fmt: skip

    def word(found: re.Match[str]) -> str:
        name = found[0]
        if name.startswith("'"):
            return name[1:-1].replace("''", "'")
        if name == "aa":
            return time.strftime("%p").lower()
        if name in ("Z", "ZZZZZ"):
            shift = time.strftime("%z")
            return "Z" if name == "Z" and shift == "+0000" else f"{shift[:3]}:{shift[3:]}"
        if name in words:
            return time.strftime(words[name])
        return str(int(time.strftime(words[name * 2])))

    return _DATE.sub(word, form)


#: Words of Go's layout of a time, and what they are in strftime.
_GO = {
    "2006": "%Y", "January": "%B", "Jan": "%b", "01": "%m", "02": "%d", "15": "%H", "03": "%I", "04": "%M",
    "05": "%S", "PM": "%p", "Monday": "%A", "Mon": "%a", "06": "%y", "MST": "%Z", "-0700": "%z", "Z07:00": "Z",
}  # fmt: skip
_GO_WORD = re.compile("|".join(sorted(map(re.escape, _GO), key=len, reverse=True)))


def format_go_time(layout: str, now: datetime) -> str:
    """`isotime`: the time in a layout of Go, by default RFC 3339."""
    time = now.astimezone(UTC)
    return _GO_WORD.sub(lambda found: time.strftime(_GO[found[0]]), layout or "2006-01-02T15:04:05Z07:00")


def _add_time(text: Any, duration: Any) -> str:
    parts = _DURATION.findall(to_text(duration))
    seconds = sum(float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)
    return (_parse_time(to_text(text)) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
