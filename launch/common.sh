# shellcheck shell=bash
# What the launch scripts share. A script sets SCRIPT, its name in messages, and sources this file.

# Ends the script, for a user's mistake.
fail() {
  echo "$SCRIPT: $1" >&2
  exit 2
}

# The comment at the head of the script.
usage() {
  awk 'NR > 1 { if (!/^#( |$)/) exit; sub(/^# ?/, ""); print }' "$0"
}

# Usage is what one gets who asks for it, or for nothing.
answer_help() {
  case "${1:-}" in
    -h | --help | help) usage && exit 0 ;;
    '') usage >&2 && exit 2 ;;
  esac
}

# Names the first variable that is missing.
need() {
  local name
  for name in "$@"; do
    [ -n "${!name:-}" ] || fail "the variable $name is not set (launch/README.md lists them)"
  done
}

# A variable that must be a whole number from 1 on.
need_number() {
  local name
  for name in "$@"; do
    [[ "${!name:-}" =~ ^[1-9][0-9]*$ ]] || fail "$name must be a whole number from 1 on, not '${!name:-}'"
  done
}

# NAME must be a DNS label of at most so many characters.
need_name() {
  [[ "${NAME:-}" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] && [ ${#NAME} -le "$1" ] \
    || fail "NAME must be at most $1 small letters, digits and hyphens, beginning with a letter, not '${NAME:-}'"
}

is_set() {
  [ -n "${1:-}" ] && [ "$1" != 0 ]
}

# A command as one line that bash reads back to the same words.
printed() {
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

# Runs a command, or prints it.
execute() {
  if is_set "${DRY_RUN:-}"; then
    printed "$@"
  else
    "$@"
  fi
}

# `NAME=VALUE … FLAG …`, as env reads it, into the arrays ASSIGNMENTS and FLAGS.
# shellcheck disable=SC2034  # the scripts read them
take_flags() {
  ASSIGNMENTS=(PYTHONUNBUFFERED=1)
  while [[ "${1:-}" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; do
    ASSIGNMENTS+=("$1")
    shift
  done
  [ $# -gt 0 ] || fail "the flags of headjax.main are missing, for example --config=g3diff"
  FLAGS=("$@")
}

# With PLAN=1 prints what the run will need on TOPOLOGY, with PLAN=v5e:4x4 on that: plan TOPOLOGY FLAGS…
plan() {
  local topology="$1" flag flags=()
  shift
  is_set "${PLAN:-}" || return 0
  [ "$PLAN" = 1 ] || topology="$PLAN"
  [ -n "$topology" ] || fail "PLAN=1 does not know these devices; name them, for example PLAN=v5e:4x4 or PLAN=h100:16"
  for flag in "$@"; do
    case "$flag" in --config=* | --config.*) flags+=("$flag") ;; esac
  done
  [ ${#flags[@]} -gt 0 ] || fail "PLAN needs to know the config, for example --config=g3diff:paper"
  execute "${PYTHON:-python}" -m headjax.tools.plan "${flags[@]}" --topology="$topology"
}

# The topology of an accelerator type of Cloud TPU, as the plan names it; empty if it is not known.
# v4 and v5p types count cores, two a chip; v5litepod and v6e types count chips.
tpu_topology() {
  local generation="${1%-*}" size="${1##*-}" shape=
  case "$generation" in
    v5litepod | v6e)
      case "$size" in
        1) shape=1x1 ;; 4) shape=2x2 ;; 8) shape=2x4 ;; 16) shape=4x4 ;; 32) shape=4x8 ;;
        64) shape=8x8 ;; 128) shape=8x16 ;; 256) shape=16x16 ;;
      esac ;;
    v4 | v5p)
      case "$size" in
        8) shape=2x2x1 ;; 16) shape=2x2x2 ;; 32) shape=2x2x4 ;; 64) shape=2x4x4 ;;
        128) shape=4x4x4 ;; 256) shape=4x4x8 ;; 512) shape=4x8x8 ;; 1024) shape=8x8x8 ;;
      esac ;;
  esac
  [ -z "$shape" ] || echo "${generation/v5litepod/v5e}:$shape"
}
