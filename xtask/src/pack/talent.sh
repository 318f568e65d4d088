#!/bin/sh
# Runs the programs of this pack with the libtorch of the python3 on the PATH, or of the folder that LIBTORCH names.
set -eu
needed_torch=@TORCH@
needed_glibc=@GLIBC@

fail() {
    echo "error: $*" >&2
    exit 1
}

here=$(cd -- "$(dirname -- "$(readlink -f -- "$0")")" && pwd)
[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || fail "this pack is for x86-64 Linux, this machine is $(uname -s) $(uname -m)"
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2) || glibc=
oldest=$(printf '%s\n%s\n' "$needed_glibc" "${glibc:-0}" | sort -V | head -n 1)
[ "$oldest" = "$needed_glibc" ] || fail "this pack needs glibc $needed_glibc or newer, this machine has ${glibc:-another C library}; make a pack on a machine as old as this one"
export TALENT_PACK="$here"

# Writes an unpacked file to standard output.
unpack() {
    if command -v xz >/dev/null; then
        xz -dc "$1"
    else
        python3 -c 'import lzma, shutil, sys
shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' "$1"
    fi
}

# Unpacks bin/talent-data.xz as the file $unpacked.
unpack_as() {
    unpack "$program.xz" >"$unpacked" 2>/dev/null && chmod 755 "$unpacked"
}

# These need no libtorch.
case "${1-}" in
results)
    fail "tables of runs are not made by a pack (their program would double its size): copy the runs to a checkout, and call \`cargo xtask results\` there"
    ;;
data | fetch)
    [ "$1" = fetch ] || shift
    program="$here/bin/talent-data"
    if [ ! -x "$program" ]; then
        command -v xz >/dev/null || python3 -c 'import lzma' 2>/dev/null ||
            fail "neither xz nor a python3 with lzma is on the PATH; one of them unpacks bin/talent-data.xz"
        # What commands left that were killed while they unpacked.
        find "$here/bin" -name 'talent-data.??????' -mmin +60 -exec rm -f {} + 2>/dev/null || true
        unpacked=
        trap 'rm -f "$unpacked"' EXIT
        trap 'exit 129' HUP
        trap 'exit 130' INT
        trap 'exit 143' TERM
        # A name of its own: process ids repeat in containers, and on machines that share the folder.
        if unpacked=$(mktemp "$program.XXXXXX" 2>/dev/null) && unpack_as; then
            # Whole or not at all, also if two commands unpack at once.
            mv -f "$unpacked" "$program"
        else
            # The pack cannot be written to.
            rm -f "$unpacked"
            unpacked=$(mktemp "${TMPDIR:-/tmp}/talent-data.XXXXXX") || fail "no folder to unpack bin/talent-data.xz in; set TMPDIR"
            unpack_as || fail "bin/talent-data.xz cannot be unpacked in ${TMPDIR:-/tmp}; is there space? TMPDIR names another folder"
            "$unpacked" --help >/dev/null 2>&1 ||
                fail "no program can be started in ${TMPDIR:-/tmp} (is it mounted noexec?); set TMPDIR to another folder"
            # The file has no name any more when the program runs, so that nothing is left of it, however it ends.
            exec 9<"$unpacked"
            rm -f "$unpacked"
            trap - EXIT HUP INT TERM
            exec /proc/self/fd/9 "$@"
        fi
        trap - EXIT HUP INT TERM
    fi
    exec "$program" "$@"
    ;;
esac

advice="install it with \`pip install torch==$needed_torch\`, activate the environment that has it, or set LIBTORCH to a libtorch $needed_torch folder"
if [ -n "${LIBTORCH-}" ]; then
    torch=$LIBTORCH
    case "$torch" in *:*) fail "LIBTORCH=$torch: libraries are not found below a path with a colon; link it from another place" ;; esac
    version=$(cat "$torch/build-version" 2>/dev/null || sed -n "s/^__version__ = '\(.*\)'/\1/p" "$torch/version.py" 2>/dev/null || true)
else
    command -v python3 >/dev/null || fail "there is no python3 on the PATH, whose PyTorch this pack would use; $advice"
    # torch is looked up and not imported, which would take seconds. The current folder does not count.
    found=$(python3 -c '
import sys
sys.path[:] = [path for path in sys.path if path]
import importlib.util, os, re
spec = importlib.util.find_spec("torch")
# A folder without __init__.py is no package.
folder = spec.submodule_search_locations[0] if spec and spec.origin and spec.submodule_search_locations else ""
file = os.path.join(folder, "version.py")
text = open(file).read() if folder and os.path.isfile(file) else ""
version = re.search(r"__version__ = .(.*).$", text, re.M)
# Marked, since python3 may be a script that says other things first.
print("torch-folder:" + folder)
print("torch-version:" + (version.group(1) if version else "unknown"))
') || fail "python3 ($(command -v python3)) cannot say whether it has PyTorch"
    torch=$(printf '%s\n' "$found" | sed -n 's/^torch-folder://p')
    version=$(printf '%s\n' "$found" | sed -n 's/^torch-version://p')
    [ -n "$torch" ] || fail "python3 ($(command -v python3)) has no PyTorch; $advice"
fi
[ -f "$torch/lib/libtorch.so" ] || fail "$torch holds no lib/libtorch.so; $advice"
[ "${version%%+*}" = "$needed_torch" ] || fail "$torch holds torch ${version:-of unknown version}, this pack needs $needed_torch; $advice"
LD_LIBRARY_PATH="$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LD_LIBRARY_PATH
# An installation that was copied in part. Without ldd the loader names the library.
lost=$(ldd "$here/bin/talent" 2>/dev/null | sed -n 's/^[[:space:]]*\([^ ]*\) => not found.*/\1/p' | head -n 1) || lost=
[ -z "$lost" ] || fail "$torch lacks the library $lost, which its others need (PyTorch's packages nvidia-* bring CUDA's); $advice"
exec "$here/bin/talent" "$@"
