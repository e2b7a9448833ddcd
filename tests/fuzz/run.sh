#!/bin/bash
# Feeds farmhand's reader of farms with mutations of the bad inputs of tests/cli and of the example:
#   run.sh SECONDS
# Ends with an error when an input makes it panic, take more than 10 s, or more than 1 GiB of memory; the input is then in
# target/fuzz/artifacts. What it learned stays in target/fuzz/corpus for the next time.
set -euo pipefail
seconds=${1:?seconds}
cd "$(dirname "$0")/../.."

# The packages and features of the tests' own build, so that only farmhand itself is compiled once more.
fuzzer=$(RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzz/rustc.sh \
    cargo --locked test --workspace --no-run --test fuzz_definitions 2>&1 | tee >(cat >&2) |
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p')

# The order of `FILES` in definitions.rs; `debian` and `other` are the names of the platforms there.
files=(farm.yaml setup_vm/targets/amd64.yaml setup_vm/platforms/defaults.yaml setup_vm/platforms/debian.yaml
    setup_vm/platforms/other.yaml setup_vm/templates/default.xml.j2 provisioning_phases/main.yaml)
work=target/fuzz
mkdir -p $work/corpus $work/artifacts
rm -rf $work/seeds
mkdir $work/seeds
# seed NAME FARM [PLATFORM OTHER]: one input of a farm's files.
seed() {
    for file in "${files[@]}"; do
        path=$2/$file
        case $file in
        */debian.yaml) path=$2/setup_vm/platforms/${3:-debian}.yaml ;;
        */other.yaml) path=$2/setup_vm/platforms/${4:-other}.yaml ;;
        esac
        if [ -f "$path" ]; then sed "s/${3:-debian}\b/debian/g; s/${4:-other}\b/other/g" "$path"; fi
        printf '\0'
    done >"$work/seeds/$1"
}
for farm in tests/cli/bad/*; do seed "${farm##*/}" "$farm"; done
seed example examples/02-vm-provisioning debian_vs Arch-Linux
seed shapes tests/cli/farms/shapes mapping tasks
for platform in host/src/farm/builtin/cloud/*.yaml; do
    { printf '\0\0\0'; cat "$platform"; } >"$work/seeds/${platform##*/}"
done

echo "fuzzing for $seconds s from $(ls $work/seeds | wc -l) seeds"
exec "$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=16384 \
    -dict=tests/fuzz/definitions.dict -artifact_prefix=$work/artifacts/ -print_final_stats=1 -verbosity=1 \
    $work/corpus $work/seeds
