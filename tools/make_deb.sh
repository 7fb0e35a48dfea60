#!/bin/bash
# `make deb`: a Debian package of goldsmith, build/goldsmith_VERSION_ARCHITECTURE.deb.
#
# Its Python packages lie in a virtual environment of its own below /usr/lib/goldsmith, because Debian has older ones
# of some of them. The package fits the Python that built it: build it on the release on which you install it. With
# tools/requirements.lock that file says which Python packages, each with its digest, if it is for this Python and this
# processor (`make lock` writes it anew); otherwise pip takes the newest ones that pyproject.toml allows.
#
#   tools/make_deb.sh            build it
#   tools/make_deb.sh depends    print the packages that it depends on, one per line, without Python itself
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PREFIX=/usr/lib/goldsmith
PYTHON=/usr/bin/python3
# whom users of the package may write to
MAINTAINER="${DEBFULLNAME:-goldsmith} <${DEBEMAIL:-goldsmith@localhost.localdomain}>"
LOCK=tools/requirements.lock
BUILD_LOCK=tools/build.lock
say() { printf 'deb          %s\n' "$*"; }
die() { printf 'make deb: %s\n' "$*" >&2; exit 3; }

# The packages that `make setup` installs, without those that only compile libvirt's module or make an environment, and
# without what every Debian has (Essential).
depends() {
    sed -n '/^PACKAGES=(/,/^)/p' tools/setup.sh | sed 's/#.*//; s/^PACKAGES=(//; s/^)//' | tr -s ' ' '\n' | sed '/^$/d' |
        grep -vE '^(gcc|pkg-config|libvirt-dev|python3|python3-(venv|dev)|util-linux)$'
}
if [ "${1-}" = depends ]; then
    depends
    exit 0
fi

for program in dpkg-deb "$PYTHON" gcc pkg-config strip; do
    command -v "$program" >/dev/null || die "$program is missing: sudo make setup, and apt-get install dpkg-dev"
