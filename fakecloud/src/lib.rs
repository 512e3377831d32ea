//! A cloud for tests that evaluates, and misbehaves when told to: STS, IAM and a little S3.
//!
//! It checks what AWS checks: a web identity token's signature against its issuer's keys, a role's trust policy, the
//! signature of each request, and whether role, session policy and permissions boundary together allow it. So a test looks
//! at *effect*: a session that was revoked is one that gets `AccessDenied`, whatever document was written.
//!
//! What it does not know it refuses with `FakeCloudDoesNotKnow` and keeps as a complaint; a [`FakeCloud`] dropped with
//! complaints panics.
//!
//! Its own tests ask it with AWS's client of STS, and IAM with queries that AWS's library signed: AWS's client of IAM has
//! some 170 operations to compile, of which six are needed.
//!
//! Where AWS documents a rule, the code names the page. It has no resource policies, no organisations, no chained roles
//! and no users, and it never talks to AWS.
//!
//! ```
//! use dayfly_fakecloud::{FakeCloud, Fault, Seed, Trouble};
//!
//! let cloud = FakeCloud::start(&Seed::default());
//! cloud.fault(Fault { action: "iam:PutRolePolicy".into(), trouble: Trouble::LoseAnswer, times: Some(1) });
//! assert!(cloud.url().starts_with("http://127.0.0.1:"));
//! ```
//!
//! One address serves all: `POST /` is STS or IAM, by the query's `Version`; `/s3/BUCKET/KEY` is S3, path style;
//! `/_fakecloud/` is for tests in other processes, who start the binary `dayfly-fakecloud`.

mod account;
mod admin;
mod answer;
mod cloud;
mod door;
mod handle;
mod iam;
mod oidc;
mod params;
pub mod policy;
mod s3;
mod seed;
mod server;
mod sigv4;
mod sts;
mod timeline;
mod token;
mod trouble;
mod wire;

pub use account::ACCOUNT;
pub use cloud::Asked;
pub use handle::{FakeCloud, Keys, SessionAsk};
pub use seed::{ProviderSeed, RoleSeed, Seed};
pub use timeline::Propagation;
pub use trouble::{Fault, Settings, Trouble};
