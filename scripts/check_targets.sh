#!/bin/sh
# Check that the crates compile for Unixes that no machine here runs: what docs/limits.md says of them.
#
# The standard library for those is compiled from its sources, which rustup's component rust-src or
# Debian's package of that name brings; no foreign toolchain or linker is needed, since nothing is
# linked. Where the sources are missing, this says so, and is no failure. (-Zbuild-std is unstable;
# RUSTC_BOOTSTRAP=1 lets a stable compiler have it.)
set -eu

TARGETS="x86_64-unknown-freebsd aarch64-apple-darwin"

library=$(rustc --print sysroot)/lib/rustlib/src/rust/library
if ! [ -f "$library/Cargo.toml" ]; then
    echo "not checked: $TARGETS"
    echo "($(rustc --version) has no sources of the standard library; install rust-src, or run make newer)"
    exit 0
fi
for target in $TARGETS; do
    echo "$target"
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-D warnings" cargo check --quiet -Zbuild-std --target "$target" \
        --workspace --exclude jobserver-python --all-targets
done
