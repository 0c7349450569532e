#!/bin/sh
# The tests need programs that pip can't install: install what is missing where that is allowed, else say how.
set -eu

PATH="$PATH:/usr/sbin" # where nginx is, though not for everybody
packages=""
command -v chromium >/dev/null 2>&1 || packages="$packages chromium"
command -v redis-server >/dev/null 2>&1 || packages="$packages redis-server" # is the Sentinel as well
command -v nginx >/dev/null 2>&1 || packages="$packages nginx-light"
command -v haproxy >/dev/null 2>&1 || packages="$packages haproxy"
command -v prometheus >/dev/null 2>&1 || packages="$packages prometheus"
# The examples that verify signatures.
command -v php >/dev/null 2>&1 || packages="$packages php-cli"
ls /usr/sbin/php-fpm* >/dev/null 2>&1 || packages="$packages php-fpm"
command -v ruby >/dev/null 2>&1 || packages="$packages ruby"
command -v rails >/dev/null 2>&1 || packages="$packages ruby-rails ruby-sqlite3 puma bundler" # for its guide
command -v node >/dev/null 2>&1 || packages="$packages nodejs"
command -v perl >/dev/null 2>&1 || packages="$packages perl"
command -v systemd-analyze >/dev/null 2>&1 || packages="$packages systemd" # for systemd-analyze; it starts nothing
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || packages="$packages postgresql"
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || packages="$packages libfaketime"

[ -n "$packages" ] || exit 0
install="apt-get update && apt-get install --yes --no-install-recommends$packages"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$packages"
    # Debian starts the services of what it installs. The tests start their own servers and want no others, so unless
    # this machine has a policy already, it has this one meanwhile.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt-get update --quiet --quiet
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends $packages
else
    echo "the tests need:$packages. Install it with:" >&2
    echo "  sudo sh -c '$install'" >&2
    exit 1
fi
