"""`goldsmith key`: the key by which this host signs what it says of its masters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.base.errors import UsageError
from pipeline.cli.environment import locate_store, signing_key
from pipeline.cli.usage import VerbGroup, json_option

if TYPE_CHECKING:
    from pipeline.evidence.agent_key import AgentKey


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Manage the key that signs masters.", no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup
    )
    noun.command("make")(make)
    noun.command("show")(show)
    noun.command("list")(list_keys)
    noun.command("rotate")(rotate)
    noun.command("withdraw")(withdraw)
    app.add_typer(noun, name="key")


AgentOption = Annotated[
    Path | None,
    typer.Option(
        "--agent",
        metavar="SOCKET",
        help="Sign with an ed25519 key of the ssh agent at SOCKET (default: a key in a file).",
    ),
]
AgentKeyOption = Annotated[
    str,
    typer.Option(
        "--agent-key", metavar="FINGERPRINT", help="Which one, as `ssh-add -l` shows it (default: the only one)."
    ),
]


def _of_agent(agent: Path | None, fingerprint: str) -> AgentKey | None:
    from pipeline.evidence import agent_key

    if agent is None:
        if fingerprint:
            raise UsageError(
                "--agent-key needs an agent",
                name="agent-missing",
                hint="name its socket, such as --agent $SSH_AUTH_SOCK",
            )
        return None
    return agent_key.find(agent.absolute(), fingerprint)


def make(agent: AgentOption = None, agent_key: AgentKeyOption = "") -> None:
    """Create this host's key (GOLDSMITH_KEY, else /etc/goldsmith/signing.key). Verifiers need its .pub file.

    Example:
      goldsmith key make
      goldsmith key make --agent /run/goldsmith-agent.sock
    """
    from pipeline.cli.environment import signing_key
    from pipeline.evidence import signing, unsigned
    from pipeline.gallery import Gallery

    made = signing.make(signing_key(), _of_agent(agent, agent_key))
    # what exists already was never signed: from now on a master without a signature is damaged
    unsigned.admitted(unsigned.register_beside(made.path), Gallery(locate_store().gallery))
    print(f"private  {made.path}")
    print(f"public   {signing.public_path(made.path)}")
    print(f"id       {made.id}")


def show(as_json: Annotated[bool, json_option()] = False) -> None:
    """Print the public key, which others need for verification.

    Example:
      goldsmith key show
    """
    from pipeline.cli.show import print_json
    from pipeline.evidence import signing

    path = signing.public_path(signing_key())
    if not path.exists():
        raise UsageError(f"there is no key at {path}", name="no-key", hint="goldsmith key make creates it")
    public = signing.load_public(path)
    if as_json:
        print_json({"id": public.keyid, "path": str(path), "public": path.read_text()})
        return
    print(path.read_text(), end="")


def list_keys(as_json: Annotated[bool, json_option()] = False) -> None:
    """List the keys whose signatures this host accepts: its own, retired ones, and those of other hosts.

    Example:
      goldsmith key list
    """
    from pipeline.cli.show import print_json, table
    from pipeline.evidence import key_rotation

    found = key_rotation.list_keys(signing_key())
    if as_json:
        print_json([{"id": each.id, "path": str(each.path), "signs": each.is_own} for each in found])
        return
    rows = [(each.id[:12], "yes" if each.is_own else "", str(each.path)) for each in found]
    table(rows, ("id", "signs", "file"), empty="no key is trusted: goldsmith key make creates one")


def rotate(agent: AgentOption = None, agent_key: AgentKeyOption = "") -> None:
    """Replace this host's key. Masters that the old one signed stay good until `key withdraw`; its private half goes.

    Example:
      goldsmith key rotate
    """
    from pipeline.evidence import key_rotation, signing

    path = signing_key()
    old, made = key_rotation.rotate(path, locate_store().root, _of_agent(agent, agent_key))
    print(f"private  {made.path}")
    print(f"public   {signing.public_path(made.path)}")
    print(f"id       {made.id}")
    print(f"the key {str(old.keyid)[:12]} is retired; its signatures stay good: goldsmith key withdraw ends that")


def withdraw(key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, or how it begins.")]) -> None:
    """Stop trusting a retired key or another host's key: its signatures are no longer accepted.

    Example:
      goldsmith key withdraw 3f2a9c01d7e4
    """
    from pipeline.evidence import key_rotation

    print(f"withdrawn: its public half is now in {key_rotation.withdraw(signing_key(), key_id)}")
