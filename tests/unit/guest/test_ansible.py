"""Playbooks are run and checked by the project's own Ansible: its ansible.cfg, its requirements, its vault."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pipeline.base import process
from pipeline.base.errors import GuestError, UsageError
from pipeline.base.secret_forms import Mask
from pipeline.base.store import Store
from pipeline.definition import Definition, DefinitionError, Fault, PlaybookStep, load, step_inputs
from pipeline.definition.ansible_config import read_config
from pipeline.guest import playbook_check
from pipeline.guest.ansible_requirements import install_requirements, needs_requirements
from pipeline.guest.ansible_run import AnsibleProject, ansible_program
from pipeline.guest.playbook_check import check_playbooks, require_good_playbooks
from pipeline.guest.project_owner import RUNS_AS
from pipeline.systems.linux.steps import Steps
from tests.cases import case
from tests.unit.stages.test_step_empty import Here

GOOD = "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: 'true'\n"


def project(folder: Path, files: dict[str, str]) -> Path:
    """A project with an image for each playbook directly in playbooks/, called as it is."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for path in (folder / "playbooks").glob("*.yml"):
        image = folder / "images" / f"{path.stem}.yaml"
        if path.stem != "requirements" and not image.exists():
            image.write_text(
                f"goldsmith: 1\nsource: {{debian: {{suite: bookworm}}}}\nsteps:\n  - playbook: {path.name}\n"
            )
    return folder.resolve()


def image(folder: Path, name: str) -> Definition:
    return load(folder / f"images/{name}.yaml", folder)


def step_of(folder: Path, name: str) -> PlaybookStep:
    (step,) = image(folder, name).steps
    assert isinstance(step, PlaybookStep)
    return step


def faults(folder: Path, *names: str) -> list[Fault]:
    found = check_playbooks([image(folder, name) for name in names], Store(folder.parent / "store"))
    return [fault for of in found.values() for fault in of]


def run(folder: Path, name: str, secrets: Path | None = None) -> list[str]:
    """Run an image's playbook as its step does, on this host; the lines of its output."""
    step, store = step_of(folder, name), Store(folder.parent / "store")
    installed = install_requirements(step, folder, store)
    private = folder.parent / "access/private"
    private.mkdir(parents=True, exist_ok=True)
    (private / "vars.json").write_text(json.dumps(dict(step.vars)))
    lines: list[str] = []
    Steps(Here(folder.parent / "access", "root", 1), lambda: None).playbook(
        step.file,
        private / "vars.json",
        ansible=AnsibleProject.of(step, installed.folder if installed else None, folder / f"images/{name}.yaml"),
        deadline=120,
        on_line=lines.append,
        secrets=secrets,
    )
    return lines


# ---- ansible.cfg ---------------------------------------------------------------------------------------------------

REFUSED = {
    "inventory = hosts.ini": "one host named guest",
    "remote_user = ubuntu": "its own user, key and port",
    "private_key_file = ~/.ssh/id_rsa": "its own user, key and port",
    "transport = paramiko": "its own user, key and port",
    "ask_pass = True": "no person can enter a password",
    "vault_password_file = .vault": "vault_password_file: PATH in the step",
    "vault_identity_list = dev@.vault": "vault_password_file: PATH in the step",
    "stdout_callback = yaml": "default callback",
    "callbacks_enabled = timer": "default callback",
    "fact_caching = jsonfile": "the build of another",
    "enable_task_debugger = yes": "waits for input",
    "strategy = ansible.builtin.debug": "waits for input",
    "collections_paths = x": "write collections_path",
    "roles_path = roles:~/.ansible/roles": "a different folder for each user",
    "library = $HOME/modules": "a different folder for each user",
    "[tags]\nrun = nginx": "a part of the playbook",
    "[tags]\nskip = slow": "a part of the playbook",
    "[inventory]\nenable_plugins = ini": "one host named guest",
    "[privilege_escalation]\nbecome_ask_pass = 1": "no person can enter a password",
    "[ssh_connection]\nssh_common_args = -J jump": "its own user, key and port",
    "[ssh_connection]\nssh_executable = /opt/ssh": "its own user, key and port",
    "no section": "cannot be read",
}
#: What is in many a project's file and breaks nothing, with an inline comment as Ansible reads it.
HELD = """\
[defaults]
roles_path = shared-roles ; and no other
forks = 20
host_key_checking = False
stdout_callback = default
nocows = 1
retry_files_enabled = False
log_path = ansible.log
gathering = smart
fact_caching = memory
interpreter_python = auto_silent
strategy = free
[privilege_escalation]
become = True
become_ask_pass = False
[ssh_connection]
pipelining = True
ssh_args = -o ControlMaster=auto
control_path = /tmp/%%h
"""


