#!/usr/bin/env bash
# Makes a bare Debian with Python, where no image can be pulled: base.sh TAG. Needs root and debootstrap.
# CDC_BRIDGE_TEST_DEBIAN_MIRROR names another mirror than debootstrap's own.
set -euo pipefail

root=$(mktemp --directory)
trap 'rm --recursive --force --one-file-system "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv trixie "$root" \
    ${CDC_BRIDGE_TEST_DEBIAN_MIRROR:+"$CDC_BRIDGE_TEST_DEBIAN_MIRROR"} >&2
rm --recursive --force "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

# How this machine reaches mirrors and package indexes (proxies, certificates) holds inside too: what its owner
# added to apt's configuration, and the authorities it trusts.
for file in /etc/apt/apt.conf.d/*; do
    dpkg --search "$file" >/dev/null 2>&1 || cp "$file" "$root/etc/apt/apt.conf.d/"
done
if [[ -s /etc/ssl/certs/ca-certificates.crt ]]; then
    cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi

tar --directory "$root" --numeric-owner --exclude './dev/*' --exclude './proc/*' --exclude './sys/*' --create . |
    docker import --change 'CMD ["python3"]' - "$1"
