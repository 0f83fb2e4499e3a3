#!/bin/bash
# Cuts the power of a machine that commits, again and again: power-cut.sh <sled|redb> <rounds> <kernel> <modules>
#
# A virtual machine runs tests/crash.rs's child on an ext4 disk of its own and writes every acknowledged commit to its
# console; it is killed at random, which loses its page cache with everything that was not synced. The disk is then
# mounted here, the database opened and compared with the console. Needs root, qemu-system-x86_64, busybox-static, and
# a kernel with its modules unpacked (Debian's linux-image-cloud-amd64: boot/vmlinuz-*, lib/modules/*).
set -eu
engine=$1 rounds=$2 kernel=$3 modules=$4
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'umount "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
test=${TEST_BINARY:-$(cd "$here" && cargo test --release --test crash --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*crash-[^"]*\)".*/\1/p' | tail -1)}

root=$work/initramfs
mkdir -p "$root"/{bin,proc,dev,sys,tmp,mnt,lib64,modules} "$work/mnt"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$test" "$root/bin/crash"
ldd "$test" | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
loaded="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk libcrc32c"
for module in $loaded; do
  find "$modules" -name "$module.ko" -exec cp {} "$root/modules/" \;
done
cat >"$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $loaded; do /bin/busybox insmod /modules/\$module.ko >/dev/ttyS0 2>&1; done
/bin/busybox mount -t ext4 /dev/vda /mnt || { echo no disk >/dev/ttyS0; /bin/busybox poweroff -f; }
export TMPDIR=/tmp METASTORE_CRASH_ROOT=/mnt METASTORE_CRASH_ENGINE=${engine^}
exec /bin/crash --ignored --exact child --nocapture >/dev/ttyS0 2>&1
INIT
chmod +x "$root/init"
(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initramfs.gz"
truncate -s 256M "$work/disk"
mkfs.ext4 -q -F "$work/disk"

commits=0
for round in $(seq "$rounds"); do
  : >"$work/console"
  qemu-system-x86_64 -accel tcg -m 256 -smp 2 -display none -no-reboot -monitor none -serial "file:$work/console" \
    -kernel "$kernel" -initrd "$work/initramfs.gz" -append "console=ttyS0 quiet panic=-1" \
    -drive "file=$work/disk,format=raw,if=virtio,cache=writeback" 2>/dev/null &
  machine=$!
  # Power goes after a random number of acknowledged commits, sometimes before the first.
  until=$((RANDOM % 300))
  for _ in $(seq 1200); do
    [ "$(grep -c 'ack ' "$work/console")" -ge "$until" ] && [ -s "$work/console" ] && break
    kill -0 "$machine" 2>/dev/null || break
    sleep 0.05
  done
  kill -9 "$machine" 2>/dev/null || true
  wait "$machine" 2>/dev/null || true
  count=$(grep -c 'ack ' "$work/console" || true)
  commits=$((commits + count))
  mount -o loop "$work/disk" "$work/mnt"
  if ! METASTORE_CRASH_ROOT=$work/mnt METASTORE_CRASH_ENGINE=${engine^} METASTORE_CRASH_CONSOLE=$work/console \
    "$test" --ignored --exact verify --nocapture >"$work/verify" 2>&1; then
    cat "$work/verify"
    tail -5 "$work/console"
    echo "round $round of $engine: lost or damaged"
    exit 1
  fi
  umount "$work/mnt"
  echo "round $round: $count commits acknowledged, all there"
done
echo "$engine: $rounds power cuts, $commits commits, nothing lost"
