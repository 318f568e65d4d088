#!/bin/sh
# Checks a GPU from a checkout that has a pack (`cargo xtask pack --out pack`), on a machine with PyTorch and without Rust:
#
#   sh xtask/check-device.sh [OUT] [OPTIONS of check-device]
#
# leaves OUT/check.json and OUT/check.txt (OUT: check by default). docs/gpu.md says what to look at.
set -u
out=check
case "${1-}" in
"" | -*) ;;
*)
    out=$1
    shift
    ;;
esac
mkdir -p -- "$out" || exit 1
out=$(cd -- "$out" && pwd) || exit 1
cd -- "$(dirname -- "$0")/.." || exit 1
pack=${TALENT_PACK_DIR:-pack}
"$pack/talent" check-device --device "${TALENT_DEVICE:-cuda:0}" --json "$out/check.json" "$@" >"$out/check.txt" 2>"$out/progress.txt"
code=$?
cat "$out/progress.txt"
cut -c 1-400 "$out/check.txt"
exit $code
