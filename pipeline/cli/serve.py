"""`goldsmith serve`: servers of this host, for clients on it."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.base.errors import Interrupted
from pipeline.cli.usage import VerbGroup

if TYPE_CHECKING:
    from pipeline.facade.home import Home


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Serve clients of other tools on this host.", no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup
    )
    noun.command("azure")(azure)
    noun.callback()(_group)  # a group, although it has one verb
    app.add_typer(noun, name="serve")


def _group() -> None:
    return


def azure(
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, metavar="PORT", help="The port on 127.0.0.1.")
    ] = 8443,
    env: Annotated[
        bool, typer.Option("--env", help="Print what a shell needs to use it with az, and do not serve.")
    ] = False,
) -> None:
    """Let Azure's own command line, az, work with the VMs, disks and images of this host.

    It listens on 127.0.0.1 alone, with TLS. Commands that change VMs need root.

    Examples:
      goldsmith serve azure
      goldsmith serve azure --env
    """
    from pipeline.base.memory import return_large_blocks
    from pipeline.cli.environment import locate_store
    from pipeline.facade.server import Facade, address, facade_home, front_user

    store = locate_store().ensure()
    if env:
        print("\n".join(_environment(facade_home(store).ensure(), address(port))))
        return
    return_large_blocks()
    facade = Facade(store, port, can_change=os.geteuid() == 0, user=front_user())

    def show_ready(resumed: int) -> None:
        print(f"serving {store.root} on {address(facade.port)}; goldsmith serve azure --env says how to use it")
        if resumed:
            print(f"operations of an earlier server that go on: {resumed}")
        sys.stdout.flush()

    try:
        facade.serve(show_ready)
    except Interrupted as error:
        print("stopped; operations in progress go on at the next start")
        raise typer.Exit(error.exit_code) from None


def _environment(home: Home, base: str) -> list[str]:
    """Lines for a shell: variables, and the commands that sign in, as comments."""
    client = home.client()
    variables = {
        "AZURE_CONFIG_DIR": '"$HOME/.azure-goldsmith"',
        "REQUESTS_CA_BUNDLE": shlex.quote(str(home.certificate)),
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_TENANT_ID": client.tenant,
        "AZURE_CLIENT_ID": client.client,
    }
    return [
        *(f"export {name}={value}" for name, value in variables.items()),
        "# once, and again when the configuration folder was deleted:",
        f"# az cloud register --name goldsmith --endpoint-resource-manager {base}",
        "# az cloud set --name goldsmith",
        f"# az login --service-principal --tenant {client.tenant} --username {client.client} "
        f"--password @{home.secret_file}",
    ]
