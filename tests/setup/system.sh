# Sourced by install.sh: packages of the running Debian.

PACKAGES=(
  build-essential cmake pkg-config ca-certificates git      # build
  postgresql-15 postgresql-client-15 python3 python3-venv   # servers
  patchelf file binutils openssl procps util-linux curl iproute2   # set-up and tests themselves
  dpkg-dev systemd man-db                                   # the package, its units and pages
  prometheus                                                # promtool: metrics and alert rules
)

system_packages() {
  command -v dpkg-query >/dev/null || die "this script knows Debian only; install PostgreSQL 13 to 18 and SeaweedFS yourself and write $CACHE/env"
  local package missing=()
  for package in "${PACKAGES[@]}"; do
    installed "$package" || missing+=("$package")
  done
  # A build tool that came another way (a newer cmake, say) is as good as the package.
  local kept=()
  for package in "${missing[@]}"; do
    case $package in
      cmake | git | pkg-config) command -v "$package" >/dev/null || kept+=("$package") ;;
      *) kept+=("$package") ;;
    esac
  done
  if [ ${#kept[@]} = 0 ]; then
    say "system packages: present"
    return 0
  fi
  [ "$(id -u)" = 0 ] || die "missing packages; run as root: apt-get install -y ${kept[*]}"
  say "system packages: installing ${kept[*]}"
  no_services
  retry apt_get update -qq || die "apt-get update failed"
  retry apt_get install -y -qq --no-install-recommends "${kept[@]}" >"$CACHE/apt.log" 2>&1 || {
    tail -n 20 "$CACHE/apt.log" >&2
    die "apt-get install failed"
  }
}

installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}

# Packages of servers would start them. A policy that somebody else put there stays.
no_services() {
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  # Nor is a cluster wanted: the tests make their own.
  if ! installed postgresql-common && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
  fi
}
