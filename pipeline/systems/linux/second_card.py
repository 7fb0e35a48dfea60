"""The second card of accelerated networking: Azure plugs a virtual function with the MAC of eth0 into a running VM.

It must stay without an address of its own: if a network manager configures it, eth0 loses its lease. QEMU has no card
with a driver of Azure's virtual functions. So a card with another driver stands in, and the clone's own configuration
is made to name that driver wherever it names one of the virtual functions'. The master's rules are what is tested;
hv_netvsc, which takes the virtual function over, is not.
"""

from __future__ import annotations

from pipeline.base import process
from pipeline.base.printable import shorten
from pipeline.prove.result import CloneResult
from pipeline.systems.linux.clone import Clone

#: The card that stands in, by libvirt's name and by its driver's; the clone's own card has another driver.
STAND_IN = "e1000"
#: The driver of the clone's own card.
FIRST = "virtio_net"
#: What the configuration calls a virtual function: the driver that most sizes have.
VIRTUAL_FUNCTION = "mlx5_core"
#: Seconds in which a new card is found and would have got its lease; the fabric answers at once. By KVM: True.
SETTLE = {True: 8, False: 20}
#: What the clone has printed, in its folder.
LOG = "second-card.log"
#: What the check is called in results.
CHECK = "second card"

#: Runs as root in the clone, before the card is plugged.
_PREPARE = r"""
for folder in /etc /run /usr/lib /lib; do
  for what in systemd/network udev/rules.d udev/hwdb.d NetworkManager; do
    [ -d "$folder/$what" ] && grep -rlw VIRTUAL_FUNCTION "$folder/$what"
  done
done 2>/dev/null | sort -u | while read -r file; do
  # azure-vm-utils asks for IFF_SLAVE besides, which hv_netvsc sets on its virtual function, and nobody here
  sed -i -e '/\bVIRTUAL_FUNCTION\b/s/ATTR{flags}=="[^"]*", *//' -e 's/\bVIRTUAL_FUNCTION\b/STAND_IN/g' "$file"
done
# on Azure cloud-init writes the driver of eth0 there, hv_netvsc; here it goes by the MAC alone, and fits both cards
for folder in /etc /run /usr/lib /lib; do
  for link in "$folder"/systemd/network/*.link; do
    grep -qs '^\(Permanent\)\?MACAddress=' "$link" || continue
    grep -q '^Driver=' "$link" || sed -i 's/^\[Match\]$/&\nDriver=FIRST/' "$link"
  done
done
# netplan before 1.0 has a udev rule for the name besides; udev would fail to give eth0's name to a second card too,
# and no manager looks at a card that udev has failed with
for rules in /etc/udev/rules.d/*.rules /run/udev/rules.d/*.rules; do
  grep -qs 'ATTR{address}==.*NAME=' "$rules" && sed -i '/ATTR{address}==/s/DRIVERS=="?\*"/DRIVERS=="FIRST"/' "$rules"
done
udevadm control --reload
command -v networkctl >/dev/null && networkctl reload 2>/dev/null
command -v nmcli >/dev/null && nmcli general reload 2>/dev/null
exit 0
"""

#: Runs as root in the clone, after the card was plugged: it waits as long as a lease would take, and ends sooner when
#: the card has got an address. IPv6's link-local address is the kernel's own and of no account.
_LOOK = r"""
seen= address=
for _ in $(seq SETTLE); do
  for card in /sys/class/net/*; do
    driver=$(basename "$(readlink -f "$card/device/driver")")
    [ "$driver" = STAND_IN ] || continue
    seen=${card##*/}
    address=$(ip -o addr show dev "$seen" scope global | awk '{print $4}' | tr '\n' ' ')
  done
  [ -n "$address" ] && break
  sleep 1
done
echo "card=$seen"
echo "address=$address"
echo "first=$(ip -o -4 addr show scope global | awk -v second="$seen" '$2 != second {print $4}' | tr '\n' ' ')"
echo "mac=$(cat "/sys/class/net/$seen/address" 2>/dev/null)"
echo "state=$(networkctl list --no-legend "$seen" 2>/dev/null | awk '{print $5}')"
ip addr
networkctl status --no-pager --lines=30 "$seen" 2>&1
"""


def add_second_card(clone: Clone, result: CloneResult) -> None:
    """Plug a card with the MAC of the clone's own into the running clone, and judge who has an address then.

    Raises BuildError where libvirt refuses the card.
    """
    settle = SETTLE[clone.spec.kvm]
    _run(clone, prepare_script(settle), settle)
    clone.machine.plug_card(STAND_IN)
    try:
        output = _run(clone, _filled(_LOOK, settle), settle)
    except (process.CommandFailed, process.CommandTimeout) as error:
        why = shorten(getattr(error, "stderr", "").strip()) or "no answer"
        result.see(CHECK, f"the clone cannot be reached after the card was plugged: {why}", False)
        return
    (clone.logs / LOG).write_text(output)
    judge_second_card(result, output, clone.spec.access_mac)


def judge_second_card(result: CloneResult, output: str, mac: str) -> None:
    """Judge what the clone has printed: `card`, `address`, `first`, `mac` and networkd's `state`, a line each."""
    seen = {name: value.strip() for name, _, value in (line.partition("=") for line in output.splitlines())}
    card, address, first = seen.get("card", ""), seen.get("address", ""), seen.get("first", "")
    if not card:
        result.see(CHECK, "the clone's kernel does not see the card", False)
    elif seen.get("mac", "").lower() != mac.lower():
        result.see(CHECK, f"{card} has the MAC {seen.get('mac')}, not {mac}", False)
    elif address:
        result.see(CHECK, f"{card} got an address of its own: {address}", False)
    elif not first:
        result.see(CHECK, f"no other card has an address since {card} was plugged", False)
    elif seen.get("state") == "pending":
        result.see(CHECK, f"systemd-networkd has not decided about {card}: it waits for udev", False)
    else:
        result.see(CHECK, f"{card} has no address; {first} stays", True)


def prepare_script(settle: int) -> str:
    """What runs in the clone before the card is plugged."""
    return _filled(_PREPARE, settle).replace("FIRST", FIRST)


def _filled(script: str, settle: int) -> str:
    for name, value in (("VIRTUAL_FUNCTION", VIRTUAL_FUNCTION), ("STAND_IN", STAND_IN), ("SETTLE", str(settle))):
        script = script.replace(name, value)
    return script


def _run(clone: Clone, script: str, settle: int) -> str:
    # each look starts programs that take an emulated processor longer than a second
    return clone.steps.ssh("sudo -n sh -s", stdin=script, deadline=4 * settle + clone.timeouts.command).stdout
