#!/bin/sh
# Programs that some tests need and no Python package has: `sh tests/tools.sh chromium|promtool BIN`, BIN the
# virtual environment's bin.  Takes what is installed, else Debian's package where that can be had, else (Chromium)
# Playwright's own.  Ends well in any case: without the program its tests are skipped, and say so.
set -u
what=$1
bin=$2
quick="-o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o Acquire::Retries=1"

# Set $root to what makes a command root's; fails where nothing does.
as_root() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then
        root="env"
    elif sudo -n true 2>/dev/null; then
        root="sudo -n env"
    else
        return 1
    fi
}

get_chromium() {
    for name in chromium chromium-browser google-chrome; do
        command -v $name && return
    done
    "$bin/python" -c 'import os, sys; from playwright.sync_api import sync_playwright as start
with start() as one: sys.exit(not os.path.exists(one.chromium.executable_path))' 2>/dev/null && return
    if as_root; then
        $root DEBIAN_FRONTEND=noninteractive apt-get $quick update -qq >&2
        $root DEBIAN_FRONTEND=noninteractive apt-get $quick install -qq -y --no-install-recommends chromium >&2 &&
            command -v chromium && return
    fi
    "$bin/playwright" install chromium >&2 && return
    echo "No Chromium could be had, neither as the system's package nor from Playwright: install one as 'chromium'." \
        "The console's browser tests are skipped without it." >&2
}

# Debian's package starts a Prometheus when it is installed: only its tool is taken out.
get_promtool() {
    command -v promtool && return
    test -x "$bin/promtool" && return
    if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
        folder=$(mktemp -d)
        (
            cd "$folder" || exit 1
            apt-get $quick download -qq prometheus 2>/dev/null ||
                { as_root && $root apt-get $quick update -qq && apt-get $quick download -qq prometheus; } || exit 1
            dpkg-deb -x prometheus_*.deb .
        ) >&2 && cp "$folder/usr/bin/promtool" "$bin/promtool"
        rm -rf "$folder"
        test -x "$bin/promtool" && return
    fi
    echo "No promtool could be had: install Prometheus. The checks of alert rules are skipped without it." >&2
}

"get_$what"
exit 0
