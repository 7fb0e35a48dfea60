#!/bin/sh
# What a patch of golden runs unless its definition says otherwise: the distribution's updates, and nothing else.
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a
if ! command -v apt-get >/dev/null; then
    echo "no apt-get here: name the steps of a patch in the definition, refresh: {mode: patch, steps: [...]}" >&2
    exit 1
fi
apt-get -q update
apt-get -q -y -o Dpkg::Options::=--force-confold dist-upgrade
apt-get -q -y --purge autoremove