@pytest.mark.parametrize("setting", REFUSED)
def test_a_setting_that_breaks_the_contract_is_refused(tmp_path: Path, setting: str) -> None:
    text = f"[defaults]\n# a comment\n{setting}\n" if setting != "no section" else "forks = 1\n"
    folder = project(tmp_path, {"playbooks/site.yml": GOOD, "ansible.cfg": text})
    with pytest.raises(DefinitionError) as caught:
        image(folder, "site")
    (fault,) = caught.value.faults
    line = (
        next(number for number, each in enumerate(text.splitlines(), 1) if each == setting.splitlines()[-1])
        if (setting != "no section")
        else 1
    )
    assert (fault.file, fault.line) == ("ansible.cfg", line) and fault.hint
    assert REFUSED[setting] in str(fault)


def test_other_settings_hold(tmp_path: Path) -> None:
    role = "- ansible.builtin.debug: {msg: 'from the shared role {{ ansible_check_mode }}'}\n"
    folder = project(
        tmp_path / "project",
        {
            "ansible.cfg": HELD + "[defaults:unknown]\nx = 1\n",
            "playbooks/site.yml": "- hosts: all\n  gather_facts: false\n  roles: [motd]\n",
            "shared-roles/motd/tasks/main.yml": role,
            "shared-roles/unused/tasks/main.yml": role,
        },
    )
    step = step_of(folder, "site")
    before = step_inputs(step)
    assert {"file ../ansible.cfg", "file ../shared-roles/motd/tasks/main.yml"} <= before.keys()
    assert not any("unused" in name for name in before)
    assert any("from the shared role False" in line for line in run(folder, "site"))
    (folder / "ansible.cfg").write_text(HELD.replace("20", "10"))
    assert step_inputs(step) != before


def test_folders_that_a_setting_names_are_inputs(tmp_path: Path) -> None:
    settings = {"library": "mods", "filter_plugins": "a:b", "collections_path": "vendor", "lookup_plugins": "../out"}
    files = {f"{name}/x.py": "" for value in settings.values() for name in value.split(":")}
    text = "[defaults]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
    folder = project(tmp_path / "project", {"playbooks/ansible.cfg": text, "playbooks/site.yml": GOOD})
    for name in files:
        (folder / "playbooks" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "playbooks" / name).write_text("")
    assert {f"file {name}" for name in files} <= step_inputs(step_of(folder, "site")).keys()


def test_two_files_for_one_playbook_are_a_fault(tmp_path: Path) -> None:
    files = {"ansible.cfg": "[defaults]\n", "playbooks/ansible.cfg": "[defaults]\n", "playbooks/site.yml": GOOD}
    folder = project(tmp_path, files)
    (fault,) = read_config(folder / "playbooks/site.yml", folder).faults
    assert str(fault) == (
        "playbooks/ansible.cfg:1:1: ansible.cfg exists too, but Ansible reads only one file (merge both into one "
        "file)"
    )


# ---- requirements --------------------------------------------------------------------------------------------------

MODULE = """\
from ansible.module_utils.basic import AnsibleModule
AnsibleModule({}).exit_json(changed=False, msg="the collection's module")
"""


