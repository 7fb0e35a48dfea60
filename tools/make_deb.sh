#!/bin/bash
# `make deb`: a Debian package of goldsmith, build/goldsmith_VERSION_ARCHITECTURE.deb.
#
# Its Python packages lie in an environment of its own below /usr/lib/goldsmith: those of tools/requirements.lock, each
# with its digest. Debian 12 has older ones of some of them. The package fits the Python that built it: build it on the
# release on which it is to be installed, after `make lock` there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PREFIX=/usr/lib/goldsmith
die() { printf 'make deb: %s\n' "$*" >&2; exit 3; }
for program in dpkg-deb python3 gcc pkg-config; do
    command -v "$program" >/dev/null || die "$program is missing: make setup, and apt-get install dpkg"
done

# the packages of the host, without those that only compile libvirt's module
depends() {
    sed -n '/^PACKAGES=(/,/^)/p' tools/setup.sh | sed 's/#.*//' | tr ' ' '\n' |
        grep -E '^[a-z0-9.+-]+$' | grep -vE '^(gcc|pkg-config|libvirt-dev|python3|python3-(venv|dev))$' | paste -sd, | sed 's/,/, /g'
}

work=$(mktemp -d -t goldsmith-deb.XXXXXX)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root$PREFIX" "$root/usr/bin" "$root/lib/systemd/system" "$root/DEBIAN" build
python3 -m venv "$root$PREFIX"
python=$root$PREFIX/bin/python
pip=("$python" -m pip --quiet --disable-pip-version-check --no-input)
"${pip[@]}" install --no-deps --require-hashes -r tools/requirements.lock
# a copy: setuptools leaves its files in the folder that it builds
cp -r pipeline pyproject.toml README.md LICENSE "$work/" 2>/dev/null
"${pip[@]}" wheel --no-deps --wheel-dir "$work" "$work"
"${pip[@]}" install --no-deps "$work"/goldsmith-*.whl
version=$("$root$PREFIX/bin/goldsmith" --version | cut -d' ' -f2)
"${pip[@]}" uninstall -y pip setuptools
find "$root" -name __pycache__ -prune -exec rm -rf {} +
# where the wheel lay, which nobody needs
find "$root" -path '*goldsmith-*.dist-info/direct_url.json' -delete
sed -i '/direct_url.json/d' "$root$PREFIX"/lib/python3*/site-packages/goldsmith-*.dist-info/RECORD
# the environment's programs name the place where they were made
grep -rlI "$root" "$root$PREFIX/bin" "$root$PREFIX/pyvenv.cfg" | xargs -r sed -i "s|$root||g"
named=$(grep -rlI "$work" "$root$PREFIX" || true)
[ -z "$named" ] || die "these files of the package name the folder in which it was made: $named"
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" "$root$PREFIX/lib"
ln -s "$PREFIX/bin/goldsmith" "$root/usr/bin/goldsmith"
sed -e "s|@PYTHON@|$PREFIX/bin/python|; s|@STORE@|/var/lib/goldsmith|g; s|@PROJECT@|$PREFIX|" \
    -e 's|`make setup` installs it.*|The package goldsmith has it.|' \
    tools/goldsmith-fabric.service >"$root/lib/systemd/system/goldsmith-fabric.service"
cp tools/goldsmith-refresh.{service,timer} "$root/lib/systemd/system/"

minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
cat >"$root/DEBIAN/control" <<CONTROL
Package: goldsmith
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: goldsmith <goldsmith@localhost>
Section: admin
Priority: optional
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: python3 (>= 3.$minor), python3 (<< 3.$((minor + 1))), $(depends)
Description: golden master images as fixed VHDs
 Builds, generalizes, proves and keeps golden master images, with KVM or QEMU.
CONTROL

cat >"$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
# The store, the user of the fabric's server and the signing key, as `make setup` makes them.
set -e
[ "$1" = configure ] || exit 0
getent passwd goldsmith-fabric >/dev/null || useradd --system --user-group --no-create-home \
    --home-dir /nonexistent --shell /usr/sbin/nologin goldsmith-fabric
for folder in "" gallery layers runs instances disks downloads tmp; do
    install -d -m 2775 -o root -g libvirt "/var/lib/goldsmith/$folder"
done
[ -e /etc/goldsmith/signing.key ] || /usr/bin/goldsmith key make >/dev/null
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl --quiet enable goldsmith-fabric.service
fi
POSTINST
chmod 755 "$root/DEBIAN/postinst"
chmod -R u+rwX,go+rX,go-w "$root"
package=build/goldsmith_${version}_$(dpkg --print-architecture).deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
printf '%s  %s MiB, goldsmith %s for python3.%s\n' "$package" $(($(stat -c %s "$package") >> 20)) "$version" "$minor"
