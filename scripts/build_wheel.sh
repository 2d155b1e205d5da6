#!/bin/sh
# Build what is to be published, in dist/: a wheel for any Linux that is not very old, and the sources.
#
#   build_wheel.sh [TARGET]     for this machine's target, or another that rustup has added
#
# zig is the linker, since it brings the C libraries of old systems and of other processors. What the
# wheel then says of itself is compared with what it uses. Elsewhere than on Linux it is the machine's.
set -eu

target=${1:-$(rustc --print host-tuple)}
case $target in
*-linux-gnu) tag=manylinux2014 says=manylinux_2_17 ;;
*-linux-musl) tag=musllinux_1_2 says=musllinux_1_2 ;;
*) tag= says= ;;
esac

rm -rf dist
"$PYTHON" -m maturin sdist --out dist
if [ -z "$tag" ]; then
    exec "$PYTHON" -m maturin build --release --target "$target" --out dist
fi
"$PYTHON" -m maturin build --release --zig --target "$target" --compatibility "$tag" \
    --interpreter "$PYTHON" --out dist
told=$("$PYTHON" -m auditwheel show dist/*.whl)
case $told in
*"consistent with the following platform tag:
\"${says}_"*) ls dist ;;
*)
    echo "the wheel is not one for $says:" >&2
    echo "$told" >&2
    exit 1
    ;;
esac
