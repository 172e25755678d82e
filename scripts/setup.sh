#!/usr/bin/env bash
# Installs what is missing, and nothing twice. Usage: scripts/setup.sh demo|all|fuzz|mutants
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
peers=(0.5.3 0.7.2)

fail() {
  echo "setup: $1" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
  command -v apt-get >/dev/null || fail "needs $* and there is no apt-get here: install them by hand"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "needs $*: install them as root"
  echo "setup: installing $*"
  local log
  log=$(mktemp)
  if ! { as_root apt-get -q update && as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
    fail "apt-get could not install $* (its output: $log)"
  fi
  rm -f "$log"
}

has() {
  PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null
}

debian_packages() {
  local missing=()
  has "$python" || missing+=(python3)
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  has ssh || missing+=(openssh-client)
  if [ "$1" = all ]; then
    has sshd || missing+=(openssh-server)
    has rsync || missing+=(rsync)
    has rclone || missing+=(rclone)
    has strace || missing+=(strace)
    has lftp || missing+=(lftp)
    has zstd || missing+=(zstd)
    has systemd-analyze || missing+=(systemd)
  fi
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$python is older than Python 3.10"
}

make_venv() {
  # One of another interpreter, or of one that has gone, is made again.
  if [ "$("$1/bin/python" -VV 2>/dev/null)" = "$("$python" -VV)" ] \
    && "$1/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  rm -rf "$1"
  "$python" -m venv "$1" || fail "$python could not make the virtual environment $1"
}

pip_install() {
  local venv=$1
  shift
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input "$@" \
    || fail "pip could not install into $venv: $*"
}

install_project() {
  local extra=$1 stamp=.venv/.runicorn-$1 want
  want=$(cat pyproject.toml constraints.txt src/runicorn/_version.py; "$python" -VV)
  if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then return; fi
  echo "setup: .venv with runicorn[$extra]"
  make_venv .venv
  # The build backend comes under the constraints too, so the build is not isolated.
  pip_install .venv -c constraints.txt hatchling editables
  pip_install .venv -c constraints.txt --no-build-isolation -e ".[$extra]"
  printf '%s\n' "$want" >"$stamp"
}

install_peer() {
  local venv=.venv-peers/$1
  local stamp=$venv/.complete want
  want=$("$python" -VV)
  if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then return; fi
  echo "setup: $venv with the released runicorn $1"
  make_venv "$venv"
  pip_install "$venv" "runicorn==$1"
  printf '%s\n' "$want" >"$stamp"
}

install_for_development() {
  install_project dev
  for version in "${peers[@]}"; do install_peer "$version"; done
}

case ${1:-} in
  demo) debian_packages demo ;;
  *) debian_packages all ;;
esac
case ${1:-} in
  demo) if [ -e .venv/.runicorn-dev ]; then install_project dev; else install_project paramiko; fi ;;
  all) install_for_development ;;
  fuzz | mutants)
    install_for_development
    install_project "$1"
    ;;
  *) fail "usage: scripts/setup.sh demo|all|fuzz|mutants" ;;
esac
