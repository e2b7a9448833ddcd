#!/bin/bash
# Feeds farmhand with what nobody would write:
#   run.sh SECONDS [TARGET...]
# Each target (calls, components, definitions; all of them by default) gets as many seconds. Ends with an error when an input
# makes farmhand panic, break a promise, take more than 10 s, or more than 1 GiB of memory; the input is then in
# target/fuzz/TARGET/artifacts. What was learned stays in target/fuzz/TARGET/corpus for the next time.
set -euo pipefail
seconds=${1:?seconds}
shift
targets=("$@")
[ $# -gt 0 ] || targets=(calls components definitions)
cd "$(dirname "$0")/../.."

# The packages and features of the tests' own build, so that only farmhand itself is compiled once more.
built=$(RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzz/rustc.sh \
    cargo --locked test --workspace --no-run "${targets[@]/#/--test=fuzz_}" 2>&1 | tee >(cat >&2))

# The order of `FILES` in definitions.rs; `debian` and `other` are the names of the platforms there.
files=(farm.yaml setup_vm/targets/amd64.yaml setup_vm/platforms/defaults.yaml setup_vm/platforms/debian.yaml
    setup_vm/platforms/other.yaml setup_vm/templates/default.xml.j2 provisioning_phases/main.yaml)
# farm NAME FARM [PLATFORM OTHER]: one input of a farm's files.
farm() {
    for file in "${files[@]}"; do
        path=$2/$file
        case $file in
        */debian.yaml) path=$2/setup_vm/platforms/${3:-debian}.yaml ;;
        */other.yaml) path=$2/setup_vm/platforms/${4:-other}.yaml ;;
        esac
        if [ -f "$path" ]; then sed "s/${3:-debian}\b/debian/g; s/${4:-other}\b/other/g" "$path"; fi
        printf '\0'
    done >"$FUZZ_SEEDS/$1"
}
# Bad inputs of tests/cli, the example, and the platforms that come with farmhand. Other targets write their own seeds.
farms() {
    for farm in tests/cli/bad/*; do farm "${farm##*/}" "$farm"; done
    farm example examples/02-vm-provisioning debian_vs Arch-Linux
    farm shapes tests/cli/farms/shapes mapping tasks
    for platform in host/src/farm/builtin/cloud/*.yaml; do
        { printf '\0\0\0'; cat "$platform"; } >"$FUZZ_SEEDS/${platform##*/}"
    done
}

# Inputs that are files, and artifacts, are written for each run.
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi

for target in "${targets[@]}"; do
    fuzzer=$(sed -n "s|^ *Executable .*(\(.*/fuzz_$target-.*\))$|\1|p" <<<"$built")
    work=target/fuzz/$target
    export FUZZ_SEEDS=$work/seeds
    rm -rf "$FUZZ_SEEDS"
    mkdir -p "$work/corpus" "$work/artifacts" "$FUZZ_SEEDS"
    options=()
    case $target in
    calls) options=(-max_len=2048) ;;
    components) options=(-max_len=65536) ;;
    definitions)
        farms
        options=(-max_len=16384 -dict=tests/fuzz/definitions.dict)
        ;;
    esac
    echo "fuzzing $target for $seconds s"
    "$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 "${options[@]}" \
        -artifact_prefix="$work/artifacts/" -print_final_stats=1 -verbosity=1 "$work/corpus" "$FUZZ_SEEDS"
done
