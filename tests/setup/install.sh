#!/bin/bash
# Installs what the tests run against: PostgreSQL servers, an S3 server, Redis and Valkey, the packages of the second decoder and build tools.
#
#   install.sh [MAJOR|PEER...]     default: all of 13 14 15 16 17 18, no peer
#
# 15 comes from apt. The others are unpacked into $SEAWALL_TEST_CACHE and leave the system alone. So is a peer, a program of others
# that a benchmark measures beside ours: pgbackrest, barman, restic. A Redis server alone: redis7.
# Running it again is cheap: what carries a stamp is not touched. Concurrent runs wait for each other.
# The result is $SEAWALL_TEST_CACHE/env: one NAME=PATH a line, read by the harness and the Makefile.
set -euo pipefail
umask 022

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${SEAWALL_TEST_CACHE:-/var/tmp/seawall-test}
KNOWN=(13 14 15 16 17 18)
PEERS_KNOWN=(pgbackrest barman restic)
MAJORS=()
PEERS=()
for wanted in "$@"; do
  case $wanted in
    [0-9]*) MAJORS+=("$wanted") ;;
    *) PEERS+=("$wanted") ;;
  esac
done
[ ${#MAJORS[@]} -gt 0 ] || MAJORS=("${KNOWN[@]}")

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# retry COMMAND...     downloads fail now and then; three attempts, then the failure is real
retry() {
  local attempt
  for attempt in 1 2 3; do
    "$@" && return 0
    say "attempt $attempt of 3 failed: $1 $2"
    [ "$attempt" = 3 ] || sleep $((attempt * 5))
  done
  return 1
}

. "$HERE/system.sh"
. "$HERE/suite.sh"
. "$HERE/servers.sh"
. "$HERE/redis.sh"
. "$HERE/peers.sh"
. "$HERE/reader.sh"

# With set -e a script can stop without a word. This one says where.
trap 'say "failed at ${BASH_SOURCE[0]##*/}:$LINENO" >&2' ERR
set -E

main() {
  local major peer
  for major in "${MAJORS[@]}"; do
    [[ " ${KNOWN[*]} " == *" $major "* ]] || die "PostgreSQL $major is not known here. Known: ${KNOWN[*]}"
  done
  for peer in "${PEERS[@]}"; do
    [[ " ${PEERS_KNOWN[*]} redis7 " == *" $peer "* ]] || die "peer $peer is not known here. Known: ${PEERS_KNOWN[*]} redis7"
  done

  # Everything is locked, not only the cache: two runs of apt would also collide.
  mkdir -p "$CACHE"
  CACHE=$(cd "$CACHE" && pwd)
  exec 9>"$CACHE/lock"
  flock -n 9 || { say "waiting for another run"; flock -w 1800 9 || die "the other run did not end in 30 minutes"; }

  system_packages
  for major in "${MAJORS[@]}"; do "postgres_$major"; done
  seaweedfs
  rclone
  # Who asks for some servers of PostgreSQL, for the demo or a measurement, needs no other.
  [ "${#MAJORS[@]}" != "${#KNOWN[@]}" ] || redis_servers
  reader
  for peer in "${PEERS[@]}"; do "peer_$peer"; done
  write_env
  try_programs
  say "ready: $CACHE/env"
}

# The environment file names everything in the cache, also what earlier runs put there.
write_env() {
  local major bin peer name
  {
    for major in "${KNOWN[@]}"; do
      bin=$(postgres_bin "$major")
      [ ! -x "$bin/postgres" ] || printf 'SEAWALL_PG%s_BIN=%s\n' "$major" "$bin"
    done
    printf 'SEAWALL_WEED_BIN=%s\n' "$CACHE/weed/weed"
    printf 'SEAWALL_RCLONE_BIN=%s\n' "$(readlink -f "$CACHE/rclone/rclone.bin")"
    printf 'SEAWALL_READER_PYTHON=%s\n' "$(reader_python)"
    for name in "${REDIS_KNOWN[@]}"; do
      [ ! -e "$CACHE/$name/.stamp" ] || printf 'SEAWALL_%s_BIN=%s\n' "${name^^}" "$(redis_program "$name")"
    done
    for peer in "${PEERS_KNOWN[@]}"; do
      [ ! -e "$CACHE/$peer/.stamp" ] || printf 'SEAWALL_%s_BIN=%s\n' "${peer^^}" "$(peer_bin "$peer")"
    done
  } >"$CACHE/env.new"
  mv "$CACHE/env.new" "$CACHE/env"
}

# A path that only root can read would fail much later, in a test, with a worse message.
try_programs() {
  local name path program version
  while IFS='=' read -r name path; do
    case $name in
      SEAWALL_WEED_BIN | SEAWALL_RCLONE_BIN | SEAWALL_PGBACKREST_BIN | SEAWALL_RESTIC_BIN) program=$path version=version ;;
      SEAWALL_READER_PYTHON | SEAWALL_BARMAN_BIN | SEAWALL_REDIS* | SEAWALL_VALKEY*) program=$path version=--version ;;
      *) program=$path/postgres version=--version ;;
    esac
    as_server_user "$program" "$version" \
      >"$CACHE/try.log" 2>&1 </dev/null ||
      die "$program does not run as the server user ($(head -c 300 "$CACHE/try.log")). Is every directory above it open (chmod a+rx)? Else set SEAWALL_TEST_CACHE to another place, or delete $CACHE and run this again"
    say "$(head -n 1 "$CACHE/try.log")"
  done <"$CACHE/env"
}

# Servers refuse to run as root; the tests start them as the user that the Debian package creates.
as_server_user() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups "$@")
  else
    "$@"
  fi
}

main
