# Sourced by install.sh: programs of others, which a benchmark measures beside ours.

# Where a program is; it has a name in the environment file (write_env).
peer_bin() {
  case $1 in
    pgbackrest) echo "$CACHE/pgbackrest/usr/bin/pgbackrest" ;;
    barman) echo "$CACHE/barman/bin/barman" ;;
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

# From its package index: the running Debian has a version of 2023. Without its dependencies, because that would compile psycopg2.
BARMAN_PACKAGES=(barman==3.19.1 psycopg2-binary==2.9.13 python-dateutil==2.9.0.post0 six==1.17.0 zstandard==0.25.0)
# What it runs to restore: rsync copies, tar and zstd unpack.
BARMAN_SYSTEM=(rsync zstd)

peer_barman() {
  local recipe="recipe 1, ${BARMAN_PACKAGES[*]}" python=/usr/bin/python3 package missing=()
  for package in "${BARMAN_SYSTEM[@]}"; do
    command -v "$package" >/dev/null || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || die "missing packages; run as root: apt-get install -y ${missing[*]}"
    say "Barman: installing ${missing[*]}"
    retry apt_get install -y -qq --no-install-recommends "${missing[@]}" >"$CACHE/apt.log" 2>&1 ||
      die "apt-get install failed: $(tail -n 3 "$CACHE/apt.log")"
  fi
  if stamped barman "$recipe"; then
    say "Barman: present"
    return 0
  fi
  say "Barman: installing its packages"
  [ -x "$python" ] || python=python3
  rm -rf "$CACHE/barman"
  # A virtual environment must not move, so it is made in its place and stamped last.
  {
    "$python" -m venv "$CACHE/barman" &&
      retry "$CACHE/barman/bin/pip" install --quiet --no-deps "${BARMAN_PACKAGES[@]}"
  } >"$CACHE/pip.log" 2>&1 </dev/null || die "Barman's packages failed: $(tail -n 3 "$CACHE/pip.log")"
  chmod -R a+rX "$CACHE/barman"
  "$(peer_bin barman)" --version >/dev/null || die "$(peer_bin barman) does not run"
  stamp barman "$recipe"
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
