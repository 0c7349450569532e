#!/bin/sh
# Install the peers that `make bench` compares with, by package and module name. What can't be installed here is said,
# and the bench names it as absent.
set -eu

# Pinned, so that two runs compare with the same peers.
KUIPERBELT=github.com/kuiperbelt/kuiperbelt/cmd/ekbo@latest # its releases are older than Go's modules
CENTRIFUGO=github.com/centrifugal/centrifugo/v6@v6.9.1
PACKAGES="redis-server libnginx-mod-nchan pushpin"

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    # Debian starts the services of what it installs. The bench starts its own servers and wants no others, so unless
    # this machine has a policy already, it has this one meanwhile.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt-get update --quiet --quiet
    for package in $PACKAGES; do
        DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends "$package" ||
            echo "not installed: $package" >&2
    done
else
    echo "as root on Debian: apt-get install $PACKAGES" >&2
fi

if command -v go >/dev/null 2>&1; then
    for module in "$KUIPERBELT" "$CENTRIFUGO"; do
        go install "$module" || echo "not installed: $module" >&2
    done
else
    echo "Go is needed for kuiperbelt and Centrifugo: put go on PATH, or ekbo and centrifugo themselves" >&2
fi
