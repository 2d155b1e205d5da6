#!/bin/sh
# Run the tests on what is newest: Debian unstable's CPythons, make, ninja and gcc, in a root of their
# own below this tree. And check there that the crates compile for other Unixes, since its Rust comes
# with the sources of the standard library.
#
#   newer.sh WHEEL
#
# Needs root, Linux, and Debian's apt, whose sources say where packages are; the first run takes a few
# minutes more than the tests. The root stays for the next run: `make clean` removes it.
set -eu

PYTHONS="3.14 3.15"
PACKAGES="ca-certificates git make ninja-build gcc g++ procps util-linux rustc cargo rust-src"
for version in $PYTHONS; do
    PACKAGES="$PACKAGES python$version-venv"
done

wheel=$1
base=$PWD/.newer
root=$base/root

need() {
    command -v "$1" >/dev/null || apt-get install --yes --quiet "$1"
}

mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1
}

set_up() {
    need debootstrap
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include="$(echo "$PACKAGES" | tr ' ' ,)" unstable "$root" "$(mirror)"
    touch "$base/.made"
}

# Runs a command in the root, which sees this machine's processes, devices, names and certificates.
within() {
    unshare --mount sh -c '
        root=$1
        shift
        mount --bind "$root" "$root" # or what has mounts of its own in there would not find it
        for folder in proc sys dev etc/ssl; do mount --rbind "/$folder" "$root/$folder"; done
        cp /etc/resolv.conf /etc/hosts "$root/etc/"
        exec chroot "$root" "$@"' sh "$root" "$@"
}

test "$(id -u)" = 0 || { echo "make newer needs root, for debootstrap and chroot" >&2; exit 1; }
test -e "$base/.made" || set_up
rm -rf "$root/tree"
mkdir "$root/tree"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- |
    tar --extract --directory="$root/tree"
cp "$wheel" "$root/tree/"

echo "== other Unixes"
within sh -c 'cd /tree && CARGO_TARGET_DIR=/target sh scripts/check_targets.sh'

failed=
for version in $PYTHONS; do
    echo "== $(within "python$version" --version), $(within make --version | head -n 1)," \
        "$(within gcc --version | head -n 1)"
    within sh -c "
        set -e
        cd /tree
        test -x /venv/$version/bin/python || python$version -m venv /venv/$version
        /venv/$version/bin/python -m pip --quiet install --upgrade \"\$(ls *.whl)[test]\"
        /venv/$version/bin/python -m pip --quiet install --force-reinstall --no-deps *.whl
        /venv/$version/bin/python -m pytest -q
        /venv/$version/bin/python scripts/run_examples.py" || failed="$failed $version"
done
test -z "$failed" || { echo "failed:$failed" >&2; exit 1; }
