# What a token of the role dayfly-kb-read may do: the scope's own permission. Change it to yours.

path "secret/data/kb/*" {
  capabilities = ["read"]
}
