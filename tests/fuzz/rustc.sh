#!/bin/sh
# rustc for `make fuzz`, as cargo's RUSTC_WORKSPACE_WRAPPER: farmhand itself gets libFuzzer's coverage, which stable Rust can
# do; what it depends on is built as ever. Sanitizers would need nightly.
case " $* " in
*" --crate-name farmhand "*)
    exec "$@" -Copt-level=1 -Cdebug-assertions=on -Coverflow-checks=on -Ccodegen-units=1 \
        -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*" --crate-name fuzz_"*) exec "$@" --cfg fuzzing ;;
*) exec "$@" ;;
esac
