# Sourced by install.sh: programs of others, which a benchmark measures beside ours.

# Where a program is; it has a name in the environment file (write_env).
peer_bin() {
  case $1 in
    pgbackrest) echo "$CACHE/pgbackrest/usr/bin/pgbackrest" ;;
    restic) echo "$CACHE/restic/usr/bin/restic" ;;
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

# It takes the output of a command, and knows when that failed, since 0.17.
RESTIC_AT_LEAST=0.17

peer_restic() {
  local recipe="forky recipe 1" program version
  program=$(peer_bin restic)
  if stamped restic "$recipe"; then
    say "restic: present"
    return 0
  fi
  say "restic: unpacking from forky"
  suite_package forky "$CACHE/restic" restic
  relink "$CACHE/restic" usr/bin
  version=$("$program" version) || die "$program does not run"
  version=${version#restic }
  version=${version%% *}
  dpkg --compare-versions "$version" ge "$RESTIC_AT_LEAST" ||
    die "forky has restic $version; the benchmark wants $RESTIC_AT_LEAST or later"
  stamp restic "$recipe"
}
