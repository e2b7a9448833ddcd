#!/bin/bash
# Stops the libvirt daemon that start-libvirt.sh started, and no other. Virtual
# machines go on running; the next daemon finds them again.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
# shellcheck source=common.sh
. "$here/common.sh"

# stop NAME COMMAND: ends the process noted under that name if it still is that command
# (process numbers are used again).
stop() {
    local pid file=$run/$1.pid
    [ -f "$file" ] || return 0
    pid=$(cat "$file")
    if [[ "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" == $2* ]]; then
        kill "$pid"
        for _ in {1..100}; do
            [ -d "/proc/$pid" ] || break
            sleep 0.1
        done
    fi
    rm "$file"
}

machines=$(LIBVIRT_AUTOSTART=0 timeout 10 virsh -q -c "$uri" list --name 2>/dev/null || true)
stop daemon 'tini -s -- '
# It writes the consoles of running machines, which would stall without it.
if [ -z "$machines" ]; then stop virtlogd 'virtlogd '; fi
