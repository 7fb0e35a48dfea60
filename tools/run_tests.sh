#!/bin/bash
# Runs lint, type checks and all tests, and prints at the end how long each part took and how busy the processors were.
#
# The ratio of a part is its time divided by the least time that its processor time allows on all processors: at 1.0 no
# processor was ever idle. Processor time is the whole host's (/proc/stat), so other load on the host lowers the ratio.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Without bytecode each command and each reader of a disk, thousands in all, would compile every module anew.
unset PYTHONDONTWRITEBYTECODE

TICKS=$(getconf CLK_TCK)
PROCESSORS=$(nproc)
table=()

# "seconds busy stolen": the clock, and the seconds in which processors worked for this host or for another one.
read_clock() {
    local _ user nice system idle iowait irq softirq steal rest
    read -r _ user nice system idle iowait irq softirq steal rest </proc/stat
    awk -v now="$(</proc/uptime)" -v busy=$((user + nice + system + irq + softirq)) -v stolen="$steal" -v ticks="$TICKS" \
        'BEGIN { split(now, uptime); printf "%.2f %.2f %.2f\n", uptime[1], busy / ticks, stolen / ticks }'
}

# Run a part of the tests and note what it took, also where it failed.
run_part() {
    local name=$1 code=0 before after
    shift
    before=$(read_clock)
    "$@" || code=$?
    after=$(read_clock)
    table+=("$(awk -v name="$name" -v before="$before" -v after="$after" -v processors="$PROCESSORS" 'BEGIN {
        split(before, b); split(after, a)
        wall = a[1] - b[1]; busy = a[2] - b[2]
        printf "%-10s %8.0f %10.0f %8.0f %8.2f", name, wall, busy, a[3] - b[3], busy ? wall * processors / busy : 0
    }')")
    return "$code"
}

print_table() {
    [ ${#table[@]} != 0 ] || return 0
    printf '%-10s %8s %10s %8s %8s\n' part seconds processor stolen ratio
    printf '%s\n' "${table[@]}"
    printf '%s\n' "${table[@]}" | awk -v processors="$PROCESSORS" '
        { wall += $2; if ($1 == "set-up") setup = $2; else busy += $3 }
        END { printf "whole: %d s, of them set-up %d s; tests %.2f times (processor seconds / %d)\n",
            wall, setup, busy ? (wall - setup) * processors / busy : 0, processors }'
}
trap print_table EXIT

run_part set-up tools/setup.sh tests
run_part unit make --no-print-directory --jobs 2 check quick
run_part guests make --no-print-directory guests
