#!/bin/sh
# Start the one Kafka broker: kafka.sh PROPERTIES PASSWORD-FILE
# The first start formats its volume and makes the account that the services sign in with; the
# broker keeps of the password only what SCRAM needs to check it.
set -eu
properties=$1
password_file=$2
data=$(sed -n 's/^log\.dirs=//p' "$properties")
if [ ! -e "$data/meta.properties" ]; then
    kafka-storage.sh format --cluster-id TGFtcHBvc3RDb21wb3NlMQ --config "$properties" \
        --add-scram "SCRAM-SHA-512=[name=lamppost,password=$(cat "$password_file")]" \
        > /dev/null # it prints what it keeps of the password
fi
exec kafka-server-start.sh "$properties"
