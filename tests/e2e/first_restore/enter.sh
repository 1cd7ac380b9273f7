#!/bin/bash
# Runs a script in a root of its own: this machine's files, below a layer that is thrown away with everything that was started in it.
# Usage: enter.sh <directory for the layer> <script>. The script sees its own directory as /seawall.
set -euo pipefail
layer=$1 script=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ "${ENTERED:-}" != yes ]; then
  exec env ENTERED=yes unshare --mount --pid --ipc --net --fork --kill-child --propagation private "$here/enter.sh" "$layer" "$script"
fi
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" overlay "$layer/root"
root=$layer/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/seawall"
install -d -m 2775 -o postgres -g postgres "$root/run/postgresql"
mount --bind "$(dirname "$script")" "$root/seawall"
# A host that has never seen us.
rm -rf "$root/etc/seawall" "$root/var/lib/seawall" "$root/srv/seawall"
exec env -i HOME=/root PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin LC_ALL=C.UTF-8 \
  chroot "$root" /bin/bash "/seawall/$(basename "$script")"
