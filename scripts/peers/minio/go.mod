// Pins the MinIO that the tests run. Its own go.mod and go.sum pin the rest: ../build compiles inside a copy of it.
module peers.invalid/minio

go 1.26

require github.com/minio/minio v0.0.0-20260212201848-7aac2a2c5b7c
