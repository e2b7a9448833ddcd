#!/bin/sh
# mmdebstrap customize hook: what needs the root file system to be alive (a chroot
# and apt's index), before it becomes a tar. $1 is the root directory.
set -eu
root=$1

chroot "$root" useradd --create-home --shell /bin/bash tester
printf 'tester:tester\nroot:toor\n' | chroot "$root" chpasswd
chroot "$root" systemctl -q enable systemd-networkd.service

# Packages that are not installed here but used to put the images together: those of the
# stand-in for Arch Linux, the kernel, and the shell of the initrd. They leave in the tar.
fetch() {
    into=$1
    shift
    mkdir -p "$root/debs/$into/partial"
    APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq -y --no-install-recommends --download-only \
        -o Dir::Cache::archives="$root/debs/$into" install "$@"
}
fetch arch pacman-package-manager sudo
fetch repack wget curl tree
fetch kernel linux-image-cloud-amd64 busybox-static
fetch cloud cloud-init sudo

# What the tests install lies in the image too: they need neither the mirror nor a name server.
# This source comes first, so that apt takes a package from here that the mirror also has.
install -d "$root/srv/apt"
cp "$root"/debs/repack/*.deb "$root/srv/apt/"
(cd "$root/srv/apt" && dpkg-scanpackages . 2>/dev/null >Packages)
sed -i '1i deb [trusted=yes] file:/srv/apt ./' "$root/etc/apt/sources.list"
printf 'deb [trusted=yes] file:/srv/apt ./\n' >"$root/tmp/only.list"
chroot "$root" apt-get -qq update -o Dir::Etc::sourcelist=/tmp/only.list -o Dir::Etc::sourceparts=- \
    -o APT::Get::List-Cleanup=0
rm "$root/tmp/only.list"

# A guest under emulation needs many seconds to build this cache from the index.
chroot "$root" apt-cache -q gencaches >/dev/null

# So far this is the Debian that the other images are made from. The rest makes it like a distribution's image for clouds:
# nobody can log in until cloud-init has made the users that its seed names.
tar -C "$root" --numeric-owner --exclude=./debs --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
    -cf "$root/debs/debian.tar" .
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o Dir::Cache::archives="$root/debs/cloud" -o DPkg::Chroot-Directory="$root" \
    install cloud-init sudo >"$root/debs/cloud.log" 2>&1 || {
    cat "$root/debs/cloud.log" >&2
    exit 1
}
chroot "$root" userdel --remove tester 2>/dev/null
chroot "$root" passwd --quiet --lock root
