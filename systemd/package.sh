#!/bin/bash
# Builds seawall_<version>_<architecture>.deb from programs that are built already. Usage: package.sh <directory of the programs> <output directory>
#
# DEB_COMPRESSION: xz (the default), gzip, zstd or none. The same sources give the same bytes: files are dated by the last commit (or SOURCE_DATE_EPOCH), owned by root, and in one order.
set -euo pipefail
programs=$(cd "$1" && pwd)
mkdir -p "$2"
output=$(cd "$2" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
architecture=$(dpkg --print-architecture)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

put() { install -D -m "$1" "$2" "$root/$3"; }

for program in wal-agent wal-restore; do
  put 755 "$programs/$program" "usr/bin/$program"
  install -d "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
    "$root/usr/share/fish/vendor_completions.d" "$root/usr/share/man/man1"
  "$programs/$program" completions bash >"$root/usr/share/bash-completion/completions/$program"
  "$programs/$program" completions zsh >"$root/usr/share/zsh/vendor-completions/_$program"
  "$programs/$program" completions fish >"$root/usr/share/fish/vendor_completions.d/$program.fish"
  "$programs/$program" man-pages "$root/usr/share/man/man1"
done
find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +

for unit in systemd/*.service systemd/*.timer; do
  put 644 "$unit" "usr/lib/systemd/system/$(basename "$unit")"
done
put 644 systemd/seawall.tmpfiles usr/lib/tmpfiles.d/seawall.conf
put 644 systemd/seawall.sysusers usr/lib/sysusers.d/seawall.conf
doc=usr/share/doc/seawall
put 644 README.md "$doc/README.md"
for text in docs/*.md; do put 644 "$text" "$doc/$(basename "$text")"; done
# Of the book what is not one of these.
for text in docs/book/src/*.md; do
  grep -q '^{{#include' "$text" || put 644 "$text" "$doc/book/src/$(basename "$text")"
done
for text in docs/decisions/*.md; do put 644 "$text" "$doc/decisions/$(basename "$text")"; done
put 644 docs/reader/seawall_reader.py "$doc/reader/seawall_reader.py"
put 644 systemd/seawall.toml.example "$doc/examples/seawall.toml.example"
put 644 monitoring/grafana-dashboard.json "$doc/examples/grafana-dashboard.json"
"$programs/wal-agent" alert-rules >"$root/$doc/examples/seawall.rules.yml"
{
  printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: seawall\n\n'
  printf 'Files: *\nLicense: Apache-2.0\n On Debian systems: /usr/share/common-licenses/Apache-2.0\n'
} >"$root/$doc/copyright"
# What is linked in, and by which licence.
cargo metadata --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
  python3 systemd/deb/sbom.py >"$root/$doc/sbom.cdx.json"

install -d "$root/DEBIAN"
installed=$(du -sk --apparent-size "$root" | cut -f1)
cat >"$root/DEBIAN/control" <<CONTROL
Package: seawall
Version: $version
Architecture: $architecture
Maintainer: Seawall <seawall@localhost>
Installed-Size: $installed
Depends: libc6 (>= 2.34), libgcc-s1, adduser
Recommends: ca-certificates
Suggests: postgresql
Section: database
Priority: optional
Description: continuous disaster recovery for PostgreSQL
 An agent beside the server streams WAL into an encrypted, deduplicated
 repository on S3 or in a directory, takes incremental base backups into it,
 and wal-restore brings the cluster back to any second.
CONTROL
for script in postinst prerm postrm; do put 755 "systemd/deb/$script" "DEBIAN/$script"; done
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' md5sum) >"$root/DEBIAN/md5sums"

find "$root" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0r touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
deb="$output/seawall_${version}_${architecture}.deb"
dpkg-deb --root-owner-group -Z"${DEB_COMPRESSION:-xz}" --build "$root" "$deb" >/dev/null
echo "$deb"
