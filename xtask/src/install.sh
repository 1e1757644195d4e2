# Installs Debian packages ($1) without starting the services ($2) that come with them, now or at the next boot. Run by
# root. Whatever policy-rc.d there was is back in its place afterwards.
set -eu

policy=/usr/sbin/policy-rc.d
# Debian's Postgres makes a cluster when it is installed, unless this says otherwise.
clusters=/etc/postgresql-common/createcluster.d/tenure-xtask.conf
restore() {
    rm -f "$policy" "$clusters"
    # They stay where anything else is in them.
    rmdir -p "${clusters%/*}" 2>/dev/null || :
    if [ -e "$policy.found" ]; then mv "$policy.found" "$policy"; fi
}
# If a run was killed before it could put the found policy back, that one is still the one to keep.
if [ -e "$policy" ] && [ ! -e "$policy.found" ]; then mv "$policy" "$policy.found"; fi
trap restore EXIT
trap 'exit 130' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"
mkdir -p "${clusters%/*}"
echo 'create_main_cluster = false' >"$clusters"

export DEBIAN_FRONTEND=noninteractive
# The lists that are there may do where one of the sources does not answer.
apt-get update || echo "the package lists could not be renewed; going on with those that are here"
apt-get install --yes --no-install-recommends $1
for service in $2; do
    if command -v systemctl >/dev/null; then systemctl disable "$service"; else update-rc.d "$service" disable; fi
done
