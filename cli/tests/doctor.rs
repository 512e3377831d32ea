//! `dayfly doctor` with the real binary, on an account that is set up as `deploy/aws` says, and on one that is not.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use serde_json::{Value, json};
use support::{Done, World, golden};

fn deployed(name: &str) -> Value {
    let path = format!("{}/../deploy/aws/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn account() -> Value {
    let policy = "arn:aws:iam::111122223333:policy/dayfly-s3-train-read";
    let pool = |number: u32| {
        json!({
            "Arn": format!("arn:aws:iam::111122223333:role/dayfly/pool/s3-train-read-{number}"),
            "AssumeRolePolicyDocument": deployed("role-trust-policy.json"),
            "RolePolicyList": [],
            "AttachedManagedPolicies": [{"PolicyName": "dayfly-s3-train-read", "PolicyArn": policy}],
            "PermissionsBoundary": {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": policy},
        })
    };
    json!({
        "RoleDetailList": [pool(1), pool(2), {
            "Arn": "arn:aws:iam::111122223333:role/dayfly/revoker",
            "AssumeRolePolicyDocument": deployed("revoker-trust-policy.json"),
            "RolePolicyList": [{"PolicyName": "revoker", "PolicyDocument": deployed("revoker-policy.json")}],
            "AttachedManagedPolicies": [],
        }],
        "Policies": [{"Arn": policy, "PolicyVersionList": [
            {"VersionId": "v1", "IsDefaultVersion": true, "Document": deployed("permissions-policy.json")},
        ]}],
    })
}

#[test]
fn an_account_is_looked_at_without_asking_anybody() {
    let world = World::new();
    let file = world.path("account.json");
    let scopes = format!("{}/../deploy/aws/scope-s3-train-read.yaml", env!("CARGO_MANIFEST_DIR"));
    let look = |account: &Value, more: &[&str]| {
        std::fs::write(&file, account.to_string()).unwrap();
        let args = ["doctor", "aws", "--account", file.to_str().unwrap(), "-f", &scopes];
        let args =
            [&args[..], &["--issuer", "https://issuer.example.com", "--revoker", "dayfly/revoker"], more];
        Done::of(world.dayfly(&args.concat()).output().unwrap())
    };
    let sound = look(&account(), &[]);
    assert_eq!((sound.code, sound.err.as_str()), (Some(0), ""), "{sound:?}");
    golden("doctor_aws_sound.txt", &sound.out);

    let mut worse = account();
    worse["RoleDetailList"][0].as_object_mut().unwrap().remove("PermissionsBoundary");
    worse["RoleDetailList"][2]["RolePolicyList"][0]["PolicyDocument"]["Statement"][0]["Action"] =
        json!("iam:*");
    let found = look(&worse, &[]);
    assert_eq!((found.code, found.err.as_str()), (Some(1), ""), "{found:?}");
    golden("doctor_aws_wrong.txt", &found.out);
    golden("doctor_aws.json", &look(&worse, &["-o", "json"]).out);

    let no_account = look(&json!({}), &[]);
    assert_eq!(no_account.code, Some(1));
    assert!(no_account.err.contains("aws iam get-account-authorization-details"), "{no_account:?}");
}
