"""Many images from few lines: defaults.yaml, extends, parameters and matrix; where each of their errors stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline.base import surroundings
from pipeline.base.errors import UsageError
from pipeline.base.store import Store
from pipeline.cli import completion, context, definitions
from pipeline.cli import plan as plan_verb
from pipeline.definition import DefinitionError, load, load_all, load_file, load_named
from pipeline.definition.load import require_known_settings
from pipeline.definition.model import DebianSource
from pipeline.engine.plan import explain

DEFAULTS = """\
goldsmith: 1
parameters: {size: {type: size, default: 8 GiB, env: IMAGE_SIZE}}
disk: ${size}
keep: {versions: 3, days: 90}
"""
BASE = """\
goldsmith: 1
source: {debian: {suite: "${suite}", packages: [waagent]}}
steps: [{script: base.sh}]
matrix: {suite: [bookworm, trixie]}
"""
ROLE = """\
goldsmith: 1
extends: base
steps+: [{script: role.sh, name: "role ${role}"}]
matrix:
  suite: [bookworm, trixie]
  role: [r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15, r16, r17, r18, r19]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("base.sh", "role.sh"):
        (tmp_path / name).write_text(f"echo {name}\n")
    for suite in ("bookworm", "trixie"):
        with (tmp_path / f"{suite}.raw").open("wb") as disk:
            disk.truncate(8 << 20)
    return tmp_path


@pytest.fixture(autouse=True)
def _caller() -> Iterator[None]:
    """Settings belong to the process: no test leaves its own behind."""
    yield
    surroundings.hand_in_settings({})


