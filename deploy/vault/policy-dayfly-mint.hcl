# The broker's giving login. It creates tokens of the roles named here and lengthens them; it reads no secret.
# One pair of paths for each token role. No glob: a role that somebody else names dayfly-… would be the broker's too.
# It must not be able to write auth/token/roles.

path "auth/token/create/dayfly-kb-read" {
  capabilities = ["update"]
}
path "auth/token/roles/dayfly-kb-read" {
  capabilities = ["read"]
}

# What the scopes' policies open, and which engine is mounted where: read when a scope is applied. One path for each policy.
path "sys/policies/acl/kb-read" {
  capabilities = ["read"]
}
path "sys/mounts" {
  capabilities = ["read"]
}

path "auth/token/renew-accessor" {
  capabilities = ["update"]
}
