"""How to install what a host lacks: with the package manager that it has, by the names that it uses.

The names of Debian's packages are the keys everywhere; `tools/setup.sh` installs them. Fedora's names have not been
tried on a Fedora host; RHEL and its rebuilds have the same names, some of them in EPEL.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.base import process

SETUP = "make setup (as root: sudo make setup)"
#: Names of Fedora that differ from Debian's.
_FEDORA = {
    "dnsmasq-base": "dnsmasq",
    "iproute2": "iproute",
    "libseccomp2": "libseccomp",
    "libvirt-clients": "libvirt-client",
    "libvirt-daemon-system": "libvirt-daemon-kvm",
    "libvirt-dev": "libvirt-devel",
    "openssh-client": "openssh-clients",
    "ovmf": "edk2-ovmf",
    "pkg-config": "pkgconf-pkg-config",
    "python3-dev": "python3-devel",
    "python3-venv": "python3",
    "qemu-system-x86": "qemu-kvm",
    "qemu-utils": "qemu-img",
    "seabios": "seabios-bin",
}


def install_command(packages: Sequence[str], *, again: bool = False) -> str:
    """The remedy for missing packages, given by Debian's names; `again`: they are there and damaged."""
    if process.find("apt-get") is None and process.find("dnf") is not None:
        names = dict.fromkeys(_FEDORA.get(name, name) for name in packages)
        return f"dnf {'reinstall' if again else 'install'} {' '.join(names)}"
    return f"{SETUP}, or apt-get install {'--reinstall ' if again else ''}{' '.join(packages)}"
