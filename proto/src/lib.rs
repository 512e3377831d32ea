//! The wire contract of Dayfly, and nothing else: what `proto/dayfly/v1/*.proto` says, as Rust types.
//!
//! Messages that carry a secret (a credential, a task key, a subject token) print dots in its place.

/// Package `dayfly.v1`.
#[expect(missing_docs, clippy::all, reason = "generated; the comments stand in the .proto files")]
pub mod v1 {
    tonic::include_proto!("dayfly.v1");
}

mod redacted;

/// The protos as a serialized `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
