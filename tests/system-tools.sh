#!/bin/sh
# The tests need programs that pip can't install: install what is missing where that is allowed, else say how.
set -eu

packages=""
command -v chromium >/dev/null 2>&1 || packages="$packages chromium"

[ -n "$packages" ] || exit 0
install="apt-get update && apt-get install --yes --no-install-recommends$packages"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$packages"
    apt-get update --quiet --quiet
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends $packages
else
    echo "the tests need:$packages. Install it with:" >&2
    echo "  sudo sh -c '$install'" >&2
    exit 1
fi
