//! Compiles the protos with protox, so that no system `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["scope", "credential", "node", "admin", "approval", "question", "key", "revocation"]
        .map(|name| format!("dayfly/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        // Their `Debug` is written by hand and shows no secret.
        .skip_debug(SECRET_BEARING)
        .compile_fds(descriptors)?;
    Ok(())
}

const SECRET_BEARING: [&str; 15] = [
    "dayfly.v1.AwsCredential",
    "dayfly.v1.VaultCredential",
    "dayfly.v1.TokenCredential",
    "dayfly.v1.OpenTaskRequest",
    "dayfly.v1.OpenTaskResponse",
    "dayfly.v1.DelegateTaskRequest",
    "dayfly.v1.ClaimTaskRequest",
    "dayfly.v1.ClaimTaskResponse",
    "dayfly.v1.EndTaskRequest",
    "dayfly.v1.AuthorizeRequest",
    "dayfly.v1.AuthorizeResponse",
    "dayfly.v1.IssueCredentialRequest",
    "dayfly.v1.RenewLeaseRequest",
    "dayfly.v1.RevokeLeaseRequest",
    "dayfly.v1.WatchTaskRequest",
];
