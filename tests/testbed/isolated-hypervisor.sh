#!/bin/bash
# A second hypervisor on this host that shares nothing with it but the kernel: libvirt with files, sockets and networks of
# its own, in a mount and a network namespace.
#   isolated-hypervisor.sh start FOLDER   starts it and prints its connection URI
#   isolated-hypervisor.sh enter FOLDER COMMAND...   runs a command where it is
#   isolated-hypervisor.sh stop FOLDER    ends it with all its machines
# Nothing leads there but SSH, by way of a ProxyCommand: FOLDER/ssh is a client that knows the host `hypervisor`.
# For root, or a user of sudo.
set -euo pipefail

usage() {
    sed -n '2,/^set/{s/^# \?//;/^set/d;p}' "$0" >&2
    exit 2
}
[ $# -ge 2 ] || usage
self=$(readlink -f "$0")
action=$1
folder=$2
shift 2
if [ "$(id -u)" != 0 ]; then
    exec sudo --preserve-env -- "$self" "$action" "$(readlink -f "$folder")" "$@"
fi

# The pid of what keeps the namespaces.
holder() { cat "$folder/holder.pid"; }

inside() {
    local holder
    holder=$(holder)
    nsenter --target "$holder" --mount --net --wdns="$PWD" -- "$@"
}

case $action in
start)
    mkdir -p "$folder"
    folder=$(readlink -f "$folder")
    mkdir -p "$folder"/{run,lib,log,cache,etc}
    # QEMU has a user of its own.
    chmod 755 "$folder" "$folder"/{run,lib,log,cache,etc}
    cp -a /etc/libvirt/. "$folder/etc/"
    rm -rf "$folder"/etc/qemu/{*.xml,networks,autostart} "$folder"/etc/storage
    ssh-keygen -q -t ed25519 -N '' -f "$folder/host_key" <<<y >/dev/null
    ssh-keygen -q -t ed25519 -N '' -f "$folder/user_key" <<<y >/dev/null
    printf 'hypervisor %s\n' "$(cut -d' ' -f1,2 "$folder/host_key.pub")" >"$folder/known_hosts"
    cat >"$folder/sshd_config" <<END
HostKey $folder/host_key
AuthorizedKeysFile $folder/user_key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
MaxSessions 100
END
    cat >"$folder/ssh_config" <<END
Host hypervisor
    User root
    HostKeyAlias hypervisor
    UserKnownHostsFile $folder/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    IdentityFile $folder/user_key
    IdentitiesOnly yes
    ProxyCommand $self enter $folder /usr/sbin/sshd -i -f $folder/sshd_config
END
    printf '#!/bin/sh\nexec ssh -F %s "$@"\n' "$folder/ssh_config" >"$folder/ssh"
    chmod 755 "$folder/ssh"
    mkdir -p /run/sshd /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
    # tini reaps the QEMU processes that libvirt kills and waits for; see start-libvirt.sh.
    setsid unshare --mount --net -- tini -s -- "$self" namespace "$folder" \
        >"$folder/log/daemon.log" 2>&1 </dev/null &
    echo $! >"$folder/holder.pid"
    # Before its own sockets are where the host's are, a question would be answered by the host.
    until [ -S "$folder/run/libvirt-sock" ] &&
        inside timeout 5 virsh -q -c qemu:///system version >/dev/null 2>"$folder/log/virsh.log"; do
        if [ "$SECONDS" -ge 30 ]; then
            echo "$0: libvirt does not answer: $(cat "$folder/log/virsh.log" 2>/dev/null)" >&2
            tail -n 20 "$folder/log/daemon.log" >&2
            exit 1
        fi
        sleep 0.1
    done
    echo "qemu+ssh://hypervisor/system?command=$folder/ssh"
    ;;
namespace)
    # Started by `start`, in the new namespaces.
    mount --make-rprivate /
    mount --bind "$folder/run" /run/libvirt
    mount --bind "$folder/lib" /var/lib/libvirt
    mount --bind "$folder/log" /var/log/libvirt
    mount --bind "$folder/cache" /var/cache/libvirt
    mount --bind "$folder/etc" /etc/libvirt
    mkdir -p /var/lib/libvirt/{qemu,images,dnsmasq,network,boot}
    ip link set lo up
    # passt wants a way to somewhere, even if it leads nowhere (203.0.113.0/24 is for documentation, RFC 5737).
    ip link add uplink type veth peer name nowhere
    ip link set nowhere up
    ip address add 203.0.113.2/24 dev uplink
    ip link set uplink up
    ip route add default via 203.0.113.1
    virtlogd -d --pid-file /run/libvirt/virtlogd.pid
    exec libvirtd --pid-file /run/libvirt/libvirtd.pid
    ;;
enter)
    inside "$@"
    ;;
stop)
    [ -f "$folder/holder.pid" ] || exit 0
    # What lives in its network namespace is its daemons, its machines and what they started.
    namespace=$(readlink "/proc/$(holder)/ns/net" || true)
    if [ -n "$namespace" ] && [ "$namespace" != "$(readlink /proc/self/ns/net)" ]; then
        for process in /proc/[0-9]*; do
            if [ "$(readlink "$process/ns/net")" = "$namespace" ]; then
                kill -KILL "${process#/proc/}" 2>/dev/null || true
            fi
        done
    fi
    rm -f "$folder/holder.pid"
    ;;
*) usage ;;
esac
