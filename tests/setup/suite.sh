# Sourced by install.sh: packages of another Debian suite, unpacked beside the system.
#
# A newer suite needs a newer libc. So the packages come with all the libraries they need, and their
# programs are pointed at these: interpreter and RPATH are rewritten. The system's dpkg never knows.

# suite_package SUITE DEST PACKAGE...   unpack into DEST (which must not move afterwards, see relink)
suite_package() {
  local suite=$1 dest=$2
  shift 2
  local build=$dest.build
  rm -rf "$build" "$dest"
  mkdir -p "$build/tree"
  suite_apt_config "$suite" "$build/apt"
  retry suite_apt "$build/apt" update -qq || die "no package lists of $suite: does this machine's mirror serve it?"

  # With an empty status file the resolver names the whole closure, libc included.
  local closure wanted
  closure=$(suite_apt "$build/apt" install -s --no-install-recommends "$@" | awk '$1 == "Inst" { print $2 }')
  wanted=$(printf '%s\n' "$closure" | libraries_and "$@")
  [ -n "$wanted" ] || die "$suite has no package $*"
  mkdir "$build/debs"
  # shellcheck disable=SC2086  # one word a package
  (cd "$build/debs" && retry suite_apt "$build/apt" download -qq $wanted) || die "download from $suite failed"
  local deb
  for deb in "$build"/debs/*.deb; do dpkg-deb -x "$deb" "$build/tree"; done
  mv "$build/tree" "$dest"
  rm -rf "$build"
}

# Libraries, and the packages by name. JIT, Perl and their like are large and not used by a test.
libraries_and() {
  awk -v names="$*" '
    BEGIN { n = split(names, list, " "); for (i = 1; i <= n; i++) named[list[i]] = 1 }
    $1 in named { print; next }
    /^lib(llvm|clang|perl|json-perl|locale|text|z3|edit2)/ { next }
    /^lib/ || /^zlib1g/ { print }'
}

# suite_apt_config SUITE STATE   apt's view of one other suite, with the mirror this machine uses anyway
suite_apt_config() {
  local suite=$1 state=$2 mirror
  mirror=$(mirror_uri)
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/parts"
  : >"$state/status"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$suite" >"$state/sources.list"
  cat >"$state/apt.conf" <<CONF
Dir::Etc::SourceList "$state/sources.list";
Dir::Etc::SourceParts "$state/parts";
Dir::State::Lists "$state/lists";
Dir::State::status "$state/status";
Dir::State::extended_states "$state/extended_states";
Dir::Cache "$state/cache";
APT::Architecture "$(dpkg --print-architecture)";
APT::Architectures { "$(dpkg --print-architecture)"; };
APT::Sandbox::User "root";
CONF
}

suite_apt() {
  local state=$1
  shift
  APT_CONFIG=$state/apt.conf apt_get "$@"
}

# apt itself reads its sources, so both of their formats work. It names only what was fetched once.
mirror_uri() {
  local codename uri
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  uri=$(main_archive "$codename")
  if [ -z "$uri" ] && [ "$(id -u)" = 0 ]; then
    retry apt_get update -qq >&2
    uri=$(main_archive "$codename")
  fi
  [ -n "$uri" ] || die "apt knows no mirror of Debian $codename: run apt-get update as root"
  printf '%s\n' "$uri"
}

main_archive() {
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    awk -v codename="$1" '$2 == codename && $3 == "main" { print $1; exit }'
}

# relink TREE DIR   the programs in TREE/DIR use the loader and the libraries of TREE
relink() {
  local tree=$1 dir=$2 triplet loader program
  triplet=$(gcc -print-multiarch)
  for loader in "$tree/lib/$triplet"/ld-linux*.so.* "$tree/usr/lib/$triplet"/ld-linux*.so.*; do
    [ ! -e "$loader" ] || break
  done
  [ -e "$loader" ] || die "no loader below $tree"
  for program in "$tree/$dir"/*; do
    [ -f "$program" ] && [ ! -L "$program" ] || continue
    file -b "$program" | grep -q 'ELF.*interpreter' || continue
    # RPATH, not RUNPATH: libpqwalreceiver is opened at run time and must find its libraries as well.
    patchelf --set-interpreter "$loader" --force-rpath \
      --set-rpath "$tree/usr/lib/$triplet:$tree/lib/$triplet" "$program"
  done
}