done
work=$(mktemp -d -t goldsmith-deb.XXXXXX)
trap 'rm -rf "$work"' EXIT
root=$work/root
lib=$root$PREFIX
documents=$root/usr/share/doc/goldsmith
mkdir -p "$lib" "$documents/examples" "$root"/usr/{bin,lib/systemd/system,lib/sysusers.d} "$root/DEBIAN" build
mkdir -p "$root"/usr/share/{man/man1,bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
mkdir -p "$root/usr/share/lintian/overrides"
# one date in all files: the last change's, so that the same sources make the same package
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH PYTHONDONTWRITEBYTECODE=1

say "Python packages"
"$PYTHON" -m venv "$lib"
python=$lib/bin/python
pip=("$python" -m pip --quiet --disable-pip-version-check --no-input)
# a copy: setuptools leaves its files in the folder that it builds, and takes old ones from there
mkdir "$work/source"
cp -r pipeline playbooks pyproject.toml README.md LICENSE "$work/source/"
"${pip[@]}" wheel --no-deps --wheel-dir "$work" "$work/source"
fits="# For Python $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') on $(uname -m); written by \`make lock\`."
if [ "$(head -n 1 "$LOCK")" = "$fits" ]; then
    "${pip[@]}" install --no-compile --require-hashes --only-binary :all: -r "$BUILD_LOCK"
    "${pip[@]}" install --no-compile --require-hashes --no-build-isolation -r "$LOCK"
    "${pip[@]}" install --no-compile --no-deps "$work"/goldsmith-*.whl
else
    say "$LOCK is for another Python or processor: pip takes the newest packages of the allowed ranges"
    "${pip[@]}" install --no-compile "$work"/goldsmith-*.whl
fi
"${pip[@]}" check
version=$("$python" -m pipeline --version | cut -d' ' -f2)
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')

say "manual pages, completion, units"
"$python" -m pipeline man "$root/usr/share/man/man1" >/dev/null
"$python" -m pipeline completion bash >"$root/usr/share/bash-completion/completions/goldsmith"
"$python" -m pipeline completion zsh >"$root/usr/share/zsh/vendor-completions/_goldsmith"
"$python" -m pipeline completion fish >"$root/usr/share/fish/vendor_completions.d/goldsmith.fish"
"${pip[@]}" uninstall --yes pip setuptools wheel
sed -e "s|@PYTHON@|$PREFIX/bin/python|; s|@STORE@|/var/lib/goldsmith|g; s|@PROJECT@|$PREFIX|" \
    -e 's| `make setup` installs it with its paths filled in.||' \
    tools/goldsmith-fabric.service >"$root/usr/lib/systemd/system/goldsmith-fabric.service"
cp tools/goldsmith-refresh.{service,timer} "$root/usr/lib/systemd/system/"
cp tools/deb/sysusers.conf "$root/usr/lib/sysusers.d/goldsmith.conf"
cp tools/deb/lintian-overrides "$root/usr/share/lintian/overrides/goldsmith"
ln -s ../lib/goldsmith/bin/goldsmith "$root/usr/bin/goldsmith"

# The environment's programs name the folder in which they were made; its modules were compiled here, with symbols.
rm -rf "$lib"/lib/python3.*/site-packages/goldsmith-*.dist-info/direct_url.json "$lib/bin"/[Aa]ctivate* "$lib/include"
find "$lib" -name __pycache__ -prune -exec rm -rf {} +
grep -rlI "$root" "$lib/bin" "$lib/pyvenv.cfg" | xargs -r sed -i "s|$root||g"
find "$lib" -name .gitignore -delete
find "$lib" -name '*.so*' -type f -exec chmod -x {} +
find "$lib/lib" -name '*.py' -perm /111 -exec sh -c 'head -c 2 "$1" | grep -q "^#!" || chmod -x "$1"' check {} \;
find "$lib" -name 'libvirtmod*.so' -exec strip --strip-unneeded {} +
if grep -rqF "$work" "$lib"; then die "a file of the package names the folder in which it was made: $(grep -rlF "$work" "$lib")"; fi
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" "$lib/lib" >/dev/null ||
    say "some modules are not compiled; Python reads their sources"
# relative, as Debian asks; from here on this environment has no Python until it is installed
ln -sfn ../../../bin/python3 "$lib/bin/python3"

cp README.md CHANGELOG.md docs/*.md tools/deb/copyright "$documents/"
cp -r docs/how-to "$documents/"
# examples/linux links to the playbooks beside it
cp -rL images playbooks first-boot examples/* "$documents/examples/"
printf 'goldsmith (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n' "$version" \
    "$MAINTAINER" "$(date -R -u -d "@$SOURCE_DATE_EPOCH")" |
    gzip -9n >"$documents/changelog.gz"
gzip -9n "$root"/usr/share/man/man1/*.1

install -m 755 tools/deb/{postinst,prerm,postrm} "$root/DEBIAN/"
sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$(dpkg --print-architecture)|; s|@SIZE@|$(du -sk "$root" | cut -f1)|" \
    -e "s|@MAINTAINER@|$MAINTAINER|" \
    -e "s|@PYTHON@|python3 (>= 3.$minor~), python3 (<< 3.$((minor + 1)))|" \
    -e "s|@DEPENDS@|$(depends | paste -sd, | sed 's/,/, /g')|" tools/deb/control.in >"$root/DEBIAN/control"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
chmod -R u+rwX,go+rX,go-w "$root"

package=build/goldsmith_${version}_$(dpkg --print-architecture).deb
say "$package"
dpkg-deb --root-owner-group -Zxz -z4 --build "$root" "$package" >/dev/null
say "$(($(stat -c %s "$package") >> 20)) MiB, goldsmith $version for Python 3.$minor; install it: sudo apt-get install ./$package"
