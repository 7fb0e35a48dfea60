#!/bin/bash
# Makes this host ready for goldsmith: packages, the virtual environment, the store, libvirt's daemons.
#
# Does only what is missing, and looks in a few hundredths of a second whether anything is. What needs root is named
# before anything is tried; `sudo make setup` then does the whole.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Every package that goldsmith needs on its host, and why. Debian 12 or newer.
PACKAGES=(
    libvirt-daemon-system libvirt-clients       # the hypervisor's daemon; virsh for people
    qemu-system-x86 qemu-utils seabios ovmf     # machines of both generations, qemu-img
    swtpm swtpm-tools                           # a TPM for guests that want one
    mmdebstrap gpg libdistro-info-perl          # Debian from its archive, with signatures checked
    e2fsprogs dosfstools gdisk mtools           # file systems written without mounting them
    ntfs-3g                                     # Azure's resource disk, as VMs and clones get it
    openssh-client                              # provisioning
    dnsmasq-base iproute2                       # names on a build's way out, namespaces and bridges
    slirp4netns                                 # the build guests' way out
    haproxy                                     # endpoints: a port of the host that leads to several VMs
    borgbackup                                  # an archive of old masters that shares what they share
    python3 python3-venv python3-dev            # the virtual environment
    gcc pkg-config libvirt-dev                  # libvirt-python is compiled for this libvirt
    libseccomp2                                 # what a reader of hostile disks may ask of the kernel
    util-linux ca-certificates
)
# Where no service manager runs (a container, mostly), the first process may leave the dead lie for seconds, or for
# ever; libvirt waits for each qemu's end. tini takes them away at once.
[ -d /run/systemd/system ] || PACKAGES+=(tini)
# What the tests need beside, and no user does: tools/setup.sh tests
TEST_PACKAGES=(
    openssl                                     # certificates as agents make them
    libvhdi-utils cpio                          # second opinions on VHDs and archives
    wimtools genisoimage                        # disks and media as Windows has them
    xfsprogs btrfs-progs exfatprogs f2fs-tools squashfs-tools  # file systems that are named, with blkid as the measure
    python3-hivex                               # registry hives, as the readers' measure
    file xz-utils bzip2                         # packed files, and another opinion on what a file is
    strace                                      # what the sandbox's worker asks of the kernel
    grub-common grub-pc-bin kmod zstd fdisk     # a guest that plays Windows, NOT WINDOWS
    wine wine64 wixl                            # the answer file's commands run, with a real package
    gpg dpkg-dev                                # an archive of packages that changes at night
    rpm                                         # a package database as rpm itself writes it
    slurm-client slurmctld slurmd munge         # a cluster of two nodes on this host
)
[ "${1-}" != tests ] || PACKAGES+=("${TEST_PACKAGES[@]}")
STORE=${GOLDSMITH_HOME:-/var/lib/goldsmith}
FOLDERS=("$STORE" "$STORE"/{gallery,layers,runs,instances,disks,downloads,tmp})
VENV=.venv
STAMP=$VENV/goldsmith-setup

