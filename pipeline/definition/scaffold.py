"""The files that `goldsmith init` writes: a definition with its comments, its playbook, and what these need.

An image that begins with Debian needs the playbook that readies a guest for Azure; it is copied into a project that
has none. One that begins with a golden master does not: its parent has passed the same checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.base.store import IMAGE_NAME
from pipeline.definition import rules
from pipeline.definition.diagnostics import closest
from pipeline.definition.schema import json_schema

#: What is copied from goldsmith's own playbooks.
STARTER = (
    "azure-linux.yml",
    *(
        f"roles/azure_linux/{part}/{name}"
        for part, names in (
            ("defaults", ("main.yml",)),
            ("files", ("alpine.sh", "debian.sh", "dracut.sh")),
            ("tasks", ("main.yml", "debian.yml", "redhat.yml", "suse.yml", "alpine.yml")),
        )
        for name in names
    ),
)

#: What editors with yaml-language-server read: the schema that `write_new` puts beside the definitions.
SCHEMA = ".goldsmith.schema.json"
MODELINE = f"# yaml-language-server: $schema={SCHEMA}\n"

_HEAD = """\
# {name}: the file's name is the image's name. Check it with `goldsmith validate {name}`.
goldsmith: 1                            # the format's version
summary: {summary}
os: linux
source: {source}
"""

_MASTER = """\
generations: [1, 2]                     # Hyper-V generations it boots in: 1 is BIOS, 2 is UEFI
"""

_DEBIAN = """\
disk: 8 GiB                             # virtual size, a whole MiB
generations: [1, 2]                     # Hyper-V generations it boots in: 1 is BIOS, 2 is UEFI
"""

_STEPS = """\
steps:                                  # in order; each makes a layer, so a build resumes after the last good one
{azure}  - playbook: {name}.yml
generalize: {{agent: waagent}}            # whose deprovisioning makes the guest a master; or none

# More that a definition may say (docs/definition.md has every key):
#
# machine: {{cpus: 2, memory: 2 GiB}}     # what builds and proves it
# accelerator: auto                     # kvm demands KVM, tcg does without
# steps:
#   - playbook: {name}.yml
#     vars: {{timezone: UTC}}             # extra variables for the playbook
#     timeout: 30 min
#   - script: scripts/motd.sh           # relative to the project
#   - copy: {{from: files/motd, to: /etc/motd, mode: "0644"}}
# expect:                               # what must be seen in a running clone before the image is golden
#   - http: {{port: 80, path: /, contains: "welcome"}}
#   - command: systemctl is-active nginx
# waive: {{check-id: the reason}}         # a check that may fail, and why
# keep: {{versions: 14, days: 90}}
# accounts: [svc-web]                   # accounts that may ship; any other is a finding
"""

_PLAYBOOK = """\
---
# What {name} adds to its source. It runs against one host, group `guest`, as root.
- name: {name}
  hosts: guest
  become: true
  tasks:
    - name: Say what this is
      ansible.builtin.copy:
        content: "{name}, built by goldsmith\\n"
        dest: /etc/motd
        owner: root
        group: root
        mode: "0644"
"""


def definition_text(name: str, master: str | None) -> str:
    """A definition that validates, and whose first build becomes golden."""
    summary = f"{name} on the golden master of {master}" if master else f"{name}, a Debian 13"
    source = (
        f"{{master: {master}@golden}}" if master else "{debian: {suite: trixie, packages: [waagent, hyperv-daemons]}}"
    )
    head = _HEAD.format(name=name, summary=summary, source=source)
    steps = _STEPS.format(
        name=name,
        azure="" if master else "  - playbook: azure-linux.yml          # what Azure requires of a Linux image\n",
    )
    return MODELINE + head + (_MASTER if master else _DEBIAN) + steps


def playbook_text(name: str) -> str:
    """A playbook that does one harmless thing."""
    return _PLAYBOOK.format(name=name)


def write_new(project: Path, name: str, master: str | None) -> list[Path]:
    """Write images/NAME.yaml, playbooks/NAME.yml and what they need, and return what was written.

    Raises UsageError and writes nothing where a name cannot be an image's, the master has no definition, or one of
    the files is there.
    """
    project = project.resolve()
    if not IMAGE_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid image name", name="image-name", hint=rules.IMAGE_NAME_RULE)
    definition, playbook = project / "images" / f"{name}.yaml", project / "playbooks" / f"{name}.yml"
    _refuse_master(definition.parent, name, master)
    for path in (definition, playbook):
        if path.exists() or path.is_symlink():
            message = f"{path.relative_to(project)} exists already"
            raise UsageError(message, name="exists", hint="remove it, or choose another name")
    texts = {definition: definition_text(name, master), playbook: playbook_text(name)}
    if not (schema := definition.parent / SCHEMA).exists():
        texts[schema] = f"{json.dumps(json_schema(), indent=2)}\n"
    # somebody's own playbook of that name is theirs, and the definition uses it
    if master is None and not (playbook.parent / STARTER[0]).exists():
        texts |= {path: text for path, text in starter_texts(playbook.parent) if not path.exists()}
    _write_all(texts)
    return list(texts)


def _refuse_master(images: Path, name: str, master: str | None) -> None:
    """Raises UsageError for what cannot be the master of a new image."""
    if master is None and f"{name}.yml" in STARTER:
        hint = "goldsmith has a playbook with that name; choose another name"
        raise UsageError(f"{name} is not allowed as the name of this image", name="image-name", hint=hint)
    if master is None:
        return
    if not IMAGE_NAME.fullmatch(master):
        message = f"{master!r} is not the name of an image"
        raise UsageError(message, name="image-name", hint="write only a name, such as --base debian-13")
    known = [path.stem for path in images.glob("*.yaml")]
    if master not in known and (near := closest(master, known)):
        raise UsageError(f"images/{master}.yaml: no such definition", name="no-such-image", hint=near)
    if master == name:
        raise UsageError(f"image {name} cannot be its own base", name="image-name")


def _write_all(texts: Mapping[Path, str]) -> None:
    """Write new files, all or none."""
    written = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as stream:
                written.append(path)
                stream.write(text)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise UsageError(
            f"cannot write {error.filename}: {error.strerror}",
            name="cannot-write",
            hint="use a writable folder: goldsmith --project FOLDER init NAME",
        ) from error


def starter_texts(playbooks: Path) -> Iterator[tuple[Path, str]]:
    """The playbooks that come with goldsmith for a new project, by their place in it."""
    folder = resources.files("pipeline.definition") / "starter"
    for file in STARTER:
        yield playbooks / file, folder.joinpath(file).read_text(encoding="utf-8")
