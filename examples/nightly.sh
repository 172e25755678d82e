#!/bin/sh
# For cron or a timer: sync, prove, keep a copy. It says nothing but trouble, on stderr: mail or log that.
# Usage: nightly.sh SOURCE MIRROR BACKUPS, in a crontab:
#   0 3 * * * /opt/lab/nightly.sh gpu1:/data/experiments /srv/mirror /srv/backups
set -u
source=$1 mirror=$2 backups=$3

runicorn sync "$source" "$mirror" --quiet --jitter 60
code=$?
case $code in
  0) ;;
  3) echo "nightly: some files failed; the next sync tries them again" >&2 ;;
  4) echo "nightly: no connection to $source; the backup is of the last good state" >&2 ;;
  8) echo "nightly: no backup: another sync, or a watch, works on the mirror" >&2; exit 8 ;;
  *) exit "$code" ;;
esac

runicorn verify "$mirror" --repair --quiet || {
  failed=$?
  echo "nightly: no backup: the mirror could not be proven, see \`runicorn verify $mirror\`" >&2
  exit "$failed"
}
mkdir -p "$backups"
tar -czf "$backups/$(date +%F).tar.gz.new" -C "$mirror" . && mv "$backups/$(date +%F).tar.gz.new" "$backups/$(date +%F).tar.gz"
exit "$code"
