#!/bin/sh
# rustc for our own crates (as cargo's RUSTC_WORKSPACE_WRAPPER), with nothing of Linux compiled in.
#
# Not RUSTFLAGS, which hold for the dependencies too and so have all of them built once more.
exec "$@" --cfg jobserver_portable -D warnings
