//! Actions whose effect outlasts the session, or is more than the session has. A session policy may allow one only if its
//! scope says what it leaves behind.
//!
//! The list is reviewed by people and never whole: AWS adds actions every week. What it misses is still bounded by the
//! role's own policy and its boundary. Names are those of the AWS Service Authorization Reference.

/// What an action leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// Credentials that live on when the session is over.
    Credentials,
    /// Rights for somebody, or fewer limits on them.
    Rights,
    /// Code that runs with another role, or a shell on a machine that has one.
    Code,
    /// A connection that stays open when the session is over.
    Connection,
}

impl Escape {
    /// What it leaves behind, in words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Escape::Credentials => "hands out credentials that no end of the task touches",
            Escape::Rights => "changes who may do what, beyond the end of the task",
            Escape::Code => "runs code as another role, beyond the end of the task",
            Escape::Connection => "opens a connection that outlasts the session",
        }
    }

    /// A word for what stays, as a scope may declare it.
    pub(super) const fn noun(self) -> &'static str {
        match self {
            Escape::Credentials => "credentials",
            Escape::Rights => "rights",
            Escape::Code => "code",
            Escape::Connection => "connections",
        }
    }
}

use Escape::{Code, Connection, Credentials, Rights};

/// By service: patterns of actions. `*` stands for any text, as in IAM.
#[rustfmt::skip]
const ESCAPES: &[(&str, Escape, &[&str])] = &[
    // Successors.
    ("sts", Credentials, &["Assume*", "Get*Token"]),
    ("codeartifact", Credentials, &["GetAuthorizationToken"]),
    ("cognito-identity", Credentials, &["GetCredentialsForIdentity", "GetOpenIdToken*"]),
    ("connect", Credentials, &["GetFederationToken"]),
    ("datazone", Credentials, &["GetEnvironmentCredentials"]),
    ("ecr", Credentials, &["GetAuthorizationToken"]),
    ("ecr-public", Credentials, &["GetAuthorizationToken"]),
    ("eks-auth", Credentials, &["AssumeRole*"]),
    ("bedrock-agentcore", Credentials, &["GetResource*", "GetWorkloadAccessToken*"]),
    ("iot", Credentials, &["AssumeRole*", "CreateKeys*", "CreateCertificate*", "CreateProvisioningClaim",
        "RegisterCertificate*"]),
    ("lakeformation", Credentials, &["GetDataAccess", "GetTemporary*"]),
    ("lightsail", Credentials, &["DownloadDefaultKeyPair", "GetInstanceAccessDetails",
        "GetRelationalDatabaseMasterUserPassword"]),
    ("redshift", Credentials, &["GetClusterCredentials*", "GetIdentityCenterAuthToken"]),
    ("redshift-serverless", Credentials, &["GetCredentials"]),
    ("s3", Credentials, &["GetDataAccess"]),
    ("s3express", Credentials, &["CreateSession"]),
    ("sso", Credentials, &["*"]),
    ("sso-oauth", Credentials, &["*"]),
    // Rights of identities.
    ("iam", Rights, &["Add*", "Attach*", "Change*", "Create*", "Deactivate*", "Delete*", "Detach*",
        "Enable*", "PassRole", "Put*", "Remove*", "Reset*", "Resync*", "Set*", "Tag*", "Untag*",
        "Update*", "Upload*"]),
    ("identitystore", Rights, &["Create*", "Update*"]),
    ("lakeformation", Rights, &["BatchGrantPermissions", "GrantPermissions", "PutDataLakeSettings"]),
    ("organizations", Rights, &["Attach*", "Create*", "Delete*", "Detach*", "Disable*", "Enable*",
        "Invite*", "Leave*", "Move*", "Put*", "Register*", "Remove*", "Update*"]),
    ("ram", Rights, &["Associate*", "Create*", "EnableSharing*", "Promote*", "ReplacePermission*",
        "SetDefault*"]),
    ("rolesanywhere", Rights, &["Create*", "Enable*", "Import*", "Put*", "Reset*", "Update*"]),
    ("transfer", Rights, &["CreateUser", "CreateAccess", "ImportSshPublicKey", "UpdateAccess",
        "UpdateUser"]),
    // Rights on resources.
    ("backup", Rights, &["PutBackupVaultAccessPolicy"]),
    ("dynamodb", Rights, &["PutResourcePolicy"]),
    ("ec2", Rights, &["Modify*Attribute", "ModifyVpcEndpoint*", "CreateVpcEndpoint*"]),
    ("ecr", Rights, &["PutRegistryPolicy", "SetRepositoryPolicy", "PutReplicationConfiguration"]),
    ("ecr-public", Rights, &["SetRepositoryPolicy"]),
    ("elasticfilesystem", Rights, &["PutFileSystemPolicy"]),
    ("es", Rights, &["AuthorizeVpcEndpointAccess", "CreateDomain", "UpdateDomainConfig"]),
    ("glacier", Rights, &["SetVaultAccessPolicy"]),
    ("glue", Rights, &["PutResourcePolicy"]),
    ("kinesis", Rights, &["PutResourcePolicy"]),
    ("kms", Rights, &["CreateGrant", "PutKeyPolicy"]),
    ("lambda", Rights, &["AddLayerVersionPermission", "AddPermission"]),
    ("rds", Rights, &["ModifyDBCluster", "ModifyDBInstance", "ModifyDB*SnapshotAttribute"]),
    ("s3", Rights, &["CreateAccessGrant*", "CreateAccessPoint*", "DeleteAccessPointPolicy*",
        "DeleteBucketPolicy", "Put*Acl", "Put*PublicAccessBlock", "PutAccessGrants*", "PutAccessPoint*",
        "PutBucketNotification", "PutBucketOwnershipControls", "PutBucketPolicy",
        "PutInventoryConfiguration", "PutMultiRegionAccessPointPolicy", "PutReplicationConfiguration"]),
    ("s3tables", Rights, &["Put*Policy"]),
    ("secretsmanager", Rights, &["PutResourcePolicy", "ReplicateSecretToRegions", "RotateSecret"]),
    ("sns", Rights, &["AddPermission", "SetTopicAttributes", "Subscribe"]),
    ("sqs", Rights, &["AddPermission", "SetQueueAttributes"]),
    // Code.
    ("apprunner", Code, &["CreateService", "UpdateService"]),
    ("batch", Code, &["RegisterJobDefinition", "SubmitJob", "SubmitServiceJob"]),
    ("bedrock-agentcore", Code, &["Create*", "StartCodeInterpreterSession", "Update*"]),
    ("cloudformation", Code, &["Create*", "ExecuteChangeSet", "SetStackPolicy", "Update*"]),
    ("cloudshell", Code, &["*"]),
    ("codebuild", Code, &["Create*", "RetryBuild*", "StartBuild*", "StartSandbox*", "Update*"]),
    ("codedeploy", Code, &["Create*", "Update*"]),
    ("codepipeline", Code, &["Create*", "PutJob*", "StartPipelineExecution", "Update*"]),
    ("datapipeline", Code, &["ActivatePipeline", "CreatePipeline", "PutPipelineDefinition"]),
    ("ec2", Code, &["AssociateIamInstanceProfile", "CreateFleet", "CreateLaunchTemplate*",
        "GetPasswordData", "ImportKeyPair", "ModifyInstanceAttribute", "ModifyLaunchTemplate",
        "ReplaceIamInstanceProfileAssociation", "RequestSpot*", "RunInstances", "RunScheduledInstances"]),
    ("ec2-instance-connect", Code, &["*"]),
    ("ecs", Code, &["CreateService", "CreateTaskSet", "ExecuteCommand", "RegisterTaskDefinition",
        "RunTask", "StartTask", "UpdateService"]),
    ("eks", Code, &["AccessKubernetesApi", "Associate*", "Create*", "MutateViaKubernetesApi", "Update*"]),
    ("elasticbeanstalk", Code, &["Create*", "Update*"]),
    ("elasticmapreduce", Code, &["AddJobFlowSteps", "CreateStudio*", "GetClusterSessionCredentials",
        "RunJobFlow", "StartNotebookExecution"]),
    ("emr-containers", Code, &["CreateManagedEndpoint", "GetManagedEndpointSessionCredentials",
        "StartJobRun"]),
    ("emr-serverless", Code, &["AccessInteractiveEndpoints", "StartJobRun"]),
    ("events", Code, &["CreateConnection", "PutRule", "PutTargets", "UpdateConnection"]),
    ("glue", Code, &["CreateDevEndpoint", "CreateJob", "CreateSession", "CreateTrigger", "RunStatement",
        "StartJobRun", "UpdateDevEndpoint", "UpdateJob", "UpdateTrigger"]),
    ("imagebuilder", Code, &["Create*", "StartImagePipelineExecution", "Update*"]),
    ("lambda", Code, &["Create*", "PublishLayerVersion", "PublishVersion", "Put*", "UpdateAlias",
        "UpdateEventSourceMapping", "UpdateFunction*"]),
    ("sagemaker", Code, &["Create*", "StartNotebookInstance", "StartSession", "Update*"]),
    ("scheduler", Code, &["CreateSchedule", "UpdateSchedule"]),
    ("ssm", Code, &["CreateActivation", "CreateAssociation*", "CreateDocument",
        "ModifyDocumentPermission", "ResumeSession", "SendCommand", "StartAutomationExecution",
        "StartChangeRequestExecution", "StartSession", "UpdateAssociation*", "UpdateDocument*"]),
    ("states", Code, &["CreateStateMachine*", "Start*Execution", "UpdateStateMachine*"]),
    // Connections. Their servers ask IAM once, when the connection is opened.
    ("dsql", Connection, &["DbConnect*"]),
    ("elasticache", Connection, &["Connect"]),
    ("kafka-cluster", Connection, &["Connect"]),
    ("memorydb", Connection, &["Connect"]),
    ("neptune-db", Connection, &["connect"]),
    ("rds-db", Connection, &["connect"]),
];

