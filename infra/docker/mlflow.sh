#!/bin/sh
# MLflow's server with passwords, as it runs in the containers. Of its settings, mlflow reads MLFLOW_BACKEND_STORE_URI,
# MLFLOW_DEFAULT_ARTIFACT_ROOT, MLFLOW_SERVER_ALLOWED_HOSTS, MLFLOW_PORT, MLFLOW_WORKERS, MLFLOW_AUTH_ADMIN_USERNAME,
# MLFLOW_AUTH_ADMIN_PASSWORD and MLFLOW_FLASK_SERVER_SECRET_KEY by itself; libpq reads PGPASSWORD.
set -eu
: "${MLFLOW_BACKEND_STORE_URI:?}" "${MLFLOW_DEFAULT_ARTIFACT_ROOT:?}" "${MLFLOW_SERVER_ALLOWED_HOSTS:?}"
: "${MLFLOW_AUTH_ADMIN_USERNAME:?}" "${MLFLOW_AUTH_ADMIN_PASSWORD:?}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?}"

# Without the cache a request takes 300 ms: the password's hash is slow on purpose.
export MLFLOW_AUTH_CONFIG_PATH=/tmp/mlflow-auth.ini
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = READ
database_uri = $MLFLOW_BACKEND_STORE_URI
auth_cache_ttl_seconds = 60
END

# Workers send files to S3 themselves, without a detour through this server; its job execution would take 2 GB.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
exec mlflow server --host 0.0.0.0 --app-name basic-auth --no-serve-artifacts