@pytest.fixture
def app(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    monkeypatch.setenv("GOLDSMITH_HOME", str(project / "store"))
    root = typer.Typer()
    definitions.register(root)
    plan_verb.register(root)
    context.set_project(project)
    yield root
    context.set_project(None)


def write(project: Path, **files: str) -> None:
    for name, text in files.items():
        place = project if name == "defaults" else project / "images"
        (place / f"{name.replace('_', '-')}.yaml").write_text(text)


def faults_of(project: Path) -> list[tuple[str, str]]:
    """The name and the line of each fault of the project."""
    with pytest.raises(DefinitionError) as caught:
        load_all(project)
    return [(fault.name, str(fault)) for fault in caught.value.faults]


def keys_of(project: Path) -> dict[str, list[str]]:
    """The keys of all units of each image, by its name."""
    store = Store(project / "store").ensure()
    return {each.name: [row["key"] for row in explain(each, store)] for each in load_all(project)}


def on_disk(text: str) -> str:
    """The definition with a local disk as its source: to plan it asks no archive."""
    return text.replace('{debian: {suite: "${suite}", packages: [waagent]}}', '{disk: {path: "${suite}.raw"}}')


def test_forty_images_in_few_lines(project: Path) -> None:
    write(project, defaults=DEFAULTS, base=BASE, role=ROLE)
    assert sum(text.count("\n") for text in (DEFAULTS, BASE, ROLE)) <= 60
    images = {each.name: each for each in load_all(project)}
    assert len(images) == 40
    found = images["role-trixie-r3"]
    assert found.source == DebianSource("trixie", ("waagent",))
    assert [step.title for step in found.steps] == ["base.sh", "role r3"]
    assert (found.disk, found.keep.days) == (8 << 30, 90)
    assert found.parameters == {"size": "8 GiB", "suite": "trixie", "role": "r3"}
    assert [path.name for path in found.inherited] == ["defaults.yaml", "base.yaml"]
    assert load_named(project, "role-trixie-r3") == found


def test_the_upper_file_wins_key_by_key(project: Path) -> None:
    write(
        project,
        defaults=DEFAULTS,
        parent="goldsmith: 1\nsource: {debian: {suite: bookworm, packages: [waagent]}}\nkeep: {versions: 5}\n",
        child="goldsmith: 1\nextends: parent\nsource: {debian: {suite: trixie, packages+: [nginx]}}\ndisk: 9 GiB\n",
        other="goldsmith: 1\nextends: parent\nsource: {master: parent}\n",
    )
    child, other = load_named(project, "child"), load_named(project, "other")
    assert child.source == DebianSource("trixie", ("waagent", "nginx"))
    assert (child.disk, child.keep.versions, child.keep.days) == (9 << 30, 5, 90)
    assert str(other.source) == "parent@golden"


def test_a_value_is_set_by_command_line_environment_or_default(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, defaults=DEFAULTS, x="goldsmith: 1\nsource: {debian: {suite: bookworm}}\n")
    assert load_named(project, "x").disk == 8 << 30
    monkeypatch.setattr(surroundings, "_environment", {"IMAGE_SIZE": "9 GiB"})
    assert load_named(project, "x").disk == 9 << 30
    surroundings.hand_in_settings({"size": "10 GiB"})
    assert load_named(project, "x").disk == 10 << 30
    surroundings.hand_in_settings({"size": "10 GB"})
    with pytest.raises(DefinitionError) as caught:
        load_named(project, "x")
    assert caught.value.name == "parameter-type"
    assert str(caught.value.faults[0]).startswith("defaults.yaml:2:14: parameters.size: GB is not a unit of size")
    assert "set by --set size=..." in caught.value.faults[0].hint


def test_a_parameter_keeps_its_type(project: Path) -> None:
    text = (
        "goldsmith: 1\nparameters: {cpus: 4, port: {type: number}}\nsource: {debian: {suite: bookworm}}\n"
        "machine: {cpus: '${cpus}'}\nexpect: [{http: {port: '${port}', contains: 'port ${port} $${port}'}}]\n"
    )
    write(project, x=text)
    surroundings.hand_in_settings({"port": "8080"})
    found = load_named(project, "x")
    assert found.machine.cpus == 4
    (page,) = found.expect
    assert (getattr(page, "port", 0), getattr(page, "contains", "")) == (8080, "port 8080 ${port}")


def test_text_with_a_dollar_is_text_where_nothing_is_declared(project: Path) -> None:
    write(
        project, x='goldsmith: 1\nsource: {debian: {suite: bookworm}}\nexpect: [{command: "test ${HOME} = $${x}"}]\n'
    )
    (command,) = load_named(project, "x").expect
    assert getattr(command, "command", "") == "test ${HOME} = $${x}"


SOURCE = "source: {debian: {suite: bookworm}}\n"


@pytest.mark.parametrize(
    ("files", "name", "line"),
    [
        pytest.param(
            {"defaults": "goldsmith: 1\nkeep: {versions: 0}\n", "x": f"goldsmith: 1\n{SOURCE}"},
            "definition",
            "defaults.yaml:2:18: keep.versions: must be at least 1, not 0",
            id="a bad value of the defaults stands there",
        ),
        pytest.param(
            {"a": f"goldsmith: 1\n{SOURCE}", "x": "goldsmith: 1\nextends: a\ndisk: 8 GB\n"},
            "definition",
            "images/x.yaml:3:7: disk: GB is not a unit of size",
            id="a bad value of the child stands there",
        ),
        pytest.param(
            {"x": "goldsmith: 1\nparameters: {s: Bad}\nsource: {debian: {suite: '${s}'}}\n"},
            "definition",
            "images/x.yaml:2:17: source.debian.suite: Bad is not the name of a Debian suite",
            id="a bad value of a parameter stands where it is set",
        ),
        pytest.param(
            {"x": "goldsmith: 1\nextends: x\n"},
            "extends-cycle",
            "images/x.yaml:2:10: extends: the definitions extend each other: x -> x",
            id="a definition that extends itself",
        ),
        pytest.param(
            {"base": f"goldsmith: 1\n{SOURCE}", "x": "goldsmith: 1\nextends: bsae\n"},
            "extends-unknown",
            "images/x.yaml:2:10: extends: there is no definition bsae (base?)",
            id="a parent that is not there",
        ),
        pytest.param(
            {"x": "goldsmith: 1\nparameters: {suite: bookworm}\nsource: {debian: {suite: '${siute}'}}\n"},
            "parameter-unknown",
            "images/x.yaml:3:26: source.debian.suite: the parameter siute does not exist (suite?)",
            id="an unknown parameter",
        ),
        pytest.param(
            {"x": "goldsmith: 1\nparameters: {suite: {type: text}}\nsource: {debian: {suite: '${suite}'}}\n"},
            "parameter-missing",
            "images/x.yaml:3:26: source.debian.suite: the parameter suite has no value (--set suite=VALUE",
            id="a parameter without a value",
        ),
        pytest.param(
            {"x": f"goldsmith: 1\nparameters: {{size: {{type: size, default: 8 GB}}}}\n{SOURCE}disk: '${{size}}'\n"},
            "parameter-type",
            "images/x.yaml:2:42: parameters.size.default: GB is not a unit of size",
            id="a default of another type",
        ),
        pytest.param(
            {"x": f"goldsmith: 1\nparameters: {{suite: trixie}}\n{SOURCE}"},
            "parameter-unused",
            "images/x.yaml:2:14: parameters.suite: the parameter suite is not used (write ${suite} where",
            id="an unused parameter",
        ),
        pytest.param(
            {"defaults": "goldsmith: 1\nparameters: {a: b}\n", "x": f"goldsmith: 1\n{SOURCE}"},
            "parameter-unused",
            "defaults.yaml:2:14: parameters.a: the parameter a is not used",
            id="an unused parameter of the defaults",
        ),
        pytest.param(
            {"x": "goldsmith: 1\nsource: {debian: {suite: '${s}'}}\nmatrix: {s: [a b, ab]}\n"},
            "matrix-duplicate",
            "images/x.yaml:3:19: matrix.s[1]: two images have the name x-ab (remove one, or change a value)",
            id="two images of a matrix with one name",
        ),
        pytest.param(
            {
                "x": "goldsmith: 1\nsource: {debian: {suite: '${s}'}}\nmatrix: {s: [trixie]}\n",
                "x_trixie": f"goldsmith: 1\n{SOURCE}",
            },
            "image-duplicate",
            "the image x-trixie is defined in images/x",
            id="two files with one image",
        ),
    ],
)
def test_errors_have_a_name_and_stand_where_the_bad_value_stands(
    project: Path, files: dict[str, str], name: str, line: str
) -> None:
    write(project, **files)
    found = faults_of(project)
    assert [each for each, _ in found if each != "definition"] == ([name] if name != "definition" else [])
    assert any(each == name and line in text for each, text in found), found
    assert all("(" in text for each, text in found if each == name != "definition"), "each has a hint"


def test_a_circle_is_named_from_each_of_its_members(project: Path) -> None:
    write(project, a="goldsmith: 1\nextends: b\n", b="goldsmith: 1\nextends: a\n")
    lines = [text for name, text in faults_of(project) if name == "extends-cycle"]
    assert [line.split(": ")[-1] for line in lines] == [
        "a -> b -> a (remove one extends:)",
        "b -> a -> b (remove one extends:)",
    ]


def test_a_setting_that_no_definition_uses(project: Path) -> None:
    write(project, defaults=DEFAULTS, x=f"goldsmith: 1\n{SOURCE}")
    surroundings.hand_in_settings({"sise": "9 GiB"})
    with pytest.raises(UsageError) as caught:
        require_known_settings(project)
    assert (caught.value.name, caught.value.hint) == ("parameter-unknown", "size?")


def test_a_secret_from_outside_is_refused_like_one_in_the_file(project: Path) -> None:
    write(project, x="goldsmith: 1\nparameters: {s: {type: text}}\nsource: {debian: {suite: '${s}'}}\n")
    surroundings.hand_in_settings({"s": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"})
    with pytest.raises(DefinitionError) as caught:
        load_named(project, "x")
    assert any("ships with its masters as plain text" in fault.message for fault in caught.value.faults)


def test_a_changed_default_touches_exactly_the_images_that_have_it(project: Path) -> None:
    role = ROLE.replace(", r3", "#").split("#")[0] + "]\n"
    own = "goldsmith: 1\nsource: {disk: {path: trixie.raw}}\ndisk: 12 GiB\n"
    write(project, defaults=DEFAULTS, base=on_disk(BASE), role=role, own=own)
    before = keys_of(project)
    assert len(before) == 7
    write(project, defaults=DEFAULTS.replace("days: 90", "days: 30"))
    assert keys_of(project) == before, "what the gallery keeps is not an input of any layer"
    write(project, defaults=DEFAULTS.replace("8 GiB", "9 GiB"))
    after = keys_of(project)
    assert {name for name in before if before[name] != after[name]} == set(before) - {"own"}
    write(project, defaults=DEFAULTS, role=role.replace("r2", "r7"))
    after = keys_of(project)
    assert set(after) - set(before) == {"role-bookworm-r7", "role-trixie-r7"}
    assert {name: keys for name, keys in after.items() if name in before} == {
        name: keys for name, keys in before.items() if name in after
    }


def test_a_file_of_several_images_is_no_image(project: Path) -> None:
    write(project, base=BASE)
    assert [each.name for each in load_file(project / "images/base.yaml", project)] == [
        "base-bookworm",
        "base-trixie",
    ]
    with pytest.raises(UsageError, match="makes 2 images") as caught:
        load_named(project, "base")
    assert (caught.value.name, caught.value.hint) == ("image-is-matrix", "name one of base-bookworm, base-trixie")
    with pytest.raises(DefinitionError) as faulty:
        load(project / "images/base.yaml", project)
    assert faulty.value.name == "image-is-matrix"


def test_masters_of_a_matrix(project: Path) -> None:
    web = "goldsmith: 1\nsource: {master: 'base-${suite}'}\nmatrix: {suite: [bookworm, trixie]}\n"
    write(project, base=BASE, web=web)
    parents = {each.name: str(each.source) for each in load_all(project) if each.name.startswith("web")}
    assert parents == {"web-bookworm": "base-bookworm@golden", "web-trixie": "base-trixie@golden"}


def test_rows_and_names(project: Path) -> None:
    rows = "matrix:\n  - {suite: bookworm, size: 8 GiB}\n  - {suite: trixie, size: 16 GiB}\n"
    write(project, x=f"goldsmith: 1\nsource: {{debian: {{suite: '${{suite}}'}}}}\ndisk: ${{size}}\n{rows}")
    assert [(each.name, each.disk) for each in load_all(project)] == [
        ("x-bookworm-8gib", 8 << 30),
        ("x-trixie-16gib", 16 << 30),
    ]
    context.set_project(project)
    try:
        assert completion.complete_definition("x-t") == ["x-trixie-16gib"]
    finally:
        context.set_project(None)


def test_validate_prints_the_images_and_the_merged_definition(project: Path, app: typer.Typer) -> None:
    write(project, defaults=DEFAULTS, base=on_disk(BASE))
    result = CliRunner().invoke(app, ["validate"])
    assert result.stdout == "images/base.yaml: ok (2 images: base-bookworm, base-trixie)\n", result.exception
    result = CliRunner().invoke(app, ["validate", "base-trixie", "--show", "--set", "size=9 GiB"])
    assert 'disk: "9 GiB"  # defaults.yaml:3:7 (size is 9 GiB, from --set size=...)' in result.stdout
    assert "keep.days: 90  # defaults.yaml:4:27" in result.stdout
    result = CliRunner().invoke(app, ["validate", "--json", "--show"])
    (verdict,) = json.loads(result.stdout)
    assert verdict["images"] == ["base-bookworm", "base-trixie"]
    assert {"key": "keep.versions", "value": 3, "from": "defaults.yaml:4:18"} in verdict["merged"]["base-trixie"]


def test_plan_of_all(project: Path, app: typer.Typer) -> None:
    write(project, defaults=DEFAULTS, base=on_disk(BASE))
    result = CliRunner().invoke(app, ["plan", "--all", "--json"])
    assert [each["image"] for each in json.loads(result.stdout)] == ["base-bookworm", "base-trixie"], result.exception
    result = CliRunner().invoke(app, ["plan", "base-trixie", "--json"])
    assert json.loads(result.stdout)[0]["stage"] == "acquire"
