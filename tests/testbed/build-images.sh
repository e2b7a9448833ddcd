#!/bin/bash
# Builds the disk images that the tests on real machines boot:
#   build-images.sh [--force] [OUTDIR]      (default OUTDIR: target/testbed)
# As root or as an ordinary user (then with user namespaces). Does nothing when the
# images are those that these scripts would build; --force builds anyway, which brings
# in what the mirror has got since.
set -euo pipefail

suite=bookworm
mirror=${TESTBED_MIRROR:-http://deb.debian.org/debian}
security=${TESTBED_SECURITY_MIRROR:-http://deb.debian.org/debian-security}

here=$(dirname "$(readlink -f "$0")")
force=no
if [ "${1:-}" = --force ]; then
    force=yes
    shift
fi
out=${1:-$here/../../target/testbed}
mkdir -p "$out"
out=$(readlink -f "$out")
files=(debian_vs.qcow2 Arch-Linux.qcow2 Debian-cloud.qcow2 vmlinuz initrd.img)

# Two builds at once would only be slow; the second one waits and finds the work done.
exec 9>"$out/.lock"
flock 9

stamp=$(
    cd "$here"
    {
        printf '%s\n' "$suite" "$mirror" "$security"
        find build-images.sh images -type f -printf '%m %p\n' | LC_ALL=C sort
        find build-images.sh images -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum
)
current() {
    local file
    [ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ] || return 1
    for file in "${files[@]}" SHA256SUMS; do [ -s "$out/$file" ] || return 1; done
}
if [ $force = no ] && current; then
    echo "images in $out are up to date"
    exit
fi

# Other users than ours work in here (namespaces, makepkg), so it cannot lie in a home.
work=$(mktemp -d "${TMPDIR:-/var/tmp}/farmhand-testbed.XXXXXX")
finish() {
    rm -rf "$work" "$out"/.new.*
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
chmod 755 "$work"
mkdir "$work/out"
say() { printf '%4ds  %s\n' "$SECONDS" "$*"; }

say "Debian root file system ($suite, from $mirror)"
mmdebstrap --quiet --mode=auto --variant=minbase --format=tar \
    --include=systemd-sysv,udev,dbus,kmod,openssh-server,qemu-guest-agent \
    --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --skip=cleanup/apt --customize-hook="$here/images/customize.sh" \
    "$suite" "$work/root.tar" \
    "deb $mirror $suite main" "deb $security $suite-security main"
tar -C "$work" -xf "$work/root.tar" --no-same-owner --no-same-permissions ./debs

say "pacman packages"
# makepkg refuses to run as root.
as_builder=()
if [ "$(id -u)" = 0 ]; then
    as_builder=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
# package DIR: builds the package whose PKGBUILD, read from stdin, and sources lie in DIR.
package() {
    cat >"$1/PKGBUILD"
    chmod 777 "$1"
    (
        cd "$1"
        "${as_builder[@]}" env HOME="$1" PKGEXT=.pkg.tar.zst PACKAGER='farmhand tests <tests@localhost>' \
            PKGDEST="$1" SRCDEST="$1" SRCPKGDEST="$1" LOGDEST="$1" BUILDDIR="$1" CARCH=x86_64 \
            makepkg --nodeps --noprogressbar >"$1/log" 2>&1
    ) || {
        cat "$1/log" >&2
        exit 1
    }
}
# repack NAME: a package with the files of the Debian package of that name.
repack() {
    local name=$1 dir=$work/pkg-$1 deb version
    deb=$(echo "$work"/debs/repack/"$name"_*.deb)
    version=$(dpkg-deb -f "$deb" Version | sed 's/^[0-9]*://; s/[-~:]/_/g')
    mkdir "$dir"
    cp "$deb" "$dir/package.deb"
    package "$dir" <<EOF
pkgname=$name
pkgver=$version
pkgrel=1
pkgdesc='$name, repacked for tests'
arch=(x86_64)
options=(!strip !debug)
package() {
    bsdtar -xOf "\$startdir/package.deb" 'data.tar.*' | bsdtar -xf - -C "\$pkgdir"
    rm -rf "\$pkgdir"/usr/share/{doc,man,info,locale}
}
EOF
}
# greeter VERSION: a program that tells its version, to see upgrades by.
greeter() {
    local dir=$work/pkg-greeter-$1
    mkdir "$dir"
    package "$dir" <<EOF
pkgname=greeter
pkgver=$1
pkgrel=1
pkgdesc='Says hello and its version'
arch=(any)
package() {
    install -D -m 755 /dev/stdin "\$pkgdir/usr/bin/greeter" <<<\$'#!/bin/sh\necho "hello from greeter $1"'
}
EOF
}
jobs=()
for name in wget curl tree; do
    repack "$name" &
    jobs+=($!)
done
for version in 1.0 2.0; do
    greeter "$version" &
    jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
mkdir "$work/core" "$work/old"
mv "$work"/pkg-greeter-1.0/*.pkg.tar.zst "$work/old/"
mv "$work"/pkg-*/*.pkg.tar.zst "$work/core/"
repo-add --quiet "$work/core/core.db.tar.gz" "$work"/core/*.pkg.tar.zst >/dev/null

say "kernel, initrd and disk images"
as_root=()
[ "$(id -u)" = 0 ] || as_root=(fakeroot --)
"${as_root[@]}" bash "$here/images/assemble.sh" "$work"

(cd "$work/out" && sha256sum "${files[@]}" >SHA256SUMS)
# Copied beside their places first, then renamed; the stamp comes last, so that a set
# that is not whole is never taken for current.
for file in "${files[@]}" SHA256SUMS; do cp "$work/out/$file" "$out/.new.$file"; done
rm -f "$out/.stamp"
for file in "${files[@]}" SHA256SUMS; do mv "$out/.new.$file" "$out/$file"; done
echo "$stamp" >"$out/.stamp"
say "done: $out"