/// The first listed action that the pattern `service:action` could take in; upper and lower case are one to IAM.
pub(super) fn first_within(service: &str, action: &str) -> Option<(String, Escape)> {
    let services = ESCAPES.iter().filter(|(listed, ..)| listed.eq_ignore_ascii_case(service));
    services
        .flat_map(|(listed, escape, actions)| actions.iter().map(move |action| (listed, *escape, action)))
        .find(|(_, _, listed)| overlap(action, listed))
        .map(|(service, escape, action)| (format!("{service}:{action}"), escape))
}

/// Whether some text is matched by both patterns (`*`: any text, `?`: any one character).
fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (a.to_ascii_lowercase().into_bytes(), b.to_ascii_lowercase().into_bytes());
    // below[j]: whether what is left of `a` under this row, and b[j..], have a text in common.
    let mut below: Vec<bool> = Vec::new();
    for i in (0..=a.len()).rev() {
        let mut row = vec![false; b.len() + 1];
        for j in (0..=b.len()).rev() {
            row[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(b'*'), other) => below[j] || (other.is_some() && row[j + 1]),
                (one, Some(b'*')) => row[j + 1] || (one.is_some() && below[j]),
                (Some(x), Some(y)) => (x == y || *x == b'?' || *y == b'?') && below[j + 1],
                (None, Some(_)) | (Some(_), None) => false,
            };
        }
        below = row;
    }
    below[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_patterns_overlap_if_some_text_fits_both() {
        for (a, b, expected) in [
            ("abc", "abc", true),
            ("abc", "abd", false),
            ("a*", "*c", true),
            ("a*b", "a*c", false),
            ("*", "", true),
            ("", "", true),
            ("a", "", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("Put*", "put*Acl", true),
            ("Get*", "Put*", false),
            ("*Object", "PutObject*", true),
            ("***a***", "b*a", true),
            ("********************a", "*********************b", false),
        ] {
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn what_outlasts_a_session_is_found_under_any_spelling() {
        for action in [
            "sts:AssumeRole",
            "sts:assumerolewithwebidentity",
            "STS:GetFederationToken",
            "sts:*",
            "sts:?ssumeRole",
            "iam:PassRole",
            "iam:Create*",
            "iam:*AccessKey",
            "iam:PutRolePolicy",
            "iam:AttachRolePolicy",
            "iam:UpdateAssumeRolePolicy",
            "iam:DeleteRolePolicy",
            "lambda:UpdateFunctionCode",
            "ec2:RunInstances",
            "ec2:*",
            "ssm:StartSession",
            "ssm:St*",
            "s3:*",
            "s3:Put*",
            "s3:PutBucketPolicy",
            "s3:PutObject*",
            "kms:CreateGrant",
            "ecs:ExecuteCommand",
            "rds-db:connect",
            "ecr:GetAuthorizationToken",
        ] {
            let (service, name) = action.split_once(':').expect("an action");
            assert!(first_within(service, name).is_some(), "{action}");
        }
    }

    #[test]
    fn plain_work_with_data_is_not_on_the_list() {
        for action in [
            "s3:GetObject",
            "s3:GetObject*",
            "s3:PutObject",
            "s3:DeleteObject",
            "s3:List*",
            "s3:AbortMultipartUpload",
            "kms:Decrypt",
            "kms:GenerateDataKey*",
            "dynamodb:*Item",
            "dynamodb:Query",
            "sqs:SendMessage",
            "secretsmanager:GetSecretValue",
            "iam:Get*",
            "sts:GetCallerIdentity",
            "bedrock:InvokeModel*",
            "lambda:InvokeFunction",
            "ecr:BatchGetImage",
        ] {
            let (service, name) = action.split_once(':').expect("an action");
            assert_eq!(first_within(service, name), None, "{action}");
        }
    }

    #[test]
    fn the_list_is_written_as_it_is_compared() {
        for (service, _, actions) in ESCAPES {
            assert!(
                service.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{service}"
            );
            assert!(!actions.is_empty() && actions.iter().all(|action| !action.is_empty()), "{service}");
        }
    }
}
