#!/bin/sh
# Start SeaweedFS with its S3 door: seaweedfs.sh DATA-FOLDER SECRETS-FOLDER [more options]
# Only the S3 door listens to others; master, volumes and filer speak to each other on loopback.
set -eu
umask 077
data=$1
secrets=$2
shift 2
keys=${TMPDIR:-/tmp}/identities.json
cat > "$keys" <<JSON
{"identities": [{"name": "lamppost",
  "credentials": [{"accessKey": "$(cat "$secrets/s3.access")", "secretKey": "$(cat "$secrets/s3.secret")"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
JSON
# volume.max=0: as many volumes as the disk holds. A store that fills up does not heal, so it keeps
# five per cent free. The other two keep a mistyped bucket or a deleted one from costing footage.
exec weed -logtostderr=true server -dir="$data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.volumeSizeLimitMB=1024 -master.electionTimeout=1s -master.telemetry=false \
    -volume.max=0 -volume.minFreeSpace=5 -volume.preStopSeconds=0 \
    -filer -s3 -s3.ip.bind=0.0.0.0 -s3.port.lance=0 -s3.port.iceberg=0 -s3.config="$keys" \
    -s3.allowDeleteBucketNotEmpty=false -s3.autoCreateBucket=false "$@"
