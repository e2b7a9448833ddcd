#!/bin/bash
# Installs what building farmhand and running its tests on real machines need:
#   install-packages.sh [--dry-run]
# For Debian 12 and 13 and Ubuntu 24.04, as root or as a user of sudo. Says in one
# line what it is about to install; is silent when nothing is missing.
set -euo pipefail

dry_run=no
case ${1:-} in
    '') ;;
    --dry-run) dry_run=yes ;;
    *)
        echo "usage: $0 [--dry-run]" >&2
        exit 2
        ;;
esac
repo=$(readlink -f "$(dirname "$0")/../..")

# shellcheck source=/dev/null
. /etc/os-release
case $ID in
    debian | ubuntu) ;;
    *)
        echo "$0: knows the packages of Debian and Ubuntu only, not of $ID" >&2
        exit 1
        ;;
esac

# These must come from one suite: QEMU's parts depend on each other's exact version.
virtualization=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients libvirt-dev
    qemu-system-x86 qemu-utils)
others=(passt dnsmasq-base ovmf tini openssh-client openssh-server sudo busybox procps passwd qemu-guest-agent
    # a Rust build with C libraries
    gcc g++ make pkg-config curl git ca-certificates
    # the images
    mmdebstrap debian-archive-keyring dpkg-dev uidmap fakeroot kmod e2fsprogs xz-utils zstd
    libarchive-tools pacman-package-manager makepkg)

# missing NAME...: those of the packages that are not installed.
missing() {
    comm -23 <(printf '%s\n' "$@" | sort) \
        <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' | sort -u)
}
mapfile -t virtualization < <(missing "${virtualization[@]}")
mapfile -t others < <(missing "${others[@]}")

PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
toolchain=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$repo/rust-toolchain.toml")
rust=
if ! command -v cargo >/dev/null; then
    if [ "$VERSION_CODENAME" = bookworm ]; then
        rust="rustup (from https://sh.rustup.rs, Debian 12 does not package it)"
    else
        rust=rustup
        others+=(rustup)
    fi
elif command -v rustup >/dev/null; then
    installed=$(rustup toolchain list)
    read -ra targets < <(sed -n 's/^targets *= *\[\(.*\)\]/\1/p' "$repo/rust-toolchain.toml" | tr -d '",')
    case $'\n'$installed in
        *$'\n'"$toolchain"-*)
            has=$(rustup +"$toolchain" target list --installed)
            for target in "${targets[@]}"; do
                grep -qx "$target" <<<"$has" || rust="Rust for ${targets[*]}"
            done
            ;;
        *) rust="Rust $toolchain" ;;
    esac
fi

backports=()
sources=/etc/apt/sources.list.d/bookworm-backports.sources
add_sources=no
if [ ${#virtualization[@]} -gt 0 ] && [ "$VERSION_CODENAME" = bookworm ] &&
    dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null | grep -q '~bpo12'; then
    backports=(-t bookworm-backports)
    apt-cache policy | grep -q 'n=bookworm-backports' || add_sources=yes
fi

packages=("${virtualization[@]}" "${others[@]}")
if [ ${#packages[@]} -eq 0 ] && [ -z "$rust" ]; then exit; fi
plan=("${virtualization[@]}")
if [ ${#virtualization[@]} -gt 0 ] && [ ${#backports[@]} -gt 0 ]; then
    plan+=("(from bookworm-backports, as the installed qemu-utils is)")
    if [ $add_sources = yes ]; then plan+=("($sources added)"); fi
fi
plan+=("${others[@]}")
case $rust in '' | rustup) ;; *) plan+=("$rust") ;; esac
echo "installing: ${plan[*]}"
if [ $dry_run = yes ]; then exit; fi

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 "$@"
}

if [ $add_sources = yes ]; then
    "${as_root[@]}" tee "$sources" >/dev/null <<'EOF'
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
fi
if [ ${#packages[@]} -gt 0 ]; then apt_get update; fi
if [ ${#virtualization[@]} -gt 0 ]; then
    apt_get install --no-install-recommends "${backports[@]}" "${virtualization[@]}"
fi

# The tests start an sshd of their own on the loopback; the machine's must not start
# to serve the network because of them.
guard=/usr/sbin/policy-rc.d
case " ${others[*]} " in
    *" openssh-server "*)
        if [ ! -e $guard ]; then
            "${as_root[@]}" install -m 755 /dev/stdin $guard <<<$'#!/bin/sh\nexit 101'
            # shellcheck disable=SC2064 # the path is wanted as it is now
            trap "${as_root[*]} rm -f $guard" EXIT
        fi
        apt_get install --no-install-recommends openssh-server
        if [ -d /run/systemd/system ]; then
            "${as_root[@]}" systemctl disable --quiet --now ssh.service ssh.socket 2>/dev/null || true
        fi
        if [ -n "$(trap -p EXIT)" ]; then
            "${as_root[@]}" rm -f $guard
            trap - EXIT
        fi
        ;;
esac
if [ ${#others[@]} -gt 0 ]; then apt_get install --no-install-recommends "${others[@]}"; fi

if [ -n "$rust" ]; then
    if ! command -v rustup >/dev/null; then
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --quiet --profile minimal --default-toolchain none
    fi
    case $rust in
        *" for "*) rustup target add --toolchain "$toolchain" "${targets[@]}" ;;
        # Reads rust-toolchain.toml and fetches what it names; before rustup 1.28 any command of a toolchain did.
        *) (cd "$repo" && { rustup toolchain install || cargo --version; } >/dev/null) ;;
    esac
fi
