"""Expressions of HCL2: each feature of a template by a small text, and what a hostile one may cost."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import UsageError
from pipeline.packer.conversion import folder_of, read_template
from pipeline.packer.limits import Unknown
from pipeline.packer.template import Settings

NOW = datetime(2026, 11, 26, 9, 5, 7, tzinfo=UTC)
BUILD = """
source "qemu" "x" {
  found = local.found
}
build {
  sources = ["source.qemu.x"]
}
"""


def evaluate(folder: Path, expression: str, more: str = "", **variables: str) -> Any:
    """The value of an expression in a template."""
    path = folder / "x.pkr.hcl"
    path.write_text(f"locals {{\n  found = {expression}\n}}\n{more}\n{BUILD}")
    settings = Settings(variables, [], {"HOME_OF": "here"}, NOW, folder_of(path, None))
    return read_template(path, settings).builds[0].source.attributes["found"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("7 / 2", 3.5),
        ("-(2 - 5)", 3),
        ("10 - 2 - 3", 5),
        ("true && !false", True),
        ("1 < 2 || nowhere", True),
        ('"a" == "b" ? "yes" : "no"', "no"),
        ('"${1 + 1} and ${"${true}"}"', "2 and true"),
        (r'"a\tb\u0041 $${c} \"q\""', 'a\tbA ${c} "q"'),
        ('[1, "b"][1]', "b"),
        ('{ a = { "b c" = 3 } }.a["b c"]', 3),
        ("[for n in [1, 2, 3] : n * 2 if n != 2]", [2, 6]),
        ('{ for k, v in { a = 1 } : upper(k) => v }', {"A": 1}),
        ('{ for n in ["x", "xx", "y"] : substr(n, 0, 1) => n... }', {"x": ["x", "xx"], "y": ["y"]}),
        ('[{ i = 1 }, { i = 2 }][*].i', [1, 2]),
        ("<<E\na ${1}\n  b\nE\n", "a 1\n  b\n"),
        ("<<-E\n    a\n      b\n  E\n", "a\n  b\n"),
        ('"%{ if 1 > 2 }a%{ else }b%{ endif }"', "b"),
        ("<<E\n%{ for k, v in { a = 1 } ~}\n${k}=${v}\n%{ endfor ~}\nE\n", "a=1\n"),
        ('join("-", ["a", "b"])', "a-b"),
        ('lower("ÄB")', "äb"),
        ('formatdate("YYYY-MM-DD hh:mm", timestamp())', "2026-11-26 09:05"),
        ('timeadd(timestamp(), "1h30m")', "2026-11-26T10:35:07Z"),
        ('legacy_isotime("20060102")', "20261126"),
        ('env("HOME_OF")', "here"),
        ('format("%s-%03d %q %.1f", "a", 7, "b", 1.25)', 'a-007 "b" 1.2'),
        ('formatlist("%s!", ["a", "b"])', ["a!", "b!"]),
        ('replace("a.b", ".", "-")', "a-b"),
        ('replace("a1b2", "/[0-9]/", "#")', "a#b#"),
        ('regex("v([0-9]+)", "v12")', ["12"]),
        ('merge({ a = 1 }, { b = 2 })', {"a": 1, "b": 2}),
        ('lookup({ a = 1 }, "b", 5)', 5),
        ('concat(["a"], ["b"])', ["a", "b"]),
        ('concat([["a"], ["b"]]...)', ["a", "b"]),
        ('jsondecode(jsonencode({ a = [1, true, null] }))', {"a": [1, True, None]}),
        ('yamldecode("a: [1, b]").a', [1, "b"]),
        ('try(local.nowhere, "or this")', "or this"),
        ("can(nowhere)", False),
        ('coalesce("", "b")', "b"),
        ('split(",", "a,b")', ["a", "b"]),
        ('base64encode("hi")', "aGk="),
        ('sha256("")', "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("range(3)", [0, 1, 2]),
        ('cidrhost("10.1.0.0/16", 5)', "10.1.0.5"),
        ("flatten([[1], [[2]]])", [1, 2]),
        ('basename("/a/b.c")', "b.c"),
    ],
)  # fmt: skip
def test_expressions(folder: Path, expression: str, value: Any) -> None:
    assert evaluate(folder, expression) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("var.missing", "missing, which is not there"),
        ("nowhere", "nowhere, which is not known here"),
        ("local.found", "local.found, which needs itself"),
        ('vault("a", "b")', "a secret of Vault"),
        ("build.ID", "a value of a running build"),
        ("unheard_of()", "the function unheard_of"),
        ('"a ${[1]}"', "a text, not a list"),
        ("1 / 0", "a number"),
        ("[1][7]", "7, which is not there"),
        ('file("/etc/hostname")', "outside of"),
        ('file("../../x")', "does not exist"),
        ("parseint(true, 99)", "parseint(), which fails here"),
        ('yamldecode("a: &x [1]\\nb: *x")', "no YAML with aliases"),
    ],
)
def test_what_cannot_be_known_has_its_reason(folder: Path, expression: str, reason: str) -> None:
    found = evaluate(folder, expression)
    assert isinstance(found, Unknown)
    assert reason in found.reason


def test_variables_have_their_values_by_rank(folder: Path) -> None:
    declared = 'variable "a" { default = "default" }\nvariable "secret" {\n  default = "x"\n  sensitive = true\n}'
    assert evaluate(folder, "var.a", declared) == "default"
    (folder / "b.auto.pkrvars.hcl").write_text('a = "file"\n')
    assert evaluate(folder, "var.a", declared) == "file"
    assert evaluate(folder, "var.a", declared, a="line") == "line"
    assert evaluate(folder, "var.a[1]", declared, a='["x", "y"]') == "y"
    found = evaluate(folder, "var.secret", declared)
    assert isinstance(found, Unknown) and "sensitive" in found.reason


def test_files_are_read_in_the_folder_only(folder: Path, tmp_path: Path) -> None:
    (folder / "t.tpl").write_text("hello ${name}%{ if loud }!%{ endif }")
    assert evaluate(folder, 'templatefile("t.tpl", { name = "you", loud = true })') == "hello you!"
    assert evaluate(folder, 'templatefile("${path.root}/t.tpl", { name = "a", loud = false })') == "hello a"
    (tmp_path / "outside").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "outside")
    for word in ('file("../outside")', 'file("link")', 'fileexists("link")'):
        found = evaluate(folder, word)
        assert isinstance(found, Unknown) and "outside" in found.reason


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 350 + "1" + ")" * 350,
        "[" * 500 + "]" * 500,
        "[for a in range(10000) : [for b in range(10000) : b]]",
        "jsonencode([for n in range(10000) : local.long])",
        '"${local.long}${local.long}${local.long}${local.long}"',
        "range(99999999)",
        'templatefile("self.tpl", {})',
    ],
)
def test_a_hostile_template_is_refused(folder: Path, expression: str) -> None:
    (folder / "self.tpl").write_text('${templatefile("self.tpl", {})}')
    doubled = "\n".join(f'  d{n + 1} = "${{local.d{n}}}${{local.d{n}}}"' for n in range(18))
    more = f'locals {{\n  d0 = "xx"\n{doubled}\n  long = local.d18\n}}'
    begin = time.monotonic()
    with pytest.raises(UsageError) as caught:
        evaluate(folder, expression, more)
    assert caught.value.name == "packer-too-large"
    assert time.monotonic() - begin < 60  # it ends a hang; an import takes a second


@pytest.mark.parametrize("expression", ['replace(local.long, "/./", local.long)', "join(local.long, range(999))"])
def test_a_text_that_would_become_too_long_is_not_known(folder: Path, expression: str) -> None:
    more = 'locals {\n  long = format("%01000d", 1)\n  longer = local.long\n}'
    found = evaluate(folder, expression.replace("range(999)", "range(9999)"), more)
    assert isinstance(found, Unknown) or len(found) <= 1 << 20


def test_a_text_that_is_no_template(folder: Path) -> None:
    for text in ("a = = b", "\0", "source {"):
        (folder / "x.pkr.hcl").write_text(text)
        settings = Settings({}, [], {}, NOW, folder_of(folder / "x.pkr.hcl", None))
        with pytest.raises(UsageError) as caught:
            read_template(folder / "x.pkr.hcl", settings)
        assert caught.value.name == "packer-syntax"
        assert re.match(r"x\.pkr\.hcl:\d+:\d+: ", caught.value.message)
