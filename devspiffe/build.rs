//! Compiles the protocol definitions in `proto/` without a system `protoc`.

use std::error::Error;

/// Messages that carry a private key or a token: their `Debug` is written by hand, in `src/pb.rs`.
const SECRET_BEARING: [&str; 5] = [
    ".X509SVID",
    ".JWTSVID",
    ".ValidateJWTSVIDRequest",
    ".spire.api.types.JWTSVID",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(
        ["workload.proto", "spire/api/agent/delegatedidentity/v1/delegatedidentity.proto"],
        ["proto"],
    )?;
    tonic_prost_build::configure().build_client(false).skip_debug(SECRET_BEARING).compile_fds(descriptors)?;
    Ok(())
}
