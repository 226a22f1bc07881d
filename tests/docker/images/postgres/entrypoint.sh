#!/bin/sh
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, /docker-entrypoint-initdb.d/*.sql and arguments for the server
# mean what they mean to the official image. As there, TCP opens when the database is prepared.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "${POSTGRES_PASSWORD:?}" > /tmp/password
    initdb --pgdata "$PGDATA" --username "$user" --pwfile /tmp/password --auth-host scram-sha-256 --auth-local trust \
        --encoding UTF8 --locale C.UTF-8
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl --pgdata "$PGDATA" --wait start --options "-c listen_addresses="
    [ "$database" = postgres ] || createdb --username "$user" --maintenance-db postgres "$database"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -e "$file" ] || psql --username "$user" --dbname "$database" --set ON_ERROR_STOP=1 --file "$file"
    done
    pg_ctl --pgdata "$PGDATA" --wait --mode fast stop
fi

[ "${1:-}" != postgres ] || shift
exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"
