"""The part of generalize that removes identities of services: what each makes anew at its next start, and no more."""

from __future__ import annotations

import shlex

from pipeline.systems.linux.service_identity import INITIATOR, SNAKEOIL_CERTIFICATE, SNAKEOIL_KEY, TABLE


def removal_script() -> str:
    """Shell lines that remove what is made anew, and say so by `say`; they need no service to be there."""
    calls = []
    for row in TABLE:
        if row.renewed and row.paths != (INITIATOR,):
            words = [f"{row.service}, {row.what}", row.mark, row.unless, row.stop]
            # the paths stay unquoted: the shell finds what is there
            calls.append(f"forget {' '.join(map(shlex.quote, words))} {' '.join(row.paths)}")
    return "\n".join([_FORGET.strip("\n"), *calls, _INITIATOR.strip("\n"), _SNAKEOIL.strip("\n")])


_FORGET = r"""
say "identities of services"
# WHAT MARK UNLESS UNIT PATH...: remove each file that has a line like MARK (any content where it is empty)
forget() {
  what=$1 mark=$2 unless=$3 unit=$4
  shift 4
  for file in "$@"; do
    [ -f "$file" ] && [ -s "$file" ] || continue
    [ -z "$mark" ] || grep -Eq -- "$mark" "$file" || continue
    if [ -n "$unless" ] && grep -Eq -- "$unless" "$file"; then continue; fi
    [ -z "$unit" ] || systemctl stop "$unit" 2>/dev/null || true
    rm -f -- "$file"
    say "removed $file ($what): the next start makes it anew"
  done
}
"""

#: Debian's script makes a name where the file asks for one, and refuses to start where there is no file.
_INITIATOR = rf"""
if grep -Eqs '^[[:space:]]*InitiatorName=.' {INITIATOR}; then
  if grep -qs GenerateName /lib/open-iscsi/startup-checks.sh /usr/lib/open-iscsi/startup-checks.sh; then
    echo GenerateName=yes > {INITIATOR}
    say "rewrote {INITIATOR} (open-iscsi, the initiator's name): the next start makes it anew"
  elif [ -e /usr/lib/systemd/system/iscsi-init.service ] || [ ! -e /sbin/iscsid ]; then
    rm -f {INITIATOR}
    say "removed {INITIATOR} (open-iscsi, the initiator's name): the next start makes it anew"
  fi
fi
"""

SNAKEOIL_UNIT = "/etc/systemd/system/ssl-cert-snakeoil.service"
#: Nothing of Debian's makes this key a second time, and services that name it do not start without it.
_SNAKEOIL = rf"""
if [ -s {SNAKEOIL_KEY} ] && [ -x /usr/sbin/make-ssl-cert ] && [ -d /run/systemd/system ]; then
  cat > {SNAKEOIL_UNIT} <<'END'
[Unit]
Description=Make this machine's own self-signed certificate
Documentation=man:make-ssl-cert(8)
ConditionPathExists=!{SNAKEOIL_KEY}
DefaultDependencies=no
After=local-fs.target systemd-tmpfiles-setup.service
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
Environment=DEBIAN_FRONTEND=noninteractive HOME=/root
ExecStart=/usr/sbin/make-ssl-cert generate-default-snakeoil

[Install]
WantedBy=sysinit.target
END
  mkdir -p /etc/systemd/system/sysinit.target.wants
  ln -sf {SNAKEOIL_UNIT} /etc/systemd/system/sysinit.target.wants/ssl-cert-snakeoil.service
  for link in /etc/ssl/certs/*.[0-9]; do
    [ "$(readlink "$link")" != ssl-cert-snakeoil.pem ] || rm -f "$link"
  done
  rm -f {SNAKEOIL_KEY} {SNAKEOIL_CERTIFICATE}
  say "removed {SNAKEOIL_KEY} (ssl-cert, the snakeoil key): ssl-cert-snakeoil.service makes it anew"
fi
"""