def packed_role(path: Path, text: str) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"tasks/main.yml": text, "meta/main.yml": "galaxy_info: {author: us}\n"}.items():
            member = tarfile.TarInfo(f"greeting/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))


def test_collections_and_roles_are_installed_into_the_cache(tmp_path: Path) -> None:
    folder = project(
        tmp_path / "project",
        {
            "playbooks/site.yml": "- hosts: all\n  gather_facts: false\n  roles: [greeting]\n"
            "  tasks: [{ours.tools.look: {}, register: it}, {ansible.builtin.debug: {var: it.msg}}]\n",
            "playbooks/plain.yml": GOOD,
            "playbooks/requirements.yml": "collections: [{name: ../tools, type: dir}]\n",
            "roles/requirements.yml": "- {src: greeting.tar.gz, name: greeting, version: '1.0'}\n",
            "tools/galaxy.yml": "namespace: ours\nname: tools\nversion: 1.2.3\nreadme: README.md\nauthors: [us]\n",
            "tools/README.md": "ours\n",
            "tools/plugins/modules/look.py": MODULE,
        },
    )
    packed_role(folder / "roles/greeting.tar.gz", "- ansible.builtin.debug: {msg: the required role}\n")
    store = Store(tmp_path / "store")
    assert faults(folder, "site", "plain") == []
    lines = "\n".join(run(folder, "site"))
    assert "the collection's module" in lines and "the required role" in lines
    first = install_requirements(step_of(folder, "site"), folder, store)
    assert first is not None and first.versions == {"ours.tools": "1.2.3", "greeting": "1.0"}
    assert install_requirements(step_of(folder, "plain"), folder, store) is None, "it needs nothing of it"
    # running it has left nothing there, and installing it again comes to the same
    again = install_requirements(step_of(folder, "site"), folder, Store(tmp_path / "another"))
    assert again is not None and again.digest == first.digest
    assert not list(first.folder.rglob("*.pyc"))


#: A server that nobody reaches.
NOWHERE = "[galaxy]\nserver = http://127.0.0.1:9/\n"
NEEDY = "- hosts: all\n  tasks:\n    - acme.tools.look:\n"


def test_a_server_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    folder = project(
        tmp_path / "project",
        {
            "ansible.cfg": NOWHERE,
            "playbooks/site.yml": NEEDY,
            "playbooks/plain.yml": GOOD,
            "playbooks/requirements.yml": "collections: [{name: acme.tools, version: 1.0.0}]\n",
        },
    )
    (fault,) = faults(folder, "site", "plain")
    assert fault.file == "playbooks/requirements.yml" and "acme.tools cannot be downloaded" in fault.message
    assert "(galaxy-unreachable)" in fault.message and "https_proxy" in fault.hint
    # what lies in the project in the version that is required is not asked for
    vendored = folder / "playbooks/collections/ansible_collections/acme/tools"
    (vendored / "plugins/modules").mkdir(parents=True)
    (vendored / "plugins/modules/look.py").write_text(MODULE)
    (vendored / "galaxy.yml").write_text("namespace: acme\nname: tools\nversion: 1.0.0\n")
    assert install_requirements(step_of(folder, "site"), folder, Store(tmp_path / "store")) is None


USES = (
    "    - other.tools.look:\n",
    "    - {other.tools.look: {}, name: it}\n",
    "    - name: it\n      'other.tools.look': {}\n",
    "  roles:\n    - other.tools.web\n",
    "  roles: [other.tools.web]\n",
    "    - include_role: {name: other.tools.web}\n",
    "    - action: other.tools.look x=1\n",
    "- import_playbook: other.tools.site\n",
    '    - debug: {msg: "{{ x | other.tools.change }}"}\n',
    "      when: x is not other.tools.good\n",
    "    - debug: {msg: \"{{ lookup('other.tools.find', 'x') }}\"}\n",
    "    - debug: {msg: acme.tools is here}\n",
)
USES_NOT = (
    "    - ansible.builtin.command: x\n      when: it.stat.exists and ansible_facts.packages.nginx\n",
    "    - copy: {src: a.conf.j2, dest: /etc/x.y.z}\n",
    '    - debug: {msg: "{{ result.stdout.lines }} {{ x | ansible.builtin.b64encode }}"}\n',
)


@pytest.mark.parametrize("text", [*USES, *USES_NOT])
def test_what_may_use_a_requirement(tmp_path: Path, text: str) -> None:
    """A module of another collection may come with one that is listed."""
    required = "collections: [acme.tools]\nroles: [acme.web]\n"
    folder = project(
        tmp_path, {"playbooks/site.yml": f"- hosts: all\n{text}", "playbooks/requirements.yml": required}
    )
    assert needs_requirements(step_of(folder, "site"), folder) is (text in USES)


def test_a_requirement_that_does_not_exist(tmp_path: Path) -> None:
    required = "collections: [{name: 'git+file:///nowhere/ours.git', type: git}]\n"
    folder = project(tmp_path, {"playbooks/site.yml": NEEDY, "playbooks/requirements.yml": required})
    with pytest.raises(UsageError) as caught:
        install_requirements(step_of(folder, "site"), folder, Store(tmp_path / "store"))
    assert caught.value.name == "requirement-failed" and caught.value.hint
    assert caught.value.message.startswith("playbooks/requirements.yml: ")


@pytest.mark.parametrize("text", ["collections: [\n", "collections: ansible.posix\n", "text\n"])
def test_a_list_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    folder = project(tmp_path, {"playbooks/site.yml": NEEDY, "collections/requirements.yml": text})
    with pytest.raises(DefinitionError) as caught:
        install_requirements(step_of(folder, "site"), folder, Store(tmp_path / "store"))
    (fault,) = caught.value.faults
    assert fault.file == "collections/requirements.yml" and fault.hint


# ---- vault ---------------------------------------------------------------------------------------------------------

SECRET = "hunter2-of-the-vault"
READS_VAULT = "- hosts: all\n  gather_facts: false\n  vars_files: [secret.yml]\n  tasks:\n    - debug: {var: token}\n"


def test_a_vault_is_opened_by_the_step_s_password_file(tmp_path: Path) -> None:
    definition = "goldsmith: 1\nsource: {debian: {suite: bookworm}}\nsteps:\n  - playbook: site.yml\n"
    folder = project(
        tmp_path / "project",
        {
            "images/site.yaml": definition + "    vault_password_file: playbooks/pass\n",
            "images/closed.yaml": definition,
            "images/wrong.yaml": definition + "    vault_password_file: playbooks/wrong\n",
            "playbooks/site.yml": READS_VAULT,
            "playbooks/pass": f"{SECRET}\n",
            "playbooks/wrong": "another\n",
            "playbooks/secret.yml": "token: opened\n",
        },
    )
    vault = [ansible_program("ansible-vault"), "encrypt", "--vault-password-file", "pass", "secret.yml"]
    process.run(vault, deadline=60, cwd=folder / "playbooks")
    found = {fault.key: fault for fault in faults(folder, "site", "closed", "wrong")}
    assert found.keys() == {"step 1 of closed", "step 1 of wrong"}
    assert "vault_password_file: PATH in the step" in found["step 1 of closed"].hint
    assert found["step 1 of closed"].file == "playbooks/secret.yml"
    assert any("opened" in line for line in run(folder, "site"))
    with pytest.raises(GuestError) as caught:
        run(folder, "wrong")
    assert caught.value.name == "vault-password-wrong" and caught.value.hint
    inputs = step_inputs(step_of(folder, "site"))
    assert "file secret.yml" in inputs and "file pass" not in inputs
    assert SECRET not in json.dumps(inputs)


# ---- the check -----------------------------------------------------------------------------------------------------

#: Playbooks with what is said of them: line and column, words, words of the hint.
BROKEN = {
    "yaml": ("- hosts: all\n  tasks:\n    - copy: [\n", "4:1", "YAML parsing failed", "--syntax-check"),
    "module": ("- hosts: all\n  tasks:\n    - ours.tools.look:\n", "3:7", "ours.tools.look", "collection ours.tools"),
    "short": ("- hosts: all\n  tasks:\n    - systmd: {name: x}\n", "3:7", "'systmd'", "correct the name"),
    "role": ("- hosts: all\n  roles: [shop]\n", "2:11", "the role 'shop' was not found", "playbooks/roles/shop"),
    "keyword": ("- hosts: all\n  taks: []\n", "2:3", "'taks' is not a valid attribute", "--syntax-check"),
    "variable": ("- hosts: '{{ where }}'\n", "1:10", "'where' is undefined", "vars:"),
    "group": (f"{GOOD}- hosts: web\n  tasks: []\n", "5:10", "hosts: web matches no host", "hosts: all"),
    "host": ("- hosts: localhost\n  tasks: [ping: ]\n", "1:10", "hosts: localhost matches no host", "do not run"),
    "empty": (
        "- hosts: all\n  gather_facts: true\n- hosts: all\n  tasks: []\n",
        "3:10",
        "has no task",
        "add tasks",
    ),
    "never": ("- hosts: all\n  tasks: [{ping: , tags: never}]\n", "1:10", "has no task", "tag `never`"),
    "several": (
        f"- import_playbook: good.yml\n{GOOD}- hosts: [db, web]\n  tasks: [ping: ]\n",
        "6:10",
        "db, web matches no",
        "all",
    ),
}


def test_every_fault_of_every_playbook_is_found_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"playbooks/{name}.yml": text for name, (text, *_) in BROKEN.items()}
    folder = project(tmp_path / "project", {"playbooks/good.yml": GOOD, **files})
    processes = []
    real = playbook_check._run
    monkeypatch.setattr(playbook_check, "_run", lambda *args: processes.append(len(args[0])) or real(*args))
    found = {fault.key.removeprefix("step 1 of "): fault for fault in faults(folder, "good", *BROKEN)}
    assert found.keys() == BROKEN.keys()
    for name, (_, place, words, hint) in BROKEN.items():
        fault = found[name]
        assert fault.file == f"playbooks/{name}.yml" and f"{fault.line}:{fault.column}" == place, name
        assert words in fault.message and hint in fault.hint, str(fault)
        assert str(tmp_path) not in str(fault)
    assert processes == [len(BROKEN) + 1]
    # what passed is known, and what is changed is not
    assert faults(folder, "good") == [] and processes == [len(BROKEN) + 1]
    (folder / "playbooks/good.yml").write_text(BROKEN["short"][0])
    with pytest.raises(DefinitionError, match="systmd"):
        require_good_playbooks([image(folder, "good")], Store(tmp_path / "store"))


