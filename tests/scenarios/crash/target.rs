//! What the targets themselves say: Vault of its tokens, introspection of the tokens that programs showed.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use harness::{Program, Uid, World, parts};
use serde_json::json;

/// Asks about each token on one connection, with the service's own X.509-SVID.
const ASK: &str = r#"
import http.client, ssl, sys, urllib.parse
folder, address, *tokens = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.load_verify_locations(folder + "/bundle.0.pem")
context.load_cert_chain(folder + "/svid.0.pem", folder + "/svid.0.key")
connection = http.client.HTTPSConnection(address, context=context, timeout=10)
for token in tokens:
    connection.request("POST", "/introspect", urllib.parse.urlencode({"token": token}),
                       {"Content-Type": "application/x-www-form-urlencoded"})
    answer = connection.getresponse()
    print(answer.status, answer.read().decode().replace(" ", ""))
"#;

/// How long Vault may take from a token's entry to its lease. Whoever looks a token up in between ends it: Vault deletes a
/// token that could expire and has no lease (`lookupInternal` of its token store).
const WHOLE_AFTER: Duration = Duration::from_secs(1);

/// What is known of Vault's accessors: when each was listed first, and whose lease it is, once it was looked up.
type Known = HashMap<String, (Instant, Option<Of>)>;

/// A lease and its holder, both empty for a token that is not Dayfly's.
#[derive(Clone)]
struct Of {
    lease: String,
    holder: String,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// Whether tokens that are only just there are waited for.
#[derive(Clone, Copy, PartialEq)]
pub enum Newest {
    Wait,
    LeaveOut,
}

/// Leases of this SPIFFE ID's descendants whose tokens live at Vault. All lanes ask one Vault.
pub async fn at_vault(world: &World, under: &str, newest: Newest) -> BTreeSet<String> {
    let vault = world.vault.as_ref().unwrap();
    let (status, listed) =
        vault.call(vault.root_token(), "LIST", "auth/token/accessors", None).await.unwrap();
    assert_eq!(status, 200, "{listed}");
    let listed = listed["data"]["keys"].as_array().unwrap();
    for accessor in listed {
        let accessor = accessor.as_str().unwrap().to_owned();
        KNOWN.lock().unwrap().entry(accessor).or_insert((Instant::now(), None));
    }
    let mut leases = BTreeSet::new();
    for accessor in listed {
        let accessor = accessor.as_str().unwrap();
        let (since, of) = KNOWN.lock().unwrap()[accessor].clone();
        let of = match of {
            Some(of) => of,
            None if since.elapsed() < WHOLE_AFTER && newest == Newest::LeaveOut => continue,
            None => {
                tokio::time::sleep(WHOLE_AFTER.saturating_sub(since.elapsed())).await;
                let body = json!({ "accessor": accessor });
                let path = "auth/token/lookup-accessor";
                let (status, found) = vault.call(vault.root_token(), "POST", path, Some(body)).await.unwrap();
                if status != 200 {
                    continue;
                }
                let word = |name: &str| found["data"]["meta"][name].as_str().unwrap_or_default().to_owned();
                let of = Of { lease: word("lease"), holder: word("spiffe_id") };
                KNOWN.lock().unwrap().insert(accessor.to_owned(), (since, Some(of.clone())));
                of
            }
        };
        if of.holder.starts_with(under) {
            leases.insert(of.lease);
        }
    }
    leases
}

/// The service that access tokens are for.
pub struct Service {
    uid: Uid,
    folder: PathBuf,
}

impl Service {
    /// With the X.509-SVID of this user.
    pub async fn of(world: &World, uid: Uid) -> Self {
        let folder = world.scratch.folder_of("service", uid.0).unwrap();
        let agent = uid.program(parts::peer("SPIRE", "spire-agent").unwrap());
        let fetch = agent.args(["api", "fetch", "x509", "-socketPath"]).arg(world.spire.workload_socket());
        fetch.arg("-write").arg(&folder).output().await.unwrap();
        Self { uid, folder }
    }

    /// Those of the tokens that it would take now.
    pub async fn takes(&self, world: &World, tokens: &[String]) -> Vec<String> {
        if tokens.is_empty() {
            return Vec::new();
        }
        let python: Program = self.uid.program(harness::Python::find().unwrap().path());
        let said = python.args(["-c", ASK]).arg(&self.folder).arg(&world.introspection).args(tokens);
        let said = said.output().await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
        let answers: Vec<&str> = said.lines().collect();
        assert_eq!(answers.len(), tokens.len(), "{said}");
        let active = answers.iter().map(|answer| {
            assert!(answer.starts_with("200 "), "{answer}");
            answer.contains("\"active\":true")
        });
        tokens.iter().zip(active).filter(|(_, active)| *active).map(|(token, _)| token.clone()).collect()
    }
}
