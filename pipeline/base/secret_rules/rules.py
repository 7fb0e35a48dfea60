"""Rules as gitleaks means them: pattern, keywords, entropy, allowlists. google-re2 has the syntax of Go's regexp.

Three things differ from gitleaks. Its global allowlist of paths is heeded for the noisy rules alone: on a disk the
package database says whose file it is, a folder's name does not. A value may end at a zero byte, which follows a
file's last byte on the disk. And a token with a prefix of its own (glpat-) needs less entropy.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import re2

_FOLDER = Path(__file__).parent
#: Read when this is imported: a process that reads disks can open no file afterwards.
_THEIRS, _OWN = ((_FOLDER / name).read_text("utf-8") for name in ("gitleaks.toml", "goldsmith.toml"))
#: Where gitleaks ends a value, and the same with the zero byte.
_END, _END_TOO = r"""[\x60'"\s;]""", r"""[\x00\x60'"\s;]"""
#: The form of gitleaks' rules that know a vendor's name and no form of the value: what may stand before the name, and
#: where the value begins. The first search looks for what is between, so that it is compiled in half the time.
_LEAD, _VALUE = r"[\w.-]{0,50}?", r"""[\x60'"\s=]{0,5}"""
#: In bits a byte: what a token needs that has a prefix of its own; `ghp_xxxx...` has less.
_PREFIXED = 2.0
#: They match much that is not a secret, so they apply to configuration files only.
_NOISY = frozenset({"generic-api-key"})
#: Bytes before and after a candidate's last byte that are judged with it; the longest token known has about 4,000.
BEFORE, AFTER = 4096, 2048


def _options() -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return options


@cache
def compiled(pattern: str) -> Any:
    """The pattern for bytes, each a character. Raises re2.error."""
    return re2.compile(pattern.encode("latin-1"), _options())


@dataclass(frozen=True)
class Allowlist:
    """What a rule matches and does not mean. With `every`, each kind of condition that is given has to hold."""

    every: bool
    target: str
    paths: tuple[str, ...]
    patterns: tuple[str, ...]
    stopwords: tuple[bytes, ...]

    def allows(self, secret: bytes, match: bytes, line: bytes, path: str) -> bool:
        text = {"match": match, "line": line}.get(self.target, secret)
        answers = []
        if self.paths:
            answers.append(self.allows_path(path))
        if self.patterns:
            answers.append(any(compiled(each).search(text) for each in self.patterns))
        if self.stopwords:
            lower = secret.lower()
            answers.append(any(word in lower for word in self.stopwords))
        return bool(answers) and (all(answers) if self.every else any(answers))

    def allows_path(self, path: str) -> bool:
        return bool(path) and any(compiled(each).search(path.encode("utf-8", "replace")) for each in self.paths)


@dataclass(frozen=True)
class Rule:
    """`kind` is key, token or password. `scope`: disk is judged in every byte, files in configuration alone."""

    id: str
    description: str
    kind: str
    scope: str
    pattern: str
    #: What the first search looks for, in Hyperscan's syntax: everything that `pattern` matches has it.
    trigger: str
    path: str
    keywords: tuple[bytes, ...]
    entropy: float
    group: int
    allowlists: tuple[Allowlist, ...]

    @property
    def noisy(self) -> bool:
        return self.id in _NOISY


@dataclass(frozen=True)
class Finding:
    """Where a secret stands in the text that was judged; `digest` tells two secrets apart without keeping either."""

    rule: Rule
    start: int
    end: int
    digest: bytes


@dataclass(frozen=True)
class RuleSet:
    rules: tuple[Rule, ...]
    allowlist: Allowlist

    @cached_property
    def everywhere(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.scope == "disk")

    @cached_property
    def by_id(self) -> dict[str, Rule]:
        return {rule.id: rule for rule in self.rules}

    @cached_property
    def _surest_first(self) -> list[Rule]:
        return sorted(self.rules, key=lambda rule: (rule.scope == "files", rule.noisy))

    @cached_property
    def _words(self) -> frozenset[bytes]:
        """The keywords of all rules."""
        return frozenset(word for rule in self.rules for word in rule.keywords)

    def judge(self, rule: Rule, text: bytes, *, path: str = "", lower: bytes = b"") -> Iterator[Finding]:
        """What a rule finds in a text. `path` is its file, where it is known; `lower` the text in lower case."""
        lower = lower or text.lower()
        if rule.keywords and not any(word in lower for word in rule.keywords):
            return
        if rule.path and not (path and compiled(rule.path).search(path.encode("utf-8", "replace"))):
            return
        if rule.noisy and self.allowlist.allows_path(path):
            return
        for match in compiled(rule.pattern).finditer(text):
            start, end = match.span()
            secret = _secret(match, rule)
            if rule.entropy and entropy(secret) <= rule.entropy:
                continue
            line = text[text.rfind(b"\n", 0, start) + 1 : end + len(text[end : end + 1024].split(b"\n", 1)[0])]
            values = (secret, match.group(0), line, path)
            plain = Allowlist(False, "secret", (), self.allowlist.patterns, self.allowlist.stopwords)
            if plain.allows(*values) or any(each.allows(*values) for each in rule.allowlists):
                continue
            yield Finding(rule, start, end, _digest(rule, secret, text, start))

    def judge_file(self, text: bytes, path: str) -> list[Finding]:
        """What all rules find in a configuration file, in order; of several in one place the surest."""
        found: list[Finding] = []
        lower = text.lower()
        # each word is looked for once, though many rules have it
        present = {word for word in self._words if word in lower}
        for rule in self._surest_first:
            if rule.keywords and present.isdisjoint(rule.keywords):
                continue
            for finding in self.judge(rule, text, path=path, lower=lower):
                if not any(finding.start < other.end and other.start < finding.end for other in found):
                    found.append(finding)
        return sorted(found, key=lambda finding: finding.start)


def entropy(data: bytes) -> float:
    """Shannon's, in bits a byte."""
    size = len(data)
    return -sum(count / size * math.log2(count / size) for count in Counter(data).values())


def _secret(match: Any, rule: Rule) -> bytes:
    """As gitleaks: the group that the rule names, else the first that has something, else all of it."""
    if rule.group:
        return bytes(match.group(rule.group) or b"")
    return next((bytes(group) for group in match.groups() if group), bytes(match.group(0)))


def _digest(rule: Rule, secret: bytes, text: bytes, start: int) -> bytes:
    return key_digest(text, start, secret) if rule.kind == "key" else hashlib.sha256(secret).digest()


def key_digest(text: bytes, start: int, secret: bytes = b"") -> bytes:
    """Of a key its body, without the breaks of lines: an OpenSSH key begins like any other."""
    body = text[start : start + BEFORE].split(b"-----", 3)[2:3]
    whole = b"".join(body[0].replace(b"\\n", b"").split())[:2048] if body else secret or text[start : start + 256]
    return hashlib.sha256(whole).digest()


@cache
def rule_set() -> RuleSet:
    """All rules; goldsmith's own replace gitleaks' of the same id."""
    theirs, own = tomllib.loads(_THEIRS), tomllib.loads(_OWN)
    files_only = {*own["files_only"], *_NOISY}
    taken = [rule for rule in _with_pattern(theirs) if rule["id"] not in own["leave_out"]]
    taken = [{**rule, "scope": "files"} if rule["id"] in files_only or "path" in rule else rule for rule in taken]
    rules = {rule.id: rule for rule in map(_rule, taken)}
    rules |= {rule.id: rule for rule in map(_rule, _with_pattern(own))}
    return RuleSet(tuple(rules.values()), _allowlist(theirs["allowlist"]))


def _with_pattern(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [rule for rule in data["rules"] if "regex" in rule]


def _rule(data: Mapping[str, Any]) -> Rule:
    return Rule(
        id=data["id"],
        description=data.get("title") or data["id"].replace("-", " "),
        kind=data.get("kind", "token"),
        scope=data.get("scope", "disk"),
        pattern=data["regex"].replace(_END, _END_TOO),
        trigger=data.get("trigger") or _trigger(data["regex"].replace(_END, _END_TOO)),
        path=data.get("path", ""),
        keywords=tuple(word.lower().encode() for word in data.get("keywords", ())),
        entropy=min(float(data.get("entropy", 0)), _PREFIXED if _is_prefixed(data) else 8.0),
        group=int(data.get("secretGroup", 0)),
        allowlists=tuple(map(_allowlist, data.get("allowlists", ()))),
    )


def _is_prefixed(data: Mapping[str, Any]) -> bool:
    """Each keyword is a prefix of tokens and no word: it has another character than letters."""
    words = data.get("keywords", ())
    return bool(words) and all(len(word) >= 4 and not word.isalpha() and " " not in word for word in words)


def _trigger(pattern: str) -> str:
    for lead in ("(?i)" + _LEAD, _LEAD):
        if pattern.startswith(lead) and _VALUE in pattern:
            return ("(?i)" if lead != _LEAD else "") + pattern[len(lead) : pattern.index(_VALUE)]
    return pattern


def _allowlist(data: Mapping[str, Any]) -> Allowlist:
    return Allowlist(
        every=data.get("condition", "OR") == "AND",
        target=data.get("regexTarget", "secret"),
        paths=tuple(data.get("paths", ())),
        patterns=tuple(data.get("regexes", ())),
        stopwords=tuple(word.lower().encode() for word in data.get("stopwords", ())),
    )
