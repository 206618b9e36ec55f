#!/usr/bin/env bash
# Makes the secrets of deploy/compose.yaml that are not there yet: random ones, and stand-ins for where alerts go.
set -euo pipefail
cd "$(dirname "$0")"
# Compose binds the files as they are, and each image has a user of its own: they are open to all, and their folder to none.
chmod 700 .
umask 022

made() { # name, text
  [ -e "$1" ] || { printf '%s' "$2" >"$1" && echo "made deploy/secrets/$1"; }
}
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

made ray-token "$(random 32)"
made grafana-password "$(random 12)"
key=$(random 10) secret=$(random 20)
if [ ! -e store-server.json ]; then
  made store-server.json "{\"identities\": [{\"name\": \"uadray\", \"credentials\": [{\"accessKey\": \"$key\", \"secretKey\": \"$secret\"}],
\"actions\": [\"Admin\", \"Read\", \"Write\", \"List\", \"Tagging\"]}]}"
  printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" >store-client.ini
fi
token=$(random 32)
if [ ! -e endpoint-tokens.yaml ]; then
  made endpoint-token "$token"
  made endpoint-tokens.yaml "- {name: admin, scopes: [admin], sha256: $(printf %s "$token" | sha256sum | cut -d' ' -f1)}"
fi
made pagerduty-routing-key "put-the-key-here"
made slack-webhook-url "http://127.0.0.1:9/put-the-address-here"
