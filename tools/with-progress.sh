#!/usr/bin/env bash
# Runs a command and shows every second that it still runs, so that no wait is silent.
# Usage: with-progress.sh "what it does" COMMAND [ARG ...]. On failure prints the command's output and its status.
set -u
label=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$@" >"$log" 2>&1 &
pid=$!
start=$SECONDS
printf '%s ' "$label"
while kill -0 "$pid" 2>/dev/null; do
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  printf '.'
done
wait "$pid"
status=$?
printf ' %ss\n' "$((SECONDS - start))"
[ "$status" -eq 0 ] || { cat "$log" >&2; exit "$status"; }
