# Added to policy-dayfly-sign.hcl where `dayfly key rotate` is to make versions by itself. Without it the command says what
# an administrator of Vault types instead. A new version signs only after it stood by.

path "transit/keys/dayfly-access/rotate" {
  capabilities = ["update"]
}
path "transit/keys/dayfly-federation/rotate" {
  capabilities = ["update"]
}
path "transit/keys/dayfly-receipt/rotate" {
  capabilities = ["update"]
}
path "transit/keys/dayfly-revocation/rotate" {
  capabilities = ["update"]
}
