#!/bin/bash
# Puts the images together from the root file system and the packages that
# build-images.sh laid into the work folder $1. Runs as root or under fakeroot:
# files change hands here, but nothing is mounted and nothing is run inside a root.
set -euo pipefail

work=$1
here=$(dirname "$(readlink -f "$0")")
root=$work/root
out=$work/out

# Modules that a virtual machine can use. Fewer of them make udev's cold start shorter.
boot_modules=(virtio_pci virtio_blk)
guest_modules=("${boot_modules[@]}" virtio_net virtio_console virtio_balloon virtio_rng virtio_scsi
    sd_mod sr_mod isofs qemu_fw_cfg button evdev i6300esb virtiofs 9p 9pnet_virtio)

# modules_for NAME...: the files of these modules and of what they need, in loading
# order; one that is built in or absent from this kernel has none.
modules_for() {
    local module
    for module in "$@"; do
        modprobe --dirname "$kernel_root" --set-version "$release" --show-depends "$module" 2>/dev/null || true
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'
}

# make_image NAME: the root as a disk image, without a loop device.
make_image() {
    [ -x "$root/sbin/init" ] || { echo "$1: the root file system has no init" >&2; exit 1; }
    # No lazy initialisation: the guest would do it while tests measure it.
    truncate -s 2G "$work/$1.raw"
    mke2fs -q -F -t ext4 -L root -m 0 -N 65536 -E lazy_itable_init=0,root_owner=0:0 \
        -d "$root" "$work/$1.raw"
    qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd "$work/$1.raw" "$out/$1.qcow2"
    rm "$work/$1.raw"
}

### The kernel and its initrd
kernel_root=$work/kernel
mkdir -p "$kernel_root" "$work/busybox"
for deb in "$work"/debs/kernel/linux-image-[0-9]*.deb; do dpkg-deb -x "$deb" "$kernel_root"; done
dpkg-deb -x "$work"/debs/kernel/busybox-static_*.deb "$work/busybox"
release=$(basename "$kernel_root"/lib/modules/*)
depmod --basedir "$kernel_root" "$release"
install -m 644 "$kernel_root/boot/vmlinuz-$release" "$out/vmlinuz"

initrd=$work/initrd
mkdir -p "$initrd"/{bin,dev,proc,new,modules}
install -m 755 "$work/busybox/bin/busybox" "$initrd/bin/busybox"
install -m 755 "$here/initrd-init" "$initrd/init"
modules_for "${boot_modules[@]}" | while read -r file; do
    install -m 644 "$file" "$initrd/modules/"
    basename "$file"
done >"$initrd/modules/order"
(cd "$initrd" && find . | LC_ALL=C sort | bsdcpio -o -H newc --quiet) | gzip -1 >"$out/initrd.img"

# prepare: what all roots have in common.
prepare() {
    modules_for "${guest_modules[@]}" | while read -r file; do
        install -D -m 644 "$file" "$root/usr/lib/modules/${file#*/lib/modules/}"
    done
    cp "$kernel_root/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$root/usr/lib/modules/$release/"
    depmod --basedir "$root/usr" "$release" 2>/dev/null || depmod --basedir "$root" "$release"

    cp -r --no-preserve=ownership "$here/root/." "$root/"
    # Each machine makes its own identity: farmhand tells machines apart by it.
    rm -f "$root"/etc/ssh/ssh_host_*
    : >"$root/etc/machine-id"
    rm -f "$root/var/lib/dbus/machine-id"
    echo debian >"$root/etc/hostname"
    printf '127.0.0.1 localhost debian arch\n' >"$root/etc/hosts"
    ln -sf /run/resolv.conf "$root/etc/resolv.conf"

    # What a test machine does not need: everything here costs an emulated boot a part of a second.
    local units=$root/etc/systemd/system
    local unit generator mask=(
        # maintenance
        apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
        fstrim.timer systemd-tmpfiles-clean.timer systemd-firstboot.service systemd-sysusers.service
        systemd-update-done.service systemd-hwdb-update.service systemd-journal-catalog-update.service
        systemd-journal-flush.service systemd-pstore.service
        # consoles
        getty.target serial-getty@ttyS0.service console-getty.service
        systemd-ask-password-console.path systemd-ask-password-wall.path systemd-initctl.socket
        systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-user-sessions.service
        # devices and file systems
        dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount
        sys-fs-fuse-connections.mount sys-kernel-config.mount proc-sys-fs-binfmt_misc.automount
        cryptsetup.target integritysetup.target veritysetup.target remote-fs.target
        kmod-static-nodes.service systemd-modules-load.service modprobe@configfs.service
        modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service
        modprobe@loop.service
        # network
        systemd-networkd-wait-online.service systemd-network-generator.service
    )
    for unit in "${mask[@]}"; do ln -sf /dev/null "$units/$unit"; done
    mkdir -p "$root/etc/systemd/system-generators"
    for generator in cryptsetup getty gpt-auto hibernate-resume integritysetup rc-local run system-update sysv veritysetup; do
        ln -s /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
    done
    mkdir -p "$units/systemd-networkd.service.wants"
    ln -s ../resolv-conf.service "$units/systemd-networkd.service.wants/"
    # Without systemd-user-sessions nothing would take this barrier to logins away again.
    ln -s /dev/null "$root/etc/tmpfiles.d/systemd-nologin.conf"
    # The message of the day runs a script at every login.
    sed -i '/pam_motd/d' "$root/etc/pam.d/sshd" "$root/etc/pam.d/login"
}

