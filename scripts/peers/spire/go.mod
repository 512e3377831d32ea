// Pins the SPIRE that the tests run. Its own go.mod and go.sum pin the rest: ../build compiles inside a copy of it.
module peers.invalid/spire

go 1.26

require github.com/spiffe/spire v1.13.3
