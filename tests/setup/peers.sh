# Sourced by install.sh: programs of others, which a benchmark measures beside ours.

# Where a program is; it has a name in the environment file (write_env).
peer_bin() {
  case $1 in
    pgbackrest) echo "$CACHE/pgbackrest/usr/bin/pgbackrest" ;;
  esac
}

# The running Debian has a version of 2023. What is measured must be what people would install today.
PGBACKREST_AT_LEAST=2.59

peer_pgbackrest() {
  local recipe="forky recipe 1" program version
  program=$(peer_bin pgbackrest)
  if stamped pgbackrest "$recipe"; then
    say "pgBackRest: present"
    return 0
  fi
  say "pgBackRest: unpacking from forky"
  suite_package forky "$CACHE/pgbackrest" pgbackrest
  relink "$CACHE/pgbackrest" usr/bin
  version=$("$program" version) || die "$program does not run"
  version=${version##* }
  dpkg --compare-versions "$version" ge "$PGBACKREST_AT_LEAST" ||
    die "forky has pgBackRest $version; the benchmark wants $PGBACKREST_AT_LEAST or later"
  stamp pgbackrest "$recipe"
}
