//! Why a decision is a denial: stable codes, and what a caller can do about each.

use serde::Serialize;

use super::Denial;

/// Stable codes of denials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DenyReason {
    /// The identity fills no stage.
    IdentityUnknown,
    /// The identity's stage holds no target scopes.
    StageHoldsNoScopes,
    /// The SVID the request was proven with ran out.
    ProofExpired,
    /// The task is unknown, over, or somebody else's.
    TaskNotOpen,
    /// No such scope, or it is not granted to this identity.
    ScopeNotGranted,
    /// The task did not declare it when it was opened.
    OutsideCeiling,
    /// A parameter is unknown, missing or out of its type or pattern.
    ParameterInvalid,
    /// More time was asked for than the scope gives.
    TtlOverLimit,
    /// The binding wants a task that another task opened.
    RootNotAllowed,
    /// The binding wants the other way to the broker.
    ViaNotAllowed,
    /// The scope wants another anchor than the task has.
    AnchorTooWeak,
    /// The task is older than the binding carries.
    TaskTooOld,
    /// A task above may neither use nor delegate the scope to those below it.
    AncestorLacksGrant,
    /// The caller may not open a task for that workload with that ceiling.
    DelegationNotAllowed,
    /// The scope wants the approval of a second admin.
    ApprovalMissing,
    /// A policy said no.
    PolicyDenied,
    /// A policy gave no answer that can be used.
    PolicyFailed,
    /// A policy narrows in a way that the target cannot enforce.
    PolicyCannotNarrow,
    /// The tree of tasks is as deep as it may be.
    TaskTreeTooDeep,
    /// An admin cut off the identity, its node, a task above it, or the scope.
    CutOff,
}

impl DenyReason {
    /// Every reason.
    pub const ALL: [DenyReason; 20] = [
        DenyReason::IdentityUnknown,
        DenyReason::StageHoldsNoScopes,
        DenyReason::ProofExpired,
        DenyReason::TaskNotOpen,
        DenyReason::ScopeNotGranted,
        DenyReason::OutsideCeiling,
        DenyReason::ParameterInvalid,
        DenyReason::TtlOverLimit,
        DenyReason::RootNotAllowed,
        DenyReason::ViaNotAllowed,
        DenyReason::AnchorTooWeak,
        DenyReason::TaskTooOld,
        DenyReason::AncestorLacksGrant,
        DenyReason::DelegationNotAllowed,
        DenyReason::ApprovalMissing,
        DenyReason::PolicyDenied,
        DenyReason::PolicyFailed,
        DenyReason::PolicyCannotNarrow,
        DenyReason::TaskTreeTooDeep,
        DenyReason::CutOff,
    ];

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            DenyReason::IdentityUnknown => "IDENTITY_UNKNOWN",
            DenyReason::StageHoldsNoScopes => "STAGE_HOLDS_NO_SCOPES",
            DenyReason::ProofExpired => "PROOF_EXPIRED",
            DenyReason::TaskNotOpen => "TASK_NOT_OPEN",
            DenyReason::ScopeNotGranted => "SCOPE_NOT_GRANTED",
            DenyReason::OutsideCeiling => "OUTSIDE_CEILING",
            DenyReason::ParameterInvalid => "PARAMETER_INVALID",
            DenyReason::TtlOverLimit => "TTL_OVER_LIMIT",
            DenyReason::RootNotAllowed => "ROOT_NOT_ALLOWED",
            DenyReason::ViaNotAllowed => "VIA_NOT_ALLOWED",
            DenyReason::AnchorTooWeak => "ANCHOR_TOO_WEAK",
            DenyReason::TaskTooOld => "TASK_TOO_OLD",
            DenyReason::AncestorLacksGrant => "ANCESTOR_LACKS_GRANT",
            DenyReason::DelegationNotAllowed => "DELEGATION_NOT_ALLOWED",
            DenyReason::ApprovalMissing => "APPROVAL_MISSING",
            DenyReason::PolicyDenied => "POLICY_DENIED",
            DenyReason::PolicyFailed => "POLICY_FAILED",
            DenyReason::PolicyCannotNarrow => "POLICY_CANNOT_NARROW",
            DenyReason::TaskTreeTooDeep => "TASK_TREE_TOO_DEEP",
            DenyReason::CutOff => "CUT_OFF",
        }
    }

    /// What a caller can do about it.
    pub const fn next(self) -> &'static str {
        match self {
            DenyReason::IdentityUnknown => "ask the platform team to add your SPIFFE ID to a Stage document",
            DenyReason::StageHoldsNoScopes => {
                "use a workload's identity; admins and nodes hold no target scopes"
            }
            DenyReason::ProofExpired => "fetch a fresh SVID and ask again",
            DenyReason::TaskNotOpen => "open a task and ask under it",
            DenyReason::ScopeNotGranted => "check the scope's name, or ask the platform team for a binding",
            DenyReason::OutsideCeiling => "name the scope and its parameters when the task is opened",
            DenyReason::ParameterInvalid => "correct the parameters; `dayfly scope show` lists them",
            DenyReason::TtlOverLimit => "ask for less time, or leave the ttl out",
            DenyReason::RootNotAllowed => "ask from a task opened inside another task",
            DenyReason::ViaNotAllowed => "come the way the binding says: through the node agent, or directly",
            DenyReason::AnchorTooWeak => "run under a node agent that owns the task's cgroup",
            DenyReason::TaskTooOld => "open a new task",
            DenyReason::AncestorLacksGrant => {
                "ask the platform team for `use` or `delegate` for the parent task"
            }
            DenyReason::DelegationNotAllowed => {
                "ask the platform team for `delegate` to that workload, or leave the scope out"
            }
            DenyReason::ApprovalMissing => {
                "have it requested with `dayfly request` and approved by a second admin"
            }
            DenyReason::PolicyDenied => "change what the reasons name, or ask the platform team",
            DenyReason::PolicyFailed => {
                "give the platform team the request id; the record tells which policy failed"
            }
            DenyReason::PolicyCannotNarrow => {
                "give the platform team the request id; the policy asks for what the target cannot do"
            }
            DenyReason::TaskTreeTooDeep => "do it in a task that is open, or nest fewer tasks",
            DenyReason::CutOff => "ask the platform team: an admin cut it off, and only an admin lifts that",
        }
    }

    /// The denial, without a trace.
    pub fn denial(self, message: String) -> Denial {
        Denial { reason: self, message, next: self.next().to_owned(), trace: Vec::new() }
    }
}
