//go:build tools

// Package vault keeps the module graph of the program that is built from it.
package vault

import _ "github.com/hashicorp/vault"