say() { printf 'setup        %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 3; }

wanted_stamp() { cat tools/setup.sh pyproject.toml | sha256sum; }
# Azure's storage emulator, from npm, beside the virtual environment's Python packages: for the tests of publishing.
AZURITE=3.37.0
azurite_ready() {
    [ "${1-}" != tests ] || [ -x "$VENV/node/node_modules/.bin/azurite-blob" ] || ! command -v npm >/dev/null
}
# The rules of accessibility, from npm too: for the tests of pages.
AXE=4.14.1
axe_ready() {
    [ "${1-}" != tests ] || [ -r "$VENV/node/node_modules/axe-core/axe.min.js" ] || ! command -v npm >/dev/null
}
# Azure's command line, some 400 MiB, for a test of publishing that is skipped without it: tools/setup.sh az
AZURE_CLI=2.91
make_az() {
    say "azure-cli $AZURE_CLI for the tests"
    [ -x "$VENV/az/bin/python" ] || as_owner /usr/bin/python3 -m venv "$VENV/az"
    as_owner "$VENV/az/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "azure-cli==$AZURE_CLI.*"
}
venv_ready() { [ -x "$VENV/bin/goldsmith" ] && [ -r "$STAMP" ] && [ "$(<"$STAMP")" = "$(wanted_stamp)" ]; }

store_ready() {
    local folder
    for folder in "${FOLDERS[@]}"; do [ -d "$folder" ] || return 1; done
}

has_systemd() { [ -d /run/systemd/system ]; }

# A pid file may be left from before a crash: the process must be there and be that daemon.
alive() {
    local pid
    [ -r "/run/$1.pid" ] && pid=$(<"/run/$1.pid") && [ -r "/proc/$pid/comm" ] && [ "$(<"/proc/$pid/comm")" = "$1" ]
}

daemons_ready() {
    if has_systemd; then
        systemctl --quiet is-active libvirtd.socket virtlogd.socket
    else
        alive virtlogd && alive libvirtd && [ -S /run/libvirt/libvirt-sock ]
    fi
}

# udev gives /dev/kvm to the kvm group. Where no udev runs, libvirt's qemu user cannot open what its daemon can, and
# libvirt probes qemu again, for a minute, at every start of a guest.
kvm_ready() { has_systemd || [ ! -e /dev/kvm ] || [ "$(stat -c '%G %a' /dev/kvm)" = 'kvm 660' ]; }

share_kvm() {
    say "/dev/kvm for the kvm group, as udev would"
    chgrp kvm /dev/kvm
    chmod 660 /dev/kvm
}

missing_packages() {
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${PACKAGES[@]}" 2>/dev/null || true)
    local name
    for name in "${PACKAGES[@]}"; do
        grep -qx "installed $name" <<<"$installed" || printf '%s\n' "$name"
    done
}

install_packages() {
    say "installing ${#missing[@]} packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    "${apt[@]}" update >/dev/null
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "apt-get failed; its whole output is in $log"
    }
    # the package's own service is not used: endpoints have a process each
    if has_systemd && [[ " ${missing[*]} " == *" haproxy "* ]]; then systemctl --quiet disable --now haproxy || true; fi
}

# As the owner of the project: under sudo the environment must not become root's.
as_owner() {
    local owner
    owner=$(stat -c %U .)
    if [ "$(id -u)" = 0 ] && [ "$owner" != root ] && [ "$owner" != UNKNOWN ]; then
        runuser -u "$owner" -- "$@"
    else
        "$@"
    fi
}

make_venv() {
    say "virtual environment $VENV"
    [ -x "$VENV/bin/python" ] || as_owner /usr/bin/python3 -m venv "$VENV"
    as_owner "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -e '.[dev]'
    wanted_stamp | as_owner tee "$STAMP" >/dev/null
}

# 2775: what root and members of the libvirt group make belongs to the group, and libvirt's qemu user may search it.
make_store() {
    say "store $STORE"
    install -d -m 2775 -o root -g libvirt "${FOLDERS[@]}"
    local folder=$STORE
    while [ "$folder" != / ]; do
        folder=$(dirname "$folder")
        [ $((0$(stat -c %a "$folder") & 1)) = 1 ] || die "libvirt cannot search $folder: chmod o+x $folder"
    done
}

# The fabric serves VMs as the first user, which owns nothing but what it records of them; `goldsmith serve azure` reads
# requests as the second one, and Ansible runs for projects of root as the third one: these own nothing.
SERVICE_USERS=(goldsmith-fabric goldsmith-facade goldsmith-ansible)
service_users_ready() { getent passwd "${SERVICE_USERS[@]}" >/dev/null; }

make_service_users() {
    local user
    for user in "${SERVICE_USERS[@]}"; do
        getent passwd "$user" >/dev/null && continue
        say "user $user"
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
    done
}