def test_the_cases_that_end_at_validate(tmp_path: Path) -> None:
    """A group that the inventory lacks, a role in a folder that ansible.cfg names, a vault, one that only fails."""
    names = ("nohosts.yml", "roles-site.yml", "vault.yml", "vaulted.yml", "fails.yml")
    files = {f"playbooks/{name}": case(f"projects/playbooks/{name}").read_text() for name in names}
    for name in ("ansible.cfg", "shared-roles/motd/tasks/main.yml"):
        files[name] = case(f"projects/{name}").read_text()
    # what belongs to a host is read only once there is a guest
    files["playbooks/host_vars/guest.yml"] = files["playbooks/vaulted.yml"]
    folder = project(tmp_path / "project", files)
    found = faults(folder, "nohosts", "roles-site", "vault", "fails")
    assert str(found[0]).startswith(
        "playbooks/nohosts.yml:2:10: step 1 of nohosts: hosts: webservers matches no host"
    )
    vaulted = {(fault.file, fault.line) for fault in found if "vault_password_file" in fault.hint}
    assert vaulted == {("playbooks/vaulted.yml", 1), ("playbooks/host_vars/guest.yml", 1)}
    assert len(found) == 1 + 1 + 3, "each of the others reads the variables of the host"


def test_a_variable_that_the_step_names_reaches_the_playbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = "goldsmith: 1\nsource: {debian: {suite: bookworm}}\nsteps:\n  - playbook: site.yml\n"
    shows = "    - debug: {msg: \"number {{ lookup('env', 'BUILD_NUMBER') }}\"}\n"
    folder = project(
        tmp_path / "project",
        {
            "images/site.yaml": f"{definition}    environment: [BUILD_NUMBER]\n",
            "playbooks/site.yml": f"{GOOD}{shows}  roles: [web]\n",
            "playbooks/roles/web/defaults/main.yml": "proxy: \"{{ lookup('env', 'HTTP_PROXY') }}\"\n",
        },
    )
    with pytest.raises(DefinitionError, match=r"environment\[0\]: BUILD_NUMBER is not set in the environment"):
        image(folder, "site")
    monkeypatch.setenv("BUILD_NUMBER", "42")
    assert any("number 42" in line for line in run(folder, "site"))
    assert faults(folder, "site") == [], "a role of others does without what it does not find"
    before = step_inputs(step_of(folder, "site"))
    monkeypatch.setenv("BUILD_NUMBER", "43")
    after = step_inputs(step_of(folder, "site"))
    assert {name for name in after if after[name] != before.get(name)} == {"environment BUILD_NUMBER"}
    (folder / "images/site.yaml").write_text(f"{definition}    environment: [ANSIBLE_RUN_TAGS]\n")
    with pytest.raises(DefinitionError, match="because goldsmith sets it"):
        image(folder, "site")