### Debian with cloud-init
mkdir "$root"
tar -C "$root" -xpf "$work/root.tar" --numeric-owner --exclude=./debs --exclude='./dev/*'
prepare
# cloud-init brings the host keys, and says who may log in and how.
rm "$root/etc/systemd/system/ssh-host-key.service"
sed -i '/ssh-host-key/d' "$root/etc/systemd/system/ssh.service"
sed -i '/^\(PasswordAuthentication\|PermitRootLogin\) /d' "$root/etc/ssh/sshd_config.d/testbed.conf"
# The root holds no locales, so that none can be made.
echo 'locale: false' >"$root/etc/cloud/cloud.cfg.d/90_testbed.cfg"
make_image Debian-cloud
rm -rf "$root"

### Debian
mkdir "$root"
tar -C "$root" -xpf "$work/debs/debian.tar" --numeric-owner
prepare
make_image debian_vs

### The stand-in for Arch Linux: the same root under another name
# Not by dpkg-deb -x: it would put directories in the place of the links /lib and /bin.
for deb in "$work"/debs/arch/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -C "$root" -xp --numeric-owner --keep-directory-symlink
done
rm -f "$root/usr/lib/os-release" "$root/etc/os-release" "$root/etc/debian_version"
install -m 644 "$here/arch-os-release" "$root/usr/lib/os-release"
ln -s ../usr/lib/os-release "$root/etc/os-release"
echo arch >"$root/etc/hostname"
# Whoever looks for apt to tell the system by must not find it.
mkdir -p "$root/usr/lib/debian"
mv "$root"/usr/bin/{apt,apt-*,dpkg,dpkg-*} "$root/usr/lib/debian/"
rm -rf "$root"/srv/apt "$root"/etc/apt "$root"/var/lib/apt "$root"/var/cache/apt "$root"/etc/cron*/*
install -m 644 "$here/pacman.conf" "$root/etc/pacman.conf"
mkdir -p "$root/srv/pacman" "$root/var/lib/pacman" "$root/var/cache/pacman/pkg"
cp -r --no-preserve=ownership "$work/core" "$root/srv/pacman/core"
pacman --noconfirm --noscriptlet --root "$root" --config "$root/etc/pacman.conf" \
    --cachedir "$work" --hookdir "$work/no-hooks" --logfile "$work/pacman.log" \
    -U "$work"/old/*.pkg.tar.zst >"$work/pacman.out" 2>&1 || {
    cat "$work/pacman.out" >&2
    exit 1
}

# Key login only, and root by sudo, as on Arch Linux's own cloud image.
sed -i -E 's/^(root|tester):[^:]*:/\1:*:/' "$root/etc/shadow"
install -m 440 /dev/stdin "$root/etc/sudoers.d/tester" <<<'tester ALL=(ALL:ALL) NOPASSWD: ALL'

make_image Arch-Linux
