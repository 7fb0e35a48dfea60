set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { echo "generalize: $*"; }

say "timers and log writers stop"
systemctl stop apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
  unattended-upgrades.service cron.service rsyslog.service 2>/dev/null || true
# from here the journal lives in memory: what is said while we clean must not land on the disk
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\n' > /run/systemd/journald.conf.d/90-goldsmith.conf
systemctl restart systemd-journald.service
# it writes a seed when it is stopped; stopped now, the shutdown has nothing left to write
systemctl stop systemd-random-seed.service 2>/dev/null || true
pkill -KILL -u goldsmith-build 2>/dev/null || true
# ifupdown would give the lease back at the shutdown, and its client writes that into the file that we remove
[ ! -e /run/network/ifstate ] || : > /run/network/ifstate
pkill -KILL -x 'dhclient|dhcpcd|udhcpc' 2>/dev/null || true


if command -v cloud-init >/dev/null; then
  # where it has not run in this guest there is nothing of it, and to find that out takes it five seconds under TCG
  if [ -e /var/lib/cloud/instance ] || [ -s /var/log/cloud-init.log ]; then
    say "cloud-init clean"
    cloud-init clean --logs --seed
    rm -rf /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem
  fi
  # a brought disk may have these of an earlier machine whose other traces are gone
  rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* /etc/systemd/network/*cloud-init* \
    /etc/NetworkManager/system-connections/cloud-init-* /etc/sudoers.d/90-cloud-init-users
fi


say "traces of the build"
find /var/log -type f \( -name '*.gz' -o -name '*.[0-9]' -o -name '*.old' \) -delete
find /var/log -type f ! -path '/var/log/journal/*' -exec truncate -s 0 {} +
rm -rf /var/log/journal/* /var/log/installer
# the shutdown writes to these only where they are; the next boot makes them anew
rm -f /var/log/wtmp /var/log/btmp /var/log/lastlog
apt-get clean 2>/dev/null || true
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -rf /var/tmp/* /tmp/* /tmp/.[!.]* 2>/dev/null || true
rm -f /var/crash/* /var/lib/systemd/coredump/* 2>/dev/null || true


say "identity"
rm -f /etc/ssh/ssh_host_*
# empty, not deleted: without the file the next boot waits minutes for its network
: > /etc/machine-id
if [ -e /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
  rm -f /var/lib/dbus/machine-id; ln -s /etc/machine-id /var/lib/dbus/machine-id
fi
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /boot/efi/loader/random-seed
rm -f /var/lib/dhcp/* /var/lib/NetworkManager/*.lease /var/lib/dhcpcd/*.lease /var/lib/systemd/network/* || true
rm -f /etc/udev/rules.d/70-persistent-net.rules /etc/udev/rules.d/75-persistent-net-generator.rules

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
forget 'nvme-cli, the NVMe host'"'"'s id and name' '' '' '' /etc/nvme/hostid /etc/nvme/hostnqn
forget 'multipath-tools, disks of the build machine' '^[^#[:space:]]' '' '' /etc/multipath/wwids /etc/multipath/bindings
forget 'lvm2, devices of the build machine, without which LVM sees no other' '^IDTYPE=' '' '' /etc/lvm/devices/system.devices
forget 'glusterfs, the peer'"'"'s UUID' '^UUID=' '' glusterd /var/lib/glusterd/glusterd.info
forget 'salt-minion, the minion'"'"'s name' '' '' salt-minion /etc/salt/minion_id
forget 'salt-minion, the minion'"'"'s key' '' '' salt-minion /etc/salt/pki/minion/minion.pem /etc/salt/pki/minion/minion.pub
forget 'salt-master, the master'"'"'s key' '' '' salt-master /etc/salt/pki/master/master.pem
forget 'puppet, the agent'"'"'s key and certificate' '' '' puppet /etc/puppetlabs/puppet/ssl/private_keys/*.pem /etc/puppetlabs/puppet/ssl/public_keys/*.pem /etc/puppetlabs/puppet/ssl/certs/*.pem /etc/puppetlabs/puppet/ssl/certificate_requests/*.pem /var/lib/puppet/ssl/private_keys/*.pem /var/lib/puppet/ssl/public_keys/*.pem /var/lib/puppet/ssl/certs/*.pem /var/lib/puppet/ssl/certificate_requests/*.pem /etc/puppet/ssl/private_keys/*.pem /etc/puppet/ssl/public_keys/*.pem /etc/puppet/ssl/certs/*.pem /etc/puppet/ssl/certificate_requests/*.pem
forget 'insights-client, the host'"'"'s id' '' '' '' /etc/insights-client/machine-id /etc/insights-client/.registered
forget 'snmpd, the engine'"'"'s id' '^(oldEngineID|exactEngineID)' '^usmUser' snmpd /var/lib/snmp/snmpd.conf /var/lib/net-snmp/snmpd.conf /var/net-snmp/snmpd.conf
forget 'netdata, the agent'"'"'s id' '' '' netdata /var/lib/netdata/registry/netdata.public.unique.id /var/lib/netdata/cloud.d/claimed_id /var/lib/netdata/cloud.d/private.pem
forget 'beats, the agent'"'"'s id' '"uuid"' '' '' /var/lib/filebeat/meta.json /var/lib/metricbeat/meta.json /var/lib/packetbeat/meta.json /var/lib/heartbeat/meta.json /var/lib/auditbeat/meta.json /var/lib/journalbeat/meta.json
forget 'alloy, the agent'"'"'s id' '' '' '' /var/lib/alloy/data/alloy_seed.json /var/lib/grafana-agent/agent_seed.json
forget 'glpi-agent, the device'"'"'s id' '' '' '' /var/lib/glpi-agent/*.dump /var/lib/fusioninventory-agent/*.dump /var/lib/ocsinventory-agent/*/ocsinv.conf
forget 'wazuh-agent, the agent'"'"'s key' '' '' '' /var/ossec/etc/client.keys
forget 'qualys-cloud-agent, the host'"'"'s id' '' '' '' /etc/qualys/hostid
forget 'nessus-agent, the agent'"'"'s tag' '' '' '' /etc/tenable_tag
forget 'whoopsie, the machine'"'"'s id' '' '' '' /var/lib/whoopsie/whoopsie-id
forget 'rabbitmq-server, the Erlang cookie' '' '' rabbitmq-server /var/lib/rabbitmq/.erlang.cookie
forget 'mysql, the server'"'"'s UUID' '^server[-_]uuid' '' '' /var/lib/mysql/auto.cnf
forget 'mysql, the server'"'"'s own keys' '' '' '' /var/lib/mysql/ca.pem /var/lib/mysql/ca-key.pem /var/lib/mysql/server-cert.pem /var/lib/mysql/server-key.pem /var/lib/mysql/client-cert.pem /var/lib/mysql/client-key.pem /var/lib/mysql/private_key.pem /var/lib/mysql/public_key.pem
forget 'docker, the engine'"'"'s id' '' '' '' /etc/docker/key.json /var/lib/docker/engine-id
forget 'k3s, the node'"'"'s password' '' '' '' /etc/rancher/node/password
forget 'calico, the node'"'"'s name' '' '' '' /var/lib/calico/nodename
forget 'lxd, the server'"'"'s key' '' '' '' /var/lib/lxd/server.key /var/lib/lxd/server.crt /var/lib/incus/server.key /var/lib/incus/server.crt /var/snap/lxd/common/lxd/server.key /var/snap/lxd/common/lxd/server.crt
forget 'consul, the node'"'"'s id' '' '' '' /var/lib/consul/node-id /opt/consul/node-id /opt/consul/data/node-id /var/consul/node-id
forget 'nomad, the client'"'"'s id and secret' '' '' '' /opt/nomad/data/client/client-id /opt/nomad/data/client/secret-id /opt/nomad/client/client-id /opt/nomad/client/secret-id /var/lib/nomad/client/client-id /var/lib/nomad/client/secret-id /var/nomad/client/client-id /var/nomad/client/secret-id
forget 'gitlab-runner, the system'"'"'s id' '' '' '' /etc/gitlab-runner/.runner_system_id
forget 'tailscale, the node'"'"'s key' '"[^"]+"' '' tailscaled /var/lib/tailscale/tailscaled.state
forget 'zerotier-one, the node'"'"'s address and key' '' '' zerotier-one /var/lib/zerotier-one/identity.secret /var/lib/zerotier-one/identity.public
forget 'NetworkManager, the key of private addresses' '' '' '' /var/lib/NetworkManager/secret_key
forget 'dhcp, the client'"'"'s id' '' '' '' /var/lib/dhcpcd/duid /var/lib/dhcpcd5/duid /etc/dhcpcd.duid /var/lib/wicked/duid.xml /var/lib/wicked/iaid.xml /var/lib/dhcpv6/dhcp6c_duid
forget 'tor, the relay'"'"'s keys' '' '' tor /var/lib/tor/keys/*
forget 'httpd, the machine'"'"'s own self-signed key' 'PRIVATE KEY' '' '' /etc/pki/tls/private/localhost.key
forget 'cockpit, the machine'"'"'s own self-signed key' '' '' '' /etc/cockpit/ws-certs.d/0-self-signed.key /etc/cockpit/ws-certs.d/0-self-signed.cert
if grep -Eqs '^[[:space:]]*InitiatorName=.' /etc/iscsi/initiatorname.iscsi; then
  if grep -qs GenerateName /lib/open-iscsi/startup-checks.sh /usr/lib/open-iscsi/startup-checks.sh; then
    echo GenerateName=yes > /etc/iscsi/initiatorname.iscsi
    say "rewrote /etc/iscsi/initiatorname.iscsi (open-iscsi, the initiator's name): the next start makes it anew"
  elif [ -e /usr/lib/systemd/system/iscsi-init.service ] || [ ! -e /sbin/iscsid ]; then
    rm -f /etc/iscsi/initiatorname.iscsi
    say "removed /etc/iscsi/initiatorname.iscsi (open-iscsi, the initiator's name): the next start makes it anew"
  fi
fi
if [ -s /etc/ssl/private/ssl-cert-snakeoil.key ] && [ -x /usr/sbin/make-ssl-cert ] && [ -d /run/systemd/system ]; then
  cat > /etc/systemd/system/ssl-cert-snakeoil.service <<'END'
[Unit]
Description=Make this machine's own self-signed certificate
Documentation=man:make-ssl-cert(8)
ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key
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
  ln -sf /etc/systemd/system/ssl-cert-snakeoil.service /etc/systemd/system/sysinit.target.wants/ssl-cert-snakeoil.service
  for link in /etc/ssl/certs/*.[0-9]; do
    [ "$(readlink "$link")" != ssl-cert-snakeoil.pem ] || rm -f "$link"
  done
  rm -f /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
  say "removed /etc/ssl/private/ssl-cert-snakeoil.key (ssl-cert, the snakeoil key): ssl-cert-snakeoil.service makes it anew"
fi

name=$(head -n 1 /etc/hostname 2>/dev/null | tr -d ' \t\r' || true)
case "$name" in
  ""|localhost|localhost.*) name= ;;
  *) echo localhost > /etc/hostname; say "removed the host name $name: who provisions a clone names it" ;;
esac
# 127.0.1.1 is Debian's line for the machine's own name (Debian reference 5.1.1); waagent leaves it behind
if [ -f /etc/hosts ] && command -v awk >/dev/null; then
  kept=$(awk -v name="$name" '
    BEGIN { split(name, part, ".") }
    $1 !~ /^(127\.|::1$)/ { print; next }
    { line = $1; left = gone = 0
      for (i = 2; i <= NF; i++)
        if (($1 == "127.0.1.1" && $i !~ /^localhost/) || (name != "" && ($i == name || $i == part[1]))) gone++
        else { line = line " " $i; left++ }
      if (!gone) print; else if (left) print line }' /etc/hosts)
  if [ "$kept" != "$(cat /etc/hosts)" ]; then
    # in place: the file may be a link, or mounted
    printf '%s\n' "$kept" > /etc/hosts
    say "removed the build's own name from /etc/hosts"
  fi
fi


say "the build user"
rm -f /etc/systemd/network/10-goldsmith-*.network /etc/sudoers.d/90-goldsmith-build
if id goldsmith-build >/dev/null 2>&1; then
  userdel --force --remove goldsmith-build 2>/dev/null || { echo "cannot remove goldsmith-build" >&2; exit 43; }
fi
rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
rm -f /root/.*_history /root/.lesshst /root/.viminfo /root/.wget-hsts
for home in /home/*; do [ -d "$home" ] && rm -f "$home"/.*_history "$home"/.lesshst; done
rm -rf /root/.ansible /home/*/.ansible /root/.cache


say "freed blocks"
sync
fstrim -a || true
sync
say "done"
