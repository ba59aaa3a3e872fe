# Shared by the scripts in this folder; sourced, not run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Debian packages by name: what is missing is installed, what is there is left alone.
need_packages() {
    local missing=() p sudo=""
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    echo "installing: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "these Debian packages are missing, and there is no sudo: ${missing[*]}" >&2; exit 3; }
        sudo=sudo
    fi
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

BUILD_PACKAGES=(gcc cmake make pkg-config git ca-certificates libc6-dev libyaml-dev libsqlite3-dev libzstd-dev libpcre2-dev
    libutf8proc-dev libjansson-dev libxxhash-dev libssl-dev libpng-dev)
JOBS=$(nproc)

# build FOLDER [cmake options]: configures and builds; the log is shown only when it fails.
build() {
    local folder=$1 log
    shift
    mkdir -p "$folder"
    log=$folder/build.log
    if ! { cmake -S . -B "$folder" "$@" && cmake --build "$folder" -j "$JOBS"; } >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        echo "the build in $folder failed; the whole log: $log" >&2
        exit 1
    fi
}