def test_no_task_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNS_AS, "root")  # the guest is this host, and its user is root
    tasks = (
        "    - debug: {msg: 'it is {{ token }}'}\n"
        "    - debug: {msg: '{{ item }}'}\n      loop: ['{{ token }}']\n      no_log: false\n"
        f"    - copy: {{content: '{{{{ token }}}}', dest: {tmp_path}/written, mode: '0600'}}\n"
        "    - fail: {msg: 'wrong {{ token }}'}\n      ignore_errors: true\n"
    )
    folder = project(tmp_path / "project", {"playbooks/site.yml": GOOD + tasks})
    secrets = tmp_path / "secrets.yml"
    secrets.write_text('token: !unsafe "a {{ brace }} and a quote\\""\n')
    lines = run(folder, "site", secrets)
    assert sum("censored" in line for line in lines) >= 2
    shown = [line for line in lines if "a quote" in line]
    assert all(line.startswith("[ERROR]") for line in shown), "Ansible shows a failure's words in spite of no_log"
    mask = Mask()
    mask.add("token", b'a {{ brace }} and a quote"')
    assert not any("a quote" in mask.text(line) for line in lines), "what goes into the step's log"
    assert (tmp_path / "written").read_text() == 'a {{ brace }} and a quote"', "no template"


# ---- three callers -------------------------------------------------------------------------------------------------

