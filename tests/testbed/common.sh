# shellcheck shell=bash
# What start-libvirt.sh and stop-libvirt.sh must agree on; sourced by both.

if [ "$(id -u)" = 0 ]; then
    uri=qemu:///system
    run=/run/farmhand-testbed
else
    uri=qemu:///session
    # libvirt finds a user's daemon by this; without it, it makes another one elsewhere.
    if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
        XDG_RUNTIME_DIR=/run/user/$(id -u)
        if [ ! -O "$XDG_RUNTIME_DIR" ]; then
            XDG_RUNTIME_DIR=/tmp/farmhand-runtime-$(id -u)
            install -d -m 700 "$XDG_RUNTIME_DIR"
            # Somebody else may have made it first.
            [ -O "$XDG_RUNTIME_DIR" ] || {
                echo "$XDG_RUNTIME_DIR belongs to another user" >&2
                exit 1
            }
        fi
    fi
    export XDG_RUNTIME_DIR
    run=$XDG_RUNTIME_DIR/farmhand-testbed
fi
# The script that sources this uses them.
: "$uri" "$run"
