#!/bin/sh
# At the first start of PostgreSQL: the services' role, which owns its database and is no superuser.
set -eu
secrets=${SECRETS_DIR:-/etc/lamppost/secrets}
psql -X -q -v ON_ERROR_STOP=1 --username postgres --dbname postgres <<SQL
\set password \`cat $secrets/postgres.password\`
create role lamppost login password :'password';
create database lamppost owner lamppost;
revoke all on database lamppost from public;
SQL
