#!/bin/bash
# Compiles and runs the C programs of this folder against a running HSM.
# Environment: P11_MODULE, P11_PIN, KAGIMORI_CONFIG (quickstart's .kagimori/env). Without them, or without gcc: SKIP, exit 0.
set -u
here=$(cd "$(dirname "$0")" && pwd)
for name in P11_MODULE P11_PIN KAGIMORI_CONFIG; do
  [ -n "${!name:-}" ] || { echo "SKIP programs.sh: $name is not set"; exit 0; }
done
command -v gcc >/dev/null || { echo "SKIP programs.sh: no gcc"; exit 0; }
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
result=0
run() {
  gcc -O1 -Wall -Wno-deprecated-non-prototype -o "$work/$1" "$here/$1.c" -ldl -lpthread 2>"$work/log" \
    || gcc -O1 -w -o "$work/$1" "$here/$1.c" -ldl -lpthread 2>"$work/log" \
    || { echo "FAIL $1: does not compile"; cat "$work/log"; result=1; return; }
  if timeout 180 "$work/$1" "$P11_MODULE" "${@:2}" >"$work/out" 2>"$work/err"; then echo "PASS $1"
  else echo "FAIL $1 (exit $?)"; tail -n 5 "$work/out" "$work/err"; result=1; fi
}
run load online
run fork
run hostile
run threads
run soak
exit $result
