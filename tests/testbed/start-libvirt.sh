#!/bin/bash
# Makes sure that a libvirt answers, and prints what a shell needs to use it:
#   eval "$(tests/testbed/start-libvirt.sh)"
# Root gets qemu:///system, anybody else a qemu:///session of his own.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
# shellcheck source=common.sh
. "$here/common.sh"

# Without this a mere question would make libvirt's client start a daemon, and one
# outside tini: see below.
answers() { LIBVIRT_AUTOSTART=$1 timeout 10 virsh -q -c "$uri" version >/dev/null 2>"$run/virsh.log"; }

install -d -m 700 "$run"
log=$run/daemon.log
# Two starts at once must not make two daemons.
exec 9>"$run/lock"
flock 9

autostart=0
if [ -d /run/systemd/system ]; then
    # systemd reaps what dies, so its daemons and those it is asked for will do.
    if [ "$(id -u)" = 0 ]; then
        unit=virtqemud.socket
        if systemctl cat libvirtd.service >/dev/null 2>&1; then unit=libvirtd.service; fi
        systemctl start virtlogd.socket "$unit"
        log="journalctl -u $unit"
    else
        autostart=1
    fi
elif ! answers 0; then
    daemon=libvirtd
    command -v libvirtd >/dev/null || daemon=virtqemud
    if [ "$(id -u)" = 0 ]; then
        mkdir -p /run/libvirt
        # It declines when one is running: then that one is not ours to stop.
        if virtlogd -d 9>&- 2>/dev/null; then cp /run/virtlogd.pid "$run/virtlogd.pid"; fi
    fi
    # libvirt waits until the QEMU that it killed is reaped, and PID 1 may take seconds
    # for that where it is not an init system. tini -s reaps at once.
    setsid tini -s -- "$daemon" >"$log" 2>&1 9>&- </dev/null &
    echo $! >"$run/daemon.pid"
fi

until answers "$autostart"; do
    if [ "$SECONDS" -ge 30 ]; then
        echo "$0: $uri does not answer: $(cat "$run/virsh.log")" >&2
        if [ -f "$log" ]; then tail -n 20 "$log" >&2; else echo "see: $log" >&2; fi
        exit 1
    fi
    sleep 0.1
done

echo "export LIBVIRT_DEFAULT_URI=$uri"
[ "$(id -u)" = 0 ] || echo "export XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR"