CALLERS: tuple[dict[str, str], ...] = (
    {},
    {
        "ANSIBLE_RUN_TAGS": "none",
        "ANSIBLE_ROLES_PATH": "/tmp",
        "ANSIBLE_FORCE_COLOR": "1",
        "LANG": "de_DE.UTF-8",
        "TZ": "Asia/Tokyo",
    },
    {
        "ANSIBLE_CHECK_MODE": "1",
        "ANSIBLE_CONFIG": "/nowhere/ansible.cfg",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "https_proxy": "http://127.0.0.1:9",
        "DEBIAN_FRONTEND": "dialog",
        "HOME": "/nowhere",
    },
)


def test_three_callers_have_the_same_keys(tmp_path: Path) -> None:
    """Each in a store of its own, so that nothing is the same for having been kept."""
    folder = project(
        tmp_path / "project",
        {
            "images/site.yaml": "goldsmith: 1\nsource: {disk: {path: disk.raw}}\nsteps:\n  - playbook: site.yml\n"
            "    network: none\n  - {copy: {from: files, to: /srv}, network: none}\n",
            "playbooks/site.yml": GOOD,
            "files/süß": "umlauts in names and texts: ä\n",
            "disk.raw": "",
        },
    )
    with (folder / "disk.raw").open("r+b") as file:
        file.truncate(4 << 20)
    (tmp_path / "checked").mkdir()
    plans = []
    for number, caller in enumerate(CALLERS):
        store = tmp_path / f"store{number}"
        store.mkdir()
        # what Ansible said of the playbook is known: this is about keys
        (store / "ansible").symlink_to(tmp_path / "checked")
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "--project", str(folder), "plan", "site", "--json"],
            cwd=Path(process.__file__).parents[2],
            env={"PATH": os.environ["PATH"], "GOLDSMITH_HOME": str(store), **caller},
            umask=0o077 if caller else 0o022,
            capture_output=True,
            check=True,
        )
        plans.append([row["key"] for row in json.loads(done.stdout)])
    assert plans[0] == plans[1] == plans[2] and len(plans[0]) > 6