# Networks of VMs come up before the VMs when the host starts. The unit and a person run the same command.
UNIT=/etc/systemd/system/goldsmith-fabric.service
unit_text() { sed -e "s|@PYTHON@|$PWD/$VENV/bin/python|" -e "s|@STORE@|$STORE|g; s|@PROJECT@|$PWD|" tools/goldsmith-fabric.service; }
unit_ready() { ! has_systemd || { [ -r "$UNIT" ] && [ "$(<"$UNIT")" = "$(unit_text)" ]; }; }

install_unit() {
    say "unit ${UNIT##*/}"
    unit_text >"$UNIT"
    systemctl daemon-reload
    systemctl --quiet enable "${UNIT##*/}"
}

# Without a service manager the daemons must outlive make, and must not hold its pipes: a CI job would wait for them.
start_daemons() {
    if has_systemd; then
        say "starting libvirtd by systemd"
        systemctl start virtlogd.socket libvirtd.socket
        return
    fi
    local daemon
    for daemon in virtlogd libvirtd; do
        alive "$daemon" && continue
        say "starting $daemon"
        local options=()
        # libvirtd ends itself when idle, unless told not to
        [ "$daemon" = virtlogd ] || options+=(-t 0)
        setsid tini -s -- "$daemon" "${options[@]}" </dev/null >/dev/null 2>&1 &
    done
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        daemons_ready && return
        sleep 0.1
    done
    die "libvirtd does not answer; libvirtd -v says why"
}

# What is captured on this host is signed. Outside the store: who gets a copy of that does not get the key.
KEY=${GOLDSMITH_KEY:-/etc/goldsmith/signing.key}
key_ready() { [ "$(id -u)" != 0 ] || [ -e "$KEY" ]; }

make_key() {
    say "signing key $KEY"
    "$VENV/bin/goldsmith" key make >/dev/null
}

make_axe() {
    say "axe-core $AXE for the tests"
    as_owner npm install --silent --no-audit --no-fund --prefix "$VENV/node" "axe-core@$AXE" >/dev/null
}

make_azurite() {
    say "azurite $AZURITE for the tests"
    as_owner npm install --silent --no-audit --no-fund --prefix "$VENV/node" "azurite@$AZURITE" >/dev/null
}

packages_ready() { [ "${1-}" != tests ] || [ -z "$(missing_packages)" ]; }

fabric_ready() { service_users_ready && unit_ready; }

if [ "${1-}" = az ]; then
    [ -x "$VENV/az/bin/az" ] || make_az
    exit 0
fi

if venv_ready && store_ready && kvm_ready && daemons_ready && key_ready && fabric_ready &&
    packages_ready "${1-}" && azurite_ready "${1-}" && axe_ready "${1-}"; then
    exit 0
fi

command -v apt-get >/dev/null || die "this host has no apt-get: install by hand ${PACKAGES[*]}"
log=$(mktemp -t goldsmith-setup.XXXXXX)
mapfile -t missing < <(missing_packages)

if [ "$(id -u)" != 0 ]; then
    needs=()
    [ ${#missing[@]} = 0 ] || needs+=("install packages: ${missing[*]}")
    store_ready || needs+=("make $STORE")
    kvm_ready || needs+=("give /dev/kvm to the kvm group")
    daemons_ready || needs+=("start libvirtd")
    fabric_ready || needs+=("make the user $FABRIC_USER and its unit")
    if [ ${#needs[@]} != 0 ]; then
        printf 'setup: root is needed to %s\n' "${needs[@]}" >&2
        die "run: sudo make setup"
    fi
fi

[ ${#missing[@]} = 0 ] || install_packages
store_ready || make_store
kvm_ready || share_kvm
daemons_ready || start_daemons
service_users_ready || make_service_users
venv_ready || make_venv
unit_ready || install_unit
key_ready || make_key
azurite_ready "${1-}" || make_azurite
axe_ready "${1-}" || make_axe
rm -f "$log"
