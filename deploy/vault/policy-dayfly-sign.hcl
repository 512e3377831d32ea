# The broker's signing login. It signs with these four keys and reads their public halves; it can export, change, rotate,
# delete and back up none. No glob: a key that somebody else names dayfly-… would be the broker's too.

path "transit/sign/dayfly-access" {
  capabilities = ["update"]
}
path "transit/keys/dayfly-access" {
  capabilities = ["read"]
}

path "transit/sign/dayfly-federation" {
  capabilities = ["update"]
}
path "transit/keys/dayfly-federation" {
  capabilities = ["read"]
}

path "transit/sign/dayfly-receipt" {
  capabilities = ["update"]
}
path "transit/keys/dayfly-receipt" {
  capabilities = ["read"]
}

path "transit/sign/dayfly-revocation" {
  capabilities = ["update"]
}
path "transit/keys/dayfly-revocation" {
  capabilities = ["read"]
}
