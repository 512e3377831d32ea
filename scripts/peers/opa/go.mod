// Pins the OPA that the tests ask. Its own go.mod and go.sum pin the rest: ../build compiles inside a copy of it.
module peers.invalid/opa

go 1.26

require github.com/open-policy-agent/opa v1.22.0
