"""What the direct boot of a build guest and the guest itself agree on."""

from __future__ import annotations

#: How far the guest boots by itself, that cloud-init finds nothing to do there, that nobody checks a disk at rest,
#: and that networkd's question for wireless cards loads no driver.
STOP = (
    *("systemd.unit=basic.target", "cloud-init=disabled", "fsck.mode=skip", "systemd.show_status=error"),
    "modprobe.blacklist=cfg80211",
)
#: There once the session is set up.
ENTERED = "/run/goldsmith-entered"
#: What the guest must have for the agent to come up at basic.target and for the session to be set up.
NEEDED = (
    "/usr/sbin/qemu-ga",
    "/usr/lib/udev/rules.d/60-qemu-guest-agent.rules",
    "/usr/lib/systemd/system/basic.target",
    "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
    "/usr/lib/systemd/system/ssh.service",
    "/usr/sbin/sshd",
    "/usr/bin/sudo",
    "/usr/bin/growpart",
)
