#!/bin/sh
# Restart or upgrade one service after the other, so that recording goes on: compose/roll.sh
# Compose's own `up` and `restart` end both recorders at once. Here one ends when the other has its
# cameras, and is there again before the other's turn comes. Who reads what another writes is replaced
# before it. Names of services: only those.
# The time-out is the recorders' stop_grace_period, which podman takes for ten seconds and a kill.
set -eu
cd "$(dirname "$0")/.."
compose=${COMPOSE:-docker compose}
services=${*:-"api index retention detect spool ingest spool2 ingest2"}

# The new schema is one that the old version can live with.
$compose run --rm -T --no-deps migrate
for service in $services; do
    echo "$service"
    $compose up -d --no-deps --no-build --force-recreate --wait --wait-timeout 180 \
        --timeout 45 "$service"
done
