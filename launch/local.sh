#!/usr/bin/env bash
# A group of processes of headjax.main on this machine, over loopback.
#
#   launch/local.sh N FLAGS…
#
# Each line of theirs is printed with the process's number. SIGTERM and Ctrl-C go to all of them:
# they save and end, and the same command goes on from there. When one fails, this says which and
# how, gives the others GRACE seconds to end by themselves, kills those that do not, and exits with
# the first failure's code. No process outlives this script, however it ends.
# Optional: DEVICES (simulated devices of each process), GRACE (45), PORT (a free one),
# JAX_PLATFORMS (cpu), PYTHON (python), PROGRAM (python -m headjax.main), DRY_RUN=1.
set -euo pipefail
SCRIPT=launch/local.sh
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

answer_help "${1:-}"
count="$1"
shift
[[ "$count" =~ ^[1-9][0-9]*$ ]] || fail "the first argument is how many processes, not '$count'"
[ $# -gt 0 ] || fail "the flags of headjax.main are missing, for example --config=g3diff:smoke"
GRACE="${GRACE:-45}"
need_number GRACE
[ -z "${DEVICES:-}" ] || need_number DEVICES

free_port() {
  "${PYTHON:-python}" -c 'import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])'
}

# The command of process $1, into COMMAND: command_of INDEX FLAGS…
command_of() {
  local program=("${PYTHON:-python}" -m headjax.main)
  [ -z "${PROGRAM:-}" ] || read -r -a program <<< "$PROGRAM"
  COMMAND=(env HEADJAX_COORDINATOR="127.0.0.1:$PORT" HEADJAX_PROCESSES="$count" HEADJAX_PROCESS="$1"
    JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" PYTHONUNBUFFERED=1)
  [ -z "${DEVICES:-}" ] || COMMAND+=(XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES")
  shift
  COMMAND+=("${program[@]}" --distributed=on "$@")
}

# Every line of standard input, with $1 before it.
prefixed() {
  local line
  trap '' INT TERM HUP
  while IFS= read -r line || [ -n "$line" ]; do printf '%s%s\n' "$1" "$line"; done
}

# Reads the processes' numbers until the script is no more, and leaves none of their groups behind.
guard() {
  local pid pids=()
  trap '' INT TERM HUP
  while read -r pid; do pids+=("$pid"); done
  for pid in ${pids[@]+"${pids[@]}"}; do kill -KILL -- "-$pid" || true; done
  rm -rf "$folder"
}

# Starts process $1. It gets a group of its own (set -m), so that Ctrl-C reaches it once, through
# this script; its output goes through a named pipe, so that `$!` is the process itself.
start() {
  mkfifo "$folder/$1"
  command_of "$@"
  set -m
  prefixed "[$1] " < "$folder/$1" 9>&- &
  prefixers+=($!)
  "${COMMAND[@]}" < /dev/null > "$folder/$1" 2>&1 9>&- &
  pids+=($!)
  set +m
  echo "${pids[$1]}" >&9
}

is_running() {
  [[ " $(jobs -pr | tr '\n' ' ') " == *" $1 "* ]]
}

forward() {
  local index
  for index in "${!pids[@]}"; do
    [ -n "${codes[$index]:-}" ] || kill -s "$1" "${pids[$index]}" 2> /dev/null || true
  done
}

# Notes how process $1 ended, and tells it (on descriptor 8) if that was a failure.
note() {
  local index="$1" code=0 how
  wait "${pids[$index]}" 2> /dev/null || code=$?
  codes[index]=$code
  left=$((left - 1))
  kill -KILL -- "-${pids[$index]}" 2> /dev/null || true
  [ "$code" != 0 ] || return 0
  how="ended with exit code $code"
  [ "$code" -le 128 ] || how="was killed by signal $((code - 128)) ($(kill -l "$code"))"
  if [ -n "$late" ]; then
    how="had not ended $GRACE s after that and was killed"
  fi
  echo "$SCRIPT: process $index $how" >&8
  [ "$first" != 0 ] || first=$code
  deadline="${deadline:-$((SECONDS + GRACE))}"
}

watch() {
  local index
  left=$count
  while [ "$left" -gt 0 ]; do
    for index in "${!pids[@]}"; do
      [ -n "${codes[$index]:-}" ] || is_running "${pids[$index]}" || note "$index"
    done
    if [ -z "$late" ] && [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then
      late=yes
      forward KILL
    fi
    [ "$left" = 0 ] || sleep 0.2 || true
  done
}

PORT="${PORT:-$(free_port)}"
if is_set "${DRY_RUN:-}"; then
  for ((index = 0; index < count; index++)); do
    command_of "$index" "$@"
    printed "${COMMAND[@]}"
  done
  exit 0
fi

folder=$(mktemp -d)
pids=() codes=() prefixers=() first=0 deadline="" late=""
mkfifo "$folder/alive"
set -m
guard < "$folder/alive" > /dev/null 2>&1 &
guardian=$!
set +m
# Only this script holds the pipe's other end: the guard sees its end however the script ends.
exec 9> "$folder/alive"
trap 'exec 9>&-; wait "$guardian" 2> /dev/null || true' EXIT
trap 'forward TERM' TERM HUP
trap 'forward INT' INT
for ((index = 0; index < count; index++)); do start "$index" "$@"; done
# bash has words of its own for processes that were killed, which name none of them.
watch 8>&2 2> /dev/null
wait "${prefixers[@]}" || true
exit "$first"
