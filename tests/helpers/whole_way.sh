#!/usr/bin/env bash
# From a file to an adapter in production, and one more task: the way of a newcomer, with the time of each step.
# In a folder with tickets.csv, tickets_latin1.csv, december.csv and new.csv; words for the sweep may follow.
set -euo pipefail
cd "$1"
shift

step() {
    local start=$SECONDS
    printf '\n$ %s\n' "$*"
    "$@"
    printf '(%d s)\n' "$((SECONDS - start))"
}

step lamina init tickets.csv
step lamina init tickets_latin1.csv
step lamina check tickets.yaml tickets_latin1.yaml
step lamina sweep tickets.yaml "$@"
step lamina report runs/tickets
step lamina predict runs/tickets new.csv --explain -o said.csv
step lamina learn runs/tickets stream.path=december.csv -o december
step lamina predict december december.csv --explain -o said_december.csv
step lamina export runs/tickets exported --trial finetune-lora
step python plain.py exported new.csv plain.csv
step lamina predict exported new.csv -o said_exported.csv

token=a-token-of-this-way-alone
LAMINA_TOKEN=$token lamina serve tickets=december --port 0 >serve.log 2>&1 &
server=$!
trap 'kill -INT $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT
for _ in $(seq 240); do
    address=$(grep -o 'http://127.0.0.1:[0-9]*' serve.log | head -n 1 || true)
    if [ -n "$address" ] && curl --silent --fail "$address/healthz" >/dev/null; then break; fi
    kill -0 "$server"
    sleep 0.5
done
curl --silent --output /dev/null --write-out '%{http_code}' "$address/v1/bundles" >stranger.txt
step curl --silent --fail "$address/v1/predict" -H 'Content-Type: application/json' -H "Authorization: Bearer $token" \
    -d '{"inputs": ["the voucher is missing; please return it"], "top_k": 3}' -o answer.json
grep -lz "LAMINA_TOKEN=$token" /proc/[0-9]*/environ >holders.txt 2>/dev/null || true
echo "$server" >server.txt
