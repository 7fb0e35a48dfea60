#!/bin/sh
# Upgrades all packages of a clone, as its administrator would, without a question. Runs as root, over ssh.
# An exit code of its own for each way to fail; pipeline/systems/linux/full_upgrade.py knows them.
{
export LC_ALL=C DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a
command -v apt-get >/dev/null || { echo "no apt-get here"; exit 81; }
# a first boot may start them at any moment, and they hold apt's locks
systemctl stop apt-daily.timer apt-daily-upgrade.timer 2>/dev/null
tries=0
# by default apt-get ends well although an archive did not answer
until output=$(apt-get -q update -o APT::Update::Error-Mode=any 2>&1); do
  printf '%s\n' "$output"
  case $output in *"Could not get lock"*) tries=$((tries + 1)) ;; *) exit 83 ;; esac
  [ "$tries" -lt 60 ] || exit 83
  sleep 5
done
printf '%s\n' "$output"
# apt shows only the lists that it has
[ -n "$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages')" ] || exit 82
apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
  dist-upgrade || exit 84
exit 0
} </dev/null 2>&1
