#!/usr/bin/env bash
# Runs this example twice, from nothing, and shows what each run did: demo.sh [FARMHAND]
set -euo pipefail
farmhand=$(readlink -f "${1:-target/release/farmhand}")
cd "$(dirname "$(readlink -f "$0")")"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "Before: whatever an earlier demo left is removed"
"$farmhand" destroy
"$farmhand" plan

say "First run: machines are made; dependencies, init, main and terminate run"
"$farmhand" up

say "Second run: the checkpoint after init is restored; main and terminate run"
"$farmhand" plan
"$farmhand" up

say "In the guests"
"$farmhand" ssh debian_vs_amd64 -- 'curl --version | head -n 1'
"$farmhand" ssh Arch-Linux_amd64 -- 'wget --version | head -n 1'
"$farmhand" status

say "After: the machines are removed"
"$farmhand" destroy
