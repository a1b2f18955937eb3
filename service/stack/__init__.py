"""The whole stack on one machine: PostgreSQL, S3, MLflow, Ray and the API, on loopback, from wheels."""
