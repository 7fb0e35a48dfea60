"""Nothing of the build machine is left behind: identities of services, and remedies that do what they say.

Shell runs in a tree of files as its root, with the host's programs, in a mount namespace of its own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.checks import all_checks, run_checks
from pipeline.checks.linux.service_identity import identity_paths
from pipeline.disk import open_disk
from pipeline.systems.linux import scripts
from pipeline.systems.linux.identity_removal import SNAKEOIL_UNIT, removal_script
from pipeline.systems.linux.service_identity import INITIATOR, SNAKEOIL_KEY, TABLE, has_line
from tests.fakes import fake_disk
from tests.fakes.seeded_defects import KEY, PEM

#: An identity as its service writes it, where not any content will do: by path, or by the end of it.
WRITTEN = {
    INITIATOR: "InitiatorName=iqn.1993-08.org.debian:01:8e1b7f11a2c\n",
    "/etc/multipath/wwids": "# Valid WWIDs:\n/36000c29/\n",
    "/etc/multipath/bindings": "mpatha 36000c29\n",
    "/etc/lvm/devices/system.devices": "VERSION=1.1.2\nIDTYPE=sys_serial IDNAME=QM00001 DEVNAME=/dev/sda2\n",
    "/var/lib/glusterd/glusterd.info": "UUID=3fb0b1d3-9c5b-4c52-b2a0-0d3b7a1a3d11\noperating-version=100000\n",
    "/etc/salt/minion": "master: salt\nid: golden-template01\n",
    "/etc/puppetlabs/puppet/puppet.conf": "[main]\n  certname = golden-template01\n",
    "/etc/chef/client.rb": "node_name 'golden-template01'\n",
    "/etc/zabbix/zabbix_agentd.conf": "Server=127.0.0.1\nHostname=golden-template01\n",
    "/etc/telegraf/telegraf.conf": '[agent]\n  hostname = "golden-template01"\n',
    "/etc/collectd/collectd.conf": 'Hostname "golden-template01"\n',
    "/etc/datadog-agent/datadog.yaml": "hostname: golden-template01\n",
    "/var/lib/snmp/snmpd.conf": "engineBoots 2\noldEngineID 0x80001f8880\n",
    "/etc/snmp/snmpd.conf": "engineID 0x80001f8880\n",
    "/var/lib/filebeat/meta.json": '{"uuid":"3fb0b1d3-9c5b-4c52-b2a0-0d3b7a1a3d11"}\n',
    "/var/lib/mysql/auto.cnf": "[auto]\nserver-uuid=3fb0b1d3-9c5b-4c52-b2a0-0d3b7a1a3d11\n",
    "/var/lib/tailscale/tailscaled.state": '{"_machinekey":"cHJpdmtleQ=="}',
    "/etc/netbird/config.json": '{\n    "PrivateKey": "' + "Ab1+" * 10 + 'Ab1="\n}',
    "/etc/wireguard/wg0.conf": "[Interface]\nPrivateKey = " + "Ab1+" * 10 + "Ab1=\n",
    "/etc/wireguard/wg0.key": "Ab1+" * 10 + "Ab1=\n",
    "/etc/NetworkManager/system-connections/wg": "[wireguard]\nprivate-key=" + "Ab1+" * 10 + "Ab1=\n",
    "/etc/ipsec.secrets": '# secrets\ngolden-template01 %any : PSK "x"\n',
    "/etc/cloudflared/t.json": '{"AccountTag":"a","TunnelSecret":"cw=="}',
    "/etc/pki/tls/private/localhost.key": PEM,
    "/etc/xrdp/rsakeys.ini": "[keys]\npri_exp=0x12\n",
    "/etc/mailname": "golden-template01.corp.example\n",
    "/etc/postfix/main.cf": "myhostname = golden-template01\n",
    "/etc/exim4/update-exim4.conf.conf": "dc_other_hostnames='golden-template01'\n",
    SNAKEOIL_KEY: PEM,
}


def samples() -> dict[str, str]:
    """A file for each row of the table: the first of its paths that is written here, else the first path."""
    found = {}
    for row in TABLE:
        paths = [path.replace("*.", "t.").replace("*", "t") for path in row.paths]
        paths = ["/etc/wireguard/wg0.conf" if path == "/etc/wireguard/t.conf" else path for path in paths]
        paths = ["/etc/wireguard/wg0.key" if path == "/etc/wireguard/t.key" else path for path in paths]
        paths = [path.replace("system-connections/t", "system-connections/wg") for path in paths]
        path = next((path for path in paths if path in WRITTEN), paths[0])
        assert path in WRITTEN or not row.mark, f"no sample of {row.service}: {row.what}"
        found[path] = WRITTEN.get(path, "3fb0b1d3-9c5b-4c52-b2a0-0d3b7a1a3d11\n")
    return found


def write(tree: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = tree / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run_in(tree: Path, script: str) -> str:
    """What a script prints that runs with `tree` as its root. Skips where the host gives no mount namespace."""
    binds = "".join(
        f"mkdir -p {tree}{path}; mount --bind {path} {tree}{path}\n"
        for path in ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/dev")
        if Path(path).is_dir()
    )
    # Debian's awk is a link through /etc
    awk = Path("/etc/alternatives/awk")
    if awk.is_symlink() and not os.path.lexists(tree / "etc/alternatives/awk"):
        (tree / "etc/alternatives").mkdir(exist_ok=True)
        (tree / "etc/alternatives/awk").symlink_to(awk.readlink())
    inner = f"set -e\n{binds}[ -e {tree}/lib64 ] || ln -s usr/lib64 {tree}/lib64\nexec chroot {tree} /bin/sh -s\n"
    flags = ["-m"] if os.geteuid() == 0 else ["-r", "-m"]
    if subprocess.run(["unshare", *flags, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this host gives no mount namespace")
    done = subprocess.run(
        ["unshare", *flags, "sh", "-c", inner], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PREAMBLE = 'set -eu\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\nsay() { echo "generalize: $*"; }\n'


def contents(tree: Path) -> dict[str, str]:
    """Every file and link below etc and var, with what it holds."""
    found = {}
    for top in ("etc", "var"):
        for path in sorted((tree / top).rglob("*")):
            name = str(path.relative_to(tree))
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[name] = "folder"
    return found


def identities(disk: Path) -> set[str]:
    with open_disk(disk) as opened:
        return set(identity_paths(opened.root))


def test_each_identity_is_found_and_what_is_made_anew_is_removed(tmp_path: Path) -> None:
    tree = fake_disk.plant(tmp_path)
    write(tree, samples())
    write(tree, {"/usr/lib/open-iscsi/startup-checks.sh": "grep -q ^GenerateName=yes\n", "/usr/sbin/iscsid": "x"})
    write(tree, {"/usr/sbin/make-ssl-cert": "#!/bin/sh\n", "/etc/ssl/certs/ssl-cert-snakeoil.pem": "x\n"})
    (tree / "usr/sbin/make-ssl-cert").chmod(0o755)
    (tree / "run/systemd/system").mkdir(parents=True)
    (tree / "etc/ssl/certs/ab12.0").symlink_to("ssl-cert-snakeoil.pem")
    assert identities(fake_disk.pack(tmp_path)) == set(samples())
    output = run_in(tree, PREAMBLE + removal_script())
    stays = {
        path
        for row in TABLE
        if not row.renewed and row.paths != (SNAKEOIL_KEY,)
        for path in samples()
        if path in [each.replace("*.", "t.").replace("*", "t") for each in row.paths]
        or path.startswith("/etc/wireguard/")
        or path.endswith("/wg")
    }
    assert identities(fake_disk.pack(tmp_path)) == stays
    for path in set(samples()) - stays:
        assert f" {path} (" in output, output
    assert (tree / INITIATOR[1:]).read_text() == "GenerateName=yes\n"
    assert not os.path.lexists(tree / "etc/ssl/certs/ab12.0")
    unit = tree / SNAKEOIL_UNIT[1:]
    wants = tree / "etc/systemd/system/sysinit.target.wants/ssl-cert-snakeoil.service"
    assert "ExecStart=/usr/sbin/make-ssl-cert generate-default-snakeoil" in unit.read_text()
    assert str(wants.readlink()) == SNAKEOIL_UNIT


def test_what_has_no_identity_is_left_alone(tmp_path: Path) -> None:
    tree = fake_disk.plant(tmp_path)
    write(tree, {
        INITIATOR: "GenerateName=yes\n",
        "/var/lib/snmp/snmpd.conf": "oldEngineID 0x80\nusmUser 1 3 0x80 0x61\n",
        "/var/lib/tailscale/tailscaled.state": "{}\n",
        "/etc/hosts": "127.0.0.1 localhost app.local\n10.0.0.7 golden\n",
        "/etc/multipath/wwids": "# Valid WWIDs:\n",
    })  # fmt: skip
    run_in(tree, "true")
    before = contents(tree)
    run_in(tree, PREAMBLE + removal_script() + scripts._HOST_NAME)
    assert contents(tree) == before


@pytest.mark.parametrize(
    ("name", "hosts", "kept"),
    [
        ("golden", "127.0.0.1 localhost\n127.0.1.1 golden.corp golden\n", "127.0.0.1 localhost\n"),
        ("golden.corp", "127.0.0.1 localhost golden\n10.0.0.7 db\n", "127.0.0.1 localhost\n10.0.0.7 db\n"),
        # waagent has set the name already, and left the line
        ("localhost.localdomain", "127.0.0.1 localhost\n127.0.1.1 golden\n::1 localhost\n",
         "127.0.0.1 localhost\n::1 localhost\n"),
        ("golden", "# by hand\n\n127.0.0.1  localhost   a.local\n", "# by hand\n\n127.0.0.1  localhost   a.local\n"),
    ],
)  # fmt: skip
def test_the_build_s_name_goes(name: str, hosts: str, kept: str, tmp_path: Path) -> None:
    tree = fake_disk.plant(tmp_path)
    write(tree, {"/etc/hostname": name + "\n", "/etc/hosts": hosts})
    run_in(tree, PREAMBLE + scripts._HOST_NAME)
    assert (tree / "etc/hosts").read_text() == kept
    assert (tree / "etc/hostname").read_text().startswith("localhost")


#: A check, what it finds, and the commands of its remedy that a tree without services can carry out.
REMEDIES = {
    "persistent-net-rules": (
        {"/etc/udev/rules.d/70-persistent-net.rules": "x\n",
         "/usr/lib/udev/rules.d/75-persistent-net-generator.rules": "x\n"},
        ("rm -f /etc/udev/rules.d/70-persistent-net.rules",
         "ln -sf /dev/null /etc/udev/rules.d/75-persistent-net-generator.rules"),
    ),
    "temporary-files": (
        {"/tmp/.hidden/a": "x\n", "/var/tmp/b": "x\n"},
        ("find /tmp /var/tmp -mindepth 1 -delete",),
    ),
    "core-dumps": (
        {"/var/crash/a": "x\n", "/var/lib/apport/coredump/b": "x\n"},
        ("rm -rf /var/crash/* /var/lib/systemd/coredump/* /var/lib/apport/coredump/* /core",),
    ),
    "failed-boot-marks": ({"/forcefsck": "", "/etc/nologin": ""},
                          ("rm -f /forcefsck /fastboot /nologin /etc/nologin /.autorelabel",)),
    "netplan-cloud-init": (
        {"/etc/netplan/50-cloud-init.yaml": "x: 1\n", "/etc/network/interfaces.d/50-cloud-init.cfg": "\n",
         "/etc/systemd/network/10-cloud-init-eth0.network": "[Match]\nName=eth0\n"},
        ("rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* "
         "/etc/systemd/network/*cloud-init*",),
    ),
    "resolv-conf": ({"/etc/resolv.conf": "nameserver 10.0.0.1\n"},
                    ("ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",)),
    "machine-id": (
        {"/etc/machine-id": "0" * 32 + "\n", "/var/lib/dbus/machine-id": "0" * 32 + "\n"},
        ("truncate -s 0 /etc/machine-id", "ln -sf /etc/machine-id /var/lib/dbus/machine-id"),
    ),
    "ssh-host-keys": ({"/etc/ssh/ssh_host_rsa_key": "x\n", "/etc/ssh/ssh_host_rsa_key.pub": KEY},
                      ("rm -f /etc/ssh/ssh_host_*key* /etc/dropbear/*host_key*",)),
    "random-seed": (
        {"/var/lib/systemd/random-seed": "x", "/var/lib/random-seed": "x"},
        ("/var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/random-seed "
         "/boot/efi/loader/random-seed",),
    ),
    "credential-secret": ({"/var/lib/systemd/credential.secret": "x"}, ("rm -f /var/lib/systemd/credential.secret",)),
    "dhcp-leases": (
        {"/var/lib/dhcp/dhclient.leases": "x", "/var/lib/dhcpcd5/eth0.lease": "x", "/var/lib/systemd/network/x": "x",
         "/var/lib/NetworkManager/internal-1-eth0.lease": "x", "/var/lib/dhclient/dhclient.leases": "x"},
        ("rm -f /var/lib/dhcp/* /var/lib/dhclient/*lease* /var/lib/dhcpcd*/*.lease* /var/lib/NetworkManager/*lease* "
         "/var/lib/systemd/network/*",),
    ),
    "build-logs": ({"/var/log/nginx/access.log": "x\n", "/var/log/syslog": "x\n"},
                   ("find /var/log -type f -exec truncate -s 0 {} +",)),
    "package-cache": ({"/var/lib/apt/lists/x_Packages": "x\n"}, ("rm -rf /var/lib/apt/lists/*",)),
    "resume-device": ({"/etc/initramfs-tools/conf.d/resume": "RESUME=UUID=6a3f3a55-1111-2222-3333-444455556666\n"},
                      ("echo RESUME=none > /etc/initramfs-tools/conf.d/resume",)),
    "host-name": ({"/etc/hostname": "golden-template01\n"}, ("echo localhost > /etc/hostname",)),
}  # fmt: skip


def test_remedies_mend_what_they_are_for_and_nothing_else(tmp_path: Path) -> None:
    checks = {check.id: check for check in all_checks()}
    tree = fake_disk.plant(tmp_path)
    for name, (files, commands) in REMEDIES.items():
        if name == "resolv-conf":
            (tree / "etc/resolv.conf").unlink()
        write(tree, files)
        for command in commands:
            assert command in checks[name].remedy, name
    assert set(REMEDIES) <= set(findings(fake_disk.pack(tmp_path)))
    lines = [line if " " in line.split("/")[0] else f"rm -f {line}" for _, each in REMEDIES.values() for line in each]
    run_in(tree, "set -eu\n" + "\n".join(lines) + "\n")
    assert findings(fake_disk.pack(tmp_path)) == {}
    # a service whose folder of logs is gone does not start
    assert (tree / "var/log/nginx").is_dir() and (tree / "etc/cloud/cloud.cfg").exists()


def findings(disk: Path) -> dict[str, str]:
    with open_disk(disk) as opened:
        return {
            result.id: result.evidence
            for result in run_checks(opened, profile="any")
            if result.status in ("fail", "warn", "unchecked")
        }


def test_no_mark_fits_a_comment() -> None:
    for row in TABLE:
        assert not row.mark or not has_line("# a comment\n\n", row.mark), row


@pytest.mark.parametrize("kind", ["lvm", "luks", "none"])
def test_what_may_be_inside_lvm_is_not_missing(kind: str, tmp_path: Path) -> None:
    """A mount or a device to resume from that no partition has is only missing where nothing could hide it."""
    tree = fake_disk.plant(tmp_path)
    missing = "UUID=6a3f3a55-1111-2222-3333-444455556666"
    write(tree, {"/etc/initramfs-tools/conf.d/resume": f"RESUME={missing}\n"})
    write(tree, {"/etc/fstab": fake_disk.FILES["etc/fstab"] + f"{missing} /data xfs defaults 0 2\n"})
    disk = fake_disk.pack(tmp_path)
    marks = {"luks": b"LUKS\xba\xbe\0\1", "lvm": bytes(512) + b"LABELONE" + bytes(16) + b"LVM2 001", "none": b""}
    with disk.open("r+b") as file:
        # the first partition, where nothing that is read stands
        file.seek(fake_disk.CORE_AT)
        file.write(marks[kind])
    with open_disk(disk) as opened:
        found = {result.id: result for result in run_checks(opened, profile="any")}
    for name in ("fstab-targets", "resume-device"):
        assert found[name].status == ("fail" if kind == "none" else "unchecked"), found[name]
        assert missing in found[name].evidence


#: What public cloud images of other systems have, as far as these checks look: files, and services that start.
UNIT = "[Install]\nWantedBy=multi-user.target\n"
HABITS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "ubuntu": (
        {
            "/etc/hostname": "ubuntu\n",
            "/etc/hosts": "127.0.0.1 localhost\n\n::1 ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\n",
            INITIATOR: "## DO NOT EDIT OR REMOVE THIS FILE!\nGenerateName=yes\n",
            "/etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf",
            "/etc/cloud/cloud.cfg": "preserve_hostname: false\nusers: [default]\n",
            "/usr/bin/cloud-init": "x",
            "/usr/lib/systemd/system-generators/netplan": "x",
            "/etc/fstab": "LABEL=cloudimg-rootfs / ext4 discard,errors=remount-ro 0 1\n",
        },
        ("systemd-resolved", "cloud-init"),
    ),
    "rhel": (
        {
            "/etc/hostname": "localhost.localdomain\n",
            "/etc/hosts": "127.0.0.1   localhost localhost.localdomain localhost4 localhost4.localdomain4\n",
            "/etc/sysconfig/network": "NETWORKING=yes\nNOZEROCONF=yes\n",
            "/etc/sysconfig/network-scripts/ifcfg-eth0": 'DEVICE="eth0"\nBOOTPROTO="dhcp"\nONBOOT="yes"\n',
            "/etc/resolv.conf": "",
            "/etc/default/grub": 'GRUB_CMDLINE_LINUX="loglevel=3 console=tty1 console=ttyS0 rd.debug=0"\n',
        },
        ("NetworkManager",),
    ),
    "fedora": (
        {"/etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf", "/etc/machine-id": "uninitialized\n"},
        ("NetworkManager", "systemd-resolved"),
    ),
    "suse": (
        {
            "/etc/HOSTNAME": "",
            "/etc/resolv.conf": "-> /run/netconfig/resolv.conf",
            "/sbin/netconfig": "x",
            "/etc/sysconfig/network/ifcfg-eth0": "BOOTPROTO='dhcp'\nSTARTMODE='auto'\n",
            "/etc/sysconfig/network/config": 'NETCONFIG_DNS_STATIC_SERVERS=""\n',
        },
        ("wicked",),
    ),
    "arch": (
        {
            "/etc/hostname": "archlinux\n",
            "/etc/systemd/network/80-dhcp.network": "[Match]\nName=en*\nName=eth*\n\n[Network]\nDHCP=yes\n",
            "/etc/resolv.conf": "-> /run/systemd/resolve/stub-resolv.conf",
        },
        ("systemd-networkd", "systemd-resolved"),
    ),
    "alpine": (
        {
            "/etc/hostname": "alpine\n",
            "/etc/hosts": "127.0.0.1\talpine.my.domain alpine localhost.localdomain localhost\n::1\tlocalhost\n",
            "/etc/network/interfaces": "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n",
            "/etc/init.d/networking": "#!/sbin/openrc-run\n",
            "/etc/runlevels/boot/networking": "-> /etc/init.d/networking",
            "/sbin/udhcpc": "x",
        },
        (),
    ),
}


@pytest.mark.parametrize("name", HABITS)
def test_the_habits_of_public_images_are_not_refused(name: str, tmp_path: Path) -> None:
    files, started = HABITS[name]
    tree = tmp_path / "tree"
    write(tree, {"/etc/os-release": f"ID={name}\n", "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"})
    write(tree, {path: text for path, text in files.items() if not text.startswith("->")})
    write(tree, {f"/usr/lib/systemd/system/{unit}.service": UNIT for unit in started})
    links = {path: text.split()[1] for path, text in files.items() if text.startswith("->")}
    for unit in started:
        links[f"/etc/systemd/system/multi-user.target.wants/{unit}.service"] = (
            f"/usr/lib/systemd/system/{unit}.service"
        )
    for path, target in links.items():
        link = tree / path[1:]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    disk = tmp_path / "disk.raw"
    fake_disk.tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk, "8M")
    asked = ("network-pinned", "resolver", "host-name", "service-identity", "resume-device", "resolv-conf",
             "fstab-by-uuid", "network-static-address")  # fmt: skip
    with open_disk(disk, "raw") as opened:
        found = {result.id: result for result in run_checks(opened, profile="azure-linux")}
    assert {each: found[each].evidence for each in asked if found[each].status != "pass"} == {}
