#!/bin/sh
# Say in one line what this machine lacks, and what to install; say nothing when it lacks nothing.
#
#   check_tools.sh build PYTHON    what building and running need
#   check_tools.sh lint            what `cargo fmt` and `cargo clippy` need besides
#   check_tools.sh fuzz            what the fuzzer needs besides
#
# A shell script, since Python is one of the things that may be missing. Each tool is run, not
# looked up: a shim of a version manager exists whether or not there is anything behind it.

missing() {
    echo "Missing: $1" >&2
    exit 1
}

runs() {
    "$@" >/dev/null 2>&1
}

check_python() {
    python=$1
    elsewhere="or name another one: make PYTHON=/path/to/python3"
    runs "$python" -c '' ||
        missing "Python 3.8 or newer ('$python' does not run): install python3 (Debian, Ubuntu: apt install python3 python3-venv), $elsewhere"
    runs "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' ||
        missing "Python 3.8 or newer ('$python' is $("$python" -V 2>&1)): install a newer python3, $elsewhere"
    runs "$python" -c 'import sys; sys.exit(sys.implementation.name != "cpython")' ||
        missing "CPython ('$python' is another kind of Python): install python3, $elsewhere"
    runs "$python" -c 'import ensurepip, venv' ||
        missing "the venv module of '$python': install it (Debian, Ubuntu: apt install python3-venv), $elsewhere"
}

check_cargo() {
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    runs cargo --version ||
        missing "cargo: install Rust $needed or newer from https://rustup.rs, then open a new shell"
    cargo --version | awk -v needed="$needed" '{
        split($2, have, "."); split(needed, want, ".")
        exit !(have[1] + 0 > want[1] + 0 || have[1] == want[1] && have[2] + 0 >= want[2] + 0)
    }' ||
        missing "Rust $needed or newer (this is $(cargo --version)): run 'rustup update', or install Rust from https://rustup.rs"
}

# rustc links with cc, which in turn needs the C library's development files.
check_linker() {
    program=$(mktemp) || exit 1
    trap 'rm -f "$program"' EXIT
    echo 'int main(void) { return 0; }' | runs cc -x c -o "$program" - ||
        missing "a C compiler that links ('cc', for Rust's linking): install it (Debian, Ubuntu: apt install gcc libc6-dev; Fedora: dnf install gcc; macOS: xcode-select --install)"
}

case $1 in
build)
    check_python "$2"
    check_cargo
    check_linker
    ;;
lint)
    runs cargo fmt --version ||
        missing "rustfmt: run 'rustup component add rustfmt' (Debian, Ubuntu: apt install rustfmt)"
    runs cargo clippy --version ||
        missing "clippy: run 'rustup component add clippy' (Debian, Ubuntu: apt install rust-clippy)"
    ;;
fuzz)
    runs "${CXX:-c++}" --version ||
        missing "a C++ compiler ('${CXX:-c++}', for the fuzzer's runtime): install it (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
    ;;
*)
    echo "usage: check_tools.sh build PYTHON | lint | fuzz" >&2
    exit 2
    ;;
esac
