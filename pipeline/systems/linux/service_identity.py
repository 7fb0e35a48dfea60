"""Identities that services keep outside systemd and ssh: one table for the check and for generalize.

A row says where a service keeps what makes a machine one machine of many, what in the file is the identity, and who
makes it again. Rows come from the services' public documentation, or from the unit or maintainer script that makes
the file; `source` names it. An identity that its service makes again at the next start is removed by generalize. One
that nobody makes again stays, because without it a service may not start: the check then says what to do.
Over 400 lines, because the table is data: a row for each service.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """One kind of identity.

    `paths`: absolute; * within one part of a path, as a shell and fnmatch agree on it. `mark`: an extended regular
    expression that a line of the file has if it is an identity; '' where any content is one. `unless`: the same of a
    line that makes removing it wrong. `renewed`: the service makes it again at its next start (`mark` and `unless`
    are then for grep -E too). `stop`: a unit that would write the file once more while it stops, or needs it to stop.
    """

    service: str
    what: str
    paths: tuple[str, ...]
    remedy: str
    source: str
    mark: str = ""
    renewed: bool = True
    unless: str = ""
    stop: str = ""


#: Names of machines of a private network: without a dot, or below a domain that is nobody's (RFC 6762 G, RFC 8375).
_PRIVATE_NAME = (
    r"([A-Za-z0-9_-]+|[A-Za-z0-9_.-]+\.(local|lan|internal|intranet|corp|private|home|home\.arpa|localdomain|test"
    r"|example))"
)
#: What is said of an identity that its service makes again.
_REMOVE = "remove it: the next start makes a new one"

INITIATOR = "/etc/iscsi/initiatorname.iscsi"
SNAKEOIL_KEY = "/etc/ssl/private/ssl-cert-snakeoil.key"
SNAKEOIL_CERTIFICATE = "/etc/ssl/certs/ssl-cert-snakeoil.pem"

TABLE: tuple[Identity, ...] = (
    # storage
    Identity(
        "open-iscsi", "the initiator's name", (INITIATOR,),
        "on Debian and Ubuntu write GenerateName=yes into it; elsewhere remove it (iscsi-init makes a new one)",
        "Debian: open-iscsi startup-checks.sh; RHEL: iscsi-init.service", mark="^[[:space:]]*InitiatorName=.",
    ),
    Identity(
        "nvme-cli", "the NVMe host's id and name", ("/etc/nvme/hostid", "/etc/nvme/hostnqn"),
        "remove it: without it each machine's follows from its own UUID", "libnvme: nvmf_hostnqn_generate()",
    ),
    Identity(
        "multipath-tools", "disks of the build machine", ("/etc/multipath/wwids", "/etc/multipath/bindings"),
        _REMOVE, "multipath(8)", mark="^[^#[:space:]]",
    ),
    Identity(
        "lvm2", "devices of the build machine, without which LVM sees no other", ("/etc/lvm/devices/system.devices",),
        "remove it: without it LVM looks at every device", "lvmdevices(8)", mark="^IDTYPE=",
    ),
    Identity(
        "glusterfs", "the peer's UUID", ("/var/lib/glusterd/glusterd.info",), _REMOVE, "GlusterFS: cloned servers",
        mark="^UUID=", stop="glusterd",
    ),
    # configuration management
    Identity(
        "salt-minion", "the minion's name", ("/etc/salt/minion_id",), _REMOVE, "Salt: minion id", stop="salt-minion",
    ),
    Identity(
        "salt-minion", "the minion's key", ("/etc/salt/pki/minion/minion.pem", "/etc/salt/pki/minion/minion.pub"),
        _REMOVE, "Salt: preseed minion keys", stop="salt-minion",
    ),
    Identity(
        "salt-minion", "a fixed name of the minion", ("/etc/salt/minion", "/etc/salt/minion.d/*.conf"),
        "remove the line: the name then follows the host's", "Salt: minion configuration, id",
        mark="^id:[[:space:]]*[^[:space:]#]", renewed=False,
    ),
    Identity(
        "salt-master", "the master's key", ("/etc/salt/pki/master/master.pem",), _REMOVE, "Salt: master key",
        stop="salt-master",
    ),
    Identity(
        "puppet", "the agent's key and certificate",
        tuple(
            f"{folder}/{part}/*.pem"
            for folder in ("/etc/puppetlabs/puppet/ssl", "/var/lib/puppet/ssl", "/etc/puppet/ssl")
            for part in ("private_keys", "public_keys", "certs", "certificate_requests")
        ),
        "remove it: the next run asks for a new certificate", "Puppet: ssldir", stop="puppet",
    ),
    Identity(
        "puppet", "a fixed name of the agent", ("/etc/puppetlabs/puppet/puppet.conf", "/etc/puppet/puppet.conf"),
        "remove the line: the name then follows the host's", "Puppet: certname",
        mark="^[[:space:]]*certname[[:space:]]*=", renewed=False,
    ),
    Identity(
        "chef", "the client's key", ("/etc/chef/client.pem", "/etc/cinc/client.pem"),
        "remove it, and register each clone at its first boot (a validation key, or a bootstrap)",
        "Chef: chef-client, authentication", renewed=False,
    ),
    Identity(
        "chef", "a fixed name of the node", ("/etc/chef/client.rb", "/etc/cinc/client.rb"),
        "remove the line: the name then follows the host's", "Chef: client.rb, node_name",
        mark="^[[:space:]]*node_name[[:space:](]", renewed=False,
    ),
    Identity(
        "cfengine", "the host's key", ("/var/cfengine/ppkeys/localhost.priv", "/var/cfengine/ppkeys/localhost.pub"),
        "remove it, and run cf-key at the first boot", "CFEngine: cf-key", renewed=False,
    ),
    Identity(
        "rudder", "the node's id", ("/opt/rudder/etc/uuid.hive",), "run `rudder agent reinit` at the first boot",
        "Rudder: rudder-agent", renewed=False,
    ),
    # subscriptions
    Identity(
        "subscription-manager", "the consumer's certificate",
        ("/etc/pki/consumer/*.pem", "/etc/pki/entitlement/*.pem"),
        "subscription-manager unregister; subscription-manager clean", "RHEL: subscription-manager(8)", renewed=False,
    ),
    Identity(
        "insights-client", "the host's id", ("/etc/insights-client/machine-id", "/etc/insights-client/.registered"),
        _REMOVE, "Red Hat: insights-client",
    ),
    Identity(
        "suseconnect", "the registration", ("/etc/zypp/credentials.d/SCCcredentials",), "SUSEConnect --cleanup",
        "SUSE: SUSEConnect(8)", renewed=False,
    ),
    Identity(
        "ubuntu-pro", "the machine's token", ("/var/lib/ubuntu-advantage/private/machine-token.json",),
        "pro detach --assume-yes", "Ubuntu Pro client: pro detach", renewed=False,
    ),
    # monitoring and inventories
    Identity(
        "zabbix-agent", "a fixed name of the host",
        ("/etc/zabbix/zabbix_agentd.conf", "/etc/zabbix/zabbix_agent2.conf", "/etc/zabbix/zabbix_agentd.d/*.conf",
         "/etc/zabbix/zabbix_agent2.d/*.conf", "/etc/zabbix/zabbix_agentd.conf.d/*.conf"),
        "write HostnameItem=system.hostname in its place", "Zabbix: agent configuration, Hostname",
        # the package's own line is nobody's name
        mark="^Hostname=(?!Zabbix server).", renewed=False,
    ),
    Identity(
        "zabbix-agent", "a pre-shared key", ("/etc/zabbix/*.psk",), "remove it, and give each clone a key of its own",
        "Zabbix: encryption, TLSPSKFile", renewed=False,
    ),
    Identity(
        "telegraf", "a fixed name of the host", ("/etc/telegraf/telegraf.conf", "/etc/telegraf/telegraf.d/*.conf"),
        'write hostname = "": the name then follows the host\'s', "Telegraf: agent, hostname",
        mark="^[[:space:]]*hostname[[:space:]]*=[[:space:]]*\"[^\"]", renewed=False,
    ),
    Identity(
        "collectd", "a fixed name of the host", ("/etc/collectd/collectd.conf", "/etc/collectd.conf"),
        "remove the line: FQDNLookup finds the name", "collectd.conf(5)",
        mark="^[[:space:]]*Hostname[[:space:]]+\"?(?!localhost)[^[:space:]\"]", renewed=False,
    ),
    Identity(
        "datadog-agent", "a fixed name of the host", ("/etc/datadog-agent/datadog.yaml",),
        "remove the line: the agent finds the name", "Datadog: hostname",
        mark="^hostname:[[:space:]]*[^[:space:]#]", renewed=False,
    ),
    Identity(
        "snmpd", "the engine's id",
        ("/var/lib/snmp/snmpd.conf", "/var/lib/net-snmp/snmpd.conf", "/var/net-snmp/snmpd.conf"),
        "stop snmpd, then remove the file; users of SNMPv3 in it are to be created at the first boot",
        "snmpd.conf(5), oldEngineID", mark="^(oldEngineID|exactEngineID)", unless="^usmUser", stop="snmpd",
    ),
    Identity(
        "snmpd", "a fixed id of the engine", ("/etc/snmp/snmpd.conf", "/etc/snmp/snmpd.conf.d/*.conf"),
        "remove the line", "snmpd.conf(5), engineID", mark="^(engineID|exactEngineID)[[:space:]]", renewed=False,
    ),
    Identity(
        "netdata", "the agent's id",
        ("/var/lib/netdata/registry/netdata.public.unique.id", "/var/lib/netdata/cloud.d/claimed_id",
         "/var/lib/netdata/cloud.d/private.pem"),
        _REMOVE, "Netdata: agent identity", stop="netdata",
    ),
    Identity(
        "beats", "the agent's id",
        tuple(f"/var/lib/{name}beat/meta.json" for name in ("file", "metric", "packet", "heart", "audit", "journal")),
        _REMOVE, "Elastic Beats: meta.json", mark="\"uuid\"",
    ),
    Identity(
        "elastic-agent", "the enrolment", ("/opt/Elastic/Agent/fleet.enc", "/var/lib/elastic-agent/fleet.enc"),
        "uninstall it, and enrol at the first boot", "Elastic Agent: golden images", renewed=False,
    ),
    Identity(
        "alloy", "the agent's id", ("/var/lib/alloy/data/alloy_seed.json", "/var/lib/grafana-agent/agent_seed.json"),
        _REMOVE, "Grafana Alloy: data collection",
    ),
    Identity(
        "icinga2", "the node's key", ("/var/lib/icinga2/certs/*.key",), "run `icinga2 node setup` at the first boot",
        "Icinga 2: distributed monitoring", renewed=False,
    ),
    Identity(
        "cmk-agent", "the registration", ("/var/lib/cmk-agent/registered_connections.json",),
        "remove it, and register at the first boot (cmk-agent-ctl register)", "Checkmk: cmk-agent-ctl", renewed=False,
    ),
    Identity(
        "glpi-agent", "the device's id",
        ("/var/lib/glpi-agent/*.dump", "/var/lib/fusioninventory-agent/*.dump",
         "/var/lib/ocsinventory-agent/*/ocsinv.conf"),
        _REMOVE, "GLPI Agent: deviceid",
    ),
    Identity(
        "falcon-sensor", "the agent's id", ("/opt/CrowdStrike/falconstore",),
        "/opt/CrowdStrike/falconctl -d -f --aid",
        "CrowdStrike: golden images", renewed=False,
    ),
    Identity(
        "wazuh-agent", "the agent's key", ("/var/ossec/etc/client.keys",), "empty it: the agent enrols anew",
        "Wazuh: client.keys",
    ),
    Identity(
        "qualys-cloud-agent", "the host's id", ("/etc/qualys/hostid",), _REMOVE, "Qualys: golden images",
    ),
    Identity(
        "nessus-agent", "the agent's tag", ("/etc/tenable_tag",), _REMOVE, "Tenable: agents in images",
    ),
    Identity(
        "whoopsie", "the machine's id", ("/var/lib/whoopsie/whoopsie-id",), _REMOVE, "Ubuntu: whoopsie",
    ),
    # messages, databases, search
    Identity(
        "rabbitmq-server", "the Erlang cookie", ("/var/lib/rabbitmq/.erlang.cookie",),
        "stop rabbitmq-server, then remove it: the next start makes a new one", "RabbitMQ: clustering, Erlang cookie",
        stop="rabbitmq-server",
    ),
    Identity(
        "mysql", "the server's UUID", ("/var/lib/mysql/auto.cnf",), _REMOVE, "MySQL: server_uuid",
        mark="^server[-_]uuid",
    ),
    Identity(
        "mysql", "the server's own keys",
        tuple(f"/var/lib/mysql/{name}.pem" for name in (
            "ca", "ca-key", "server-cert", "server-key", "client-cert", "client-key", "private_key", "public_key")),
        "remove all of them: the next start makes new ones", "MySQL: auto_generate_certs",
    ),
    Identity(
        "elasticsearch", "the node's id",
        ("/var/lib/elasticsearch/_state/*", "/var/lib/elasticsearch/nodes/*/_state/*",
         "/var/lib/opensearch/nodes/*/_state/*"),
        "stop it and empty its data folder, or start it for the first time on the clone",
        "Elasticsearch: node.id in the data path", renewed=False,
    ),
    # clusters and containers
    Identity(
        "docker", "the engine's id", ("/etc/docker/key.json", "/var/lib/docker/engine-id"), _REMOVE,
        "moby: daemon/id.go",
    ),
    Identity(
        "docker", "the swarm node's key", ("/var/lib/docker/swarm/certificates/*.key",), "docker swarm leave --force",
        "Docker: swarm", renewed=False,
    ),
    Identity(
        "k3s", "the node's password", ("/etc/rancher/node/password",), _REMOVE, "K3s: node registration",
    ),
    Identity(
        "k3s", "the keys of a cluster or of its node",
        tuple(
            f"/var/lib/rancher/{name}/{path}"
            for name in ("k3s", "rke2")
            for path in ("server/token", "server/cred/*", "server/tls/*.key", "agent/*.key")
        ),
        "install it without a start (INSTALL_K3S_SKIP_START=true), or run k3s-killall.sh and remove its data folder",
        "K3s: installation options", renewed=False,
    ),
    Identity(
        "kubelet", "the keys of a cluster or of its node",
        ("/var/lib/kubelet/pki/*.pem", "/var/lib/kubelet/pki/*.key", "/etc/kubernetes/pki/*.key",
         "/etc/kubernetes/pki/etcd/*.key", "/var/snap/microk8s/current/certs/*.key"),
        "kubeadm reset --force (microk8s: reset), and join at the first boot", "Kubernetes: kubeadm reset",
        renewed=False,
    ),
    Identity(
        "calico", "the node's name", ("/var/lib/calico/nodename",), _REMOVE, "Calico: nodename file",
    ),
    Identity(
        "lxd", "the server's key",
        tuple(
            f"{folder}/server.{kind}"
            for folder in ("/var/lib/lxd", "/var/lib/incus", "/var/snap/lxd/common/lxd")
            for kind in ("key", "crt")
        ),
        "remove key and certificate: the next start makes new ones", "LXD: server certificate",
    ),
    Identity(
        "consul", "the node's id",
        ("/var/lib/consul/node-id", "/opt/consul/node-id", "/opt/consul/data/node-id", "/var/consul/node-id"),
        _REMOVE, "Consul: node_id",
    ),
    Identity(
        "nomad", "the client's id and secret",
        tuple(
            f"{folder}/client/{name}"
            for folder in ("/opt/nomad/data", "/opt/nomad", "/var/lib/nomad", "/var/nomad")
            for name in ("client-id", "secret-id")
        ),
        _REMOVE, "Nomad: client state",
    ),
    Identity(
        "gitlab-runner", "the system's id", ("/etc/gitlab-runner/.runner_system_id",), _REMOVE,
        "GitLab Runner: system_id",
    ),
    # networks
    Identity(
        "tailscale", "the node's key", ("/var/lib/tailscale/tailscaled.state",),
        "stop tailscaled, then remove it; each clone logs in at its first boot", "Tailscale: cloned machines",
        mark="\"[^\"]+\"", stop="tailscaled",
    ),
    Identity(
        "zerotier-one", "the node's address and key",
        ("/var/lib/zerotier-one/identity.secret", "/var/lib/zerotier-one/identity.public"), _REMOVE,
        "ZeroTier: identity", stop="zerotier-one",
    ),
    Identity(
        "netbird", "the peer's key", ("/etc/netbird/config.json", "/var/lib/netbird/*.json"),
        "remove it, and run `netbird up --setup-key` at the first boot", "NetBird: configuration",
        mark="\"PrivateKey\":[[:space:]]*\"[^\"]", renewed=False,
    ),
    Identity(
        "wireguard", "the private key",
        ("/etc/wireguard/*.conf", "/etc/systemd/network/*.netdev"),
        "remove the line, and set a key of its own on each clone (PostUp = wg set %i private-key FILE)", "wg(8)",
        mark="^[[:space:]]*PrivateKey[[:space:]]*=[[:space:]]*.", renewed=False,
    ),
    Identity(
        "wireguard", "the private key",
        ("/etc/wireguard/*.key", "/etc/wireguard/privatekey", "/etc/wireguard/*-private*"),
        "remove it, and make one on each clone (wg genkey)", "wg(8)", mark="^[A-Za-z0-9+/]{43}=", renewed=False,
    ),
    Identity(
        "wireguard", "the private key", ("/etc/NetworkManager/system-connections/*",),
        "remove the line, and set a key of its own on each clone", "nm-settings(5), wireguard.private-key",
        mark="^private-key[[:space:]]*=[[:space:]]*[A-Za-z0-9+/]{43}=", renewed=False,
    ),
    Identity(
        "ipsec", "the host's key", ("/etc/ipsec.d/private/*", "/etc/swanctl/private/*", "/etc/swanctl/rsa/*"),
        "remove it, and give each clone a key and certificate of its own", "strongSwan: swanctl directory",
        renewed=False,
    ),
    Identity(
        "ipsec", "a secret of the host", ("/etc/ipsec.secrets", "/etc/ipsec.d/*.secrets"),
        "remove the line, and give each clone a secret of its own", "ipsec.secrets(5)",
        mark="^[^#]*:[[:space:]]*(RSA|PSK|ECDSA|EAP|XAUTH|NTLM|P12)[[:space:]{]", renewed=False,
    ),
    Identity(
        "nebula", "the host's key", ("/etc/nebula/*.key",), "remove it, and give each clone a key of its own",
        "Nebula: nebula-cert", renewed=False,
    ),
    Identity(
        "cloudflared", "the tunnel's credentials", ("/etc/cloudflared/*.json", "/root/.cloudflared/*.json"),
        "remove it, and give each clone a tunnel of its own", "cloudflared: tunnel credentials", mark="TunnelSecret",
        renewed=False,
    ),
    Identity(
        "teleport", "the host's id", ("/var/lib/teleport/host_uuid",),
        "stop teleport and remove /var/lib/teleport; the clone joins with a token of its own",
        "Teleport: host_uuid", renewed=False,
    ),
    Identity(
        "NetworkManager", "the key of private addresses", ("/var/lib/NetworkManager/secret_key",), _REMOVE,
        "nm-settings(5), stable-id",
    ),
    Identity(
        "dhcp", "the client's id",
        ("/var/lib/dhcpcd/duid", "/var/lib/dhcpcd5/duid", "/etc/dhcpcd.duid", "/var/lib/wicked/duid.xml",
         "/var/lib/wicked/iaid.xml", "/var/lib/dhcpv6/dhcp6c_duid"),
        _REMOVE, "dhcpcd(8); wicked(8); RFC 8415 11",
    ),
    Identity(
        "tor", "the relay's keys", ("/var/lib/tor/keys/*",), _REMOVE, "Tor: DataDirectory/keys", stop="tor",
    ),
    Identity(
        "kerberos", "the host's keys in a domain", ("/etc/krb5.keytab",),
        "leave the domain (realm leave, adcli, ipa-client-install --uninstall); each clone joins at its first boot",
        "MIT Kerberos: keytab", renewed=False,
    ),
    Identity(
        "zfs", "the host id", ("/etc/hostid",), "remove it, and run zgenhostid at the first boot", "zgenhostid(8)",
        renewed=False,
    ),
    # certificates that packages make for one machine
    Identity(
        "ssl-cert", "the machine's own self-signed key (snakeoil)", (SNAKEOIL_KEY,),
        "do not only remove it, services would not start: remove key and certificate, and have a unit before "
        "sysinit.target run `make-ssl-cert generate-default-snakeoil`; goldsmith's generalize does both",
        "Debian: ssl-cert, make-ssl-cert(8)", renewed=False,
    ),
    Identity(
        "httpd", "the machine's own self-signed key", ("/etc/pki/tls/private/localhost.key",),
        "remove it and /etc/pki/tls/certs/localhost.crt: httpd-init.service makes new ones",
        "RHEL: httpd-init.service", mark="PRIVATE KEY",
    ),
    Identity(
        "cockpit", "the machine's own self-signed key",
        ("/etc/cockpit/ws-certs.d/0-self-signed.key", "/etc/cockpit/ws-certs.d/0-self-signed.cert"), _REMOVE,
        "cockpit-certificate-ensure(8)",
    ),
    Identity(
        "xrdp", "the server's key", ("/etc/xrdp/rsakeys.ini",), "run `xrdp-keygen xrdp auto` at the first boot",
        "xrdp-keygen(8)", mark="^pri_exp=", renewed=False,
    ),
    # mail
    Identity(
        "mail", "the name of the build machine", ("/etc/mailname",),
        "write a public domain, or localhost; or set it at the first boot", "Debian policy 11.6",
        mark=f"^(?!localhost){_PRIVATE_NAME}[[:space:]]*$", renewed=False,
    ),
    Identity(
        "postfix", "the name of the build machine", ("/etc/postfix/main.cf",),
        "postconf -X myhostname: the name then follows the host's", "postconf(5), myhostname",
        mark=rf"^myhostname[[:space:]]*=[[:space:]]*(?!localhost){_PRIVATE_NAME}[[:space:]]*$", renewed=False,
    ),
    Identity(
        "exim4", "the name of the build machine", ("/etc/exim4/update-exim4.conf.conf",),
        "write dc_other_hostnames=''", "update-exim4.conf(8)",
        mark=rf"^dc_other_hostnames='(?!localhost){_PRIVATE_NAME}'", renewed=False,
    ),
)  # fmt: skip


def has_line(text: str, pattern: str) -> bool:
    """Whether a line of the text fits a `mark`; '' fits every text."""
    expression = re.compile(pattern.replace("[:space:]", " \\t"))
    return not pattern or any(expression.search(line) for line in text.splitlines())
