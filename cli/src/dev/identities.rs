//! Who is who in the development trust domain, and the servers that say so.

use dayfly_devspiffe::dev::DEFAULT_TRUST_DOMAIN;
use dayfly_devspiffe::{Authority, Entry, EntryError, Server, SpiffeId};

use super::place::Place;
use crate::failure::Failure;

/// The broker.
pub const BROKER: &str = "spiffe://dev.dayfly/dayfly/broker";
/// Its name to programs that know no SPIFFE.
pub const BROKER_HOST: &str = "localhost";
/// The agent, the part that speaks to the broker.
pub const AGENT: &str = "spiffe://dev.dayfly/node/laptop";
/// The user's services that check tokens: the audience of the starter documents' one scope.
pub const SERVICE: &str = "spiffe://dev.dayfly/tool/service";
/// The agent's other part, which asks who a program is. It speaks to nobody else.
const ATTEST: &str = "spiffe://dev.dayfly/dayfly/attest";

/// The trust domain.
pub const TRUST_DOMAIN: &str = DEFAULT_TRUST_DOMAIN;

/// The user who runs all of it.
#[derive(Clone, Copy, Debug)]
pub struct Me {
    /// User id.
    pub uid: u32,
}

impl Me {
    /// The present user.
    pub fn here() -> Self {
        Self { uid: rustix::process::geteuid().as_raw() }
    }

    /// Whether cgroups can be made, processes of others seen, and so on.
    pub fn is_root(self) -> bool {
        self.uid == 0
    }

    /// The user's programs.
    pub fn program(self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/training/{}", self.uid)
    }

    /// The user's `dayfly`, for admin verbs.
    pub fn admin(self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/admin/{}", self.uid)
    }
}

/// The servers. Dropping them stops them.
pub struct Identities {
    parts: Server,
    programs: Server,
    service: Server,
    admin: Server,
}

impl Identities {
    /// Opens the trust domain's keys, or makes them, and serves.
    pub async fn serve(place: &Place) -> Result<Self, Failure> {
        let authority = Authority::open(TRUST_DOMAIN, &place.kept("spiffe/keys"))
            .map_err(|error| told("the trust domain's keys cannot be used", &error))?;
        let bundle = authority.bundle_document().to_string();
        super::place::write(&place.kept("spiffe/bundle.json"), &bundle)?;

        let uid = place.me.uid;
        let of_user = |id: String| Entry::new(&id).map(|entry| entry.uid(uid));
        let ourselves =
            std::env::current_exe().map_err(|error| told("our own program cannot be found", &error))?;
        let admin = of_user(place.me.admin()).map(|entry| entry.path(ourselves));

        let serve = async |socket: &str, entry: Option<Result<Entry, EntryError>>, delegated: bool| {
            let mut server = Server::builder(authority.clone()).workload_socket(place.socket(socket));
            if let Some(entry) = entry {
                server = server.entry(entry.map_err(|error| told("an identity cannot be served", &error))?);
            }
            if delegated {
                let attest = SpiffeId::new(ATTEST).expect("a constant SPIFFE ID is valid");
                server = server.admin_socket(place.socket("delegated")).authorized_delegate(attest);
            }
            server.start().await.map_err(|error| told("identities cannot be served", &error))
        };
        Ok(Self {
            parts: serve("parts", None, false).await?,
            programs: serve("workload", Some(of_user(place.me.program())), true).await?,
            service: serve("service", Some(of_user(SERVICE.to_owned())), false).await?,
            admin: serve("admin", Some(admin), false).await?,
        })
    }

    /// Lets this process, and no later one with its number, be the broker.
    pub fn admit_broker(&self, pid: u32) -> Result<(), Failure> {
        admit(&self.parts, Entry::new(BROKER).map(|entry| entry.dns(BROKER_HOST)), BROKER, pid)
    }

    /// As [`Self::admit_broker`], for the agent.
    pub fn admit_agent(&self, pid: u32) -> Result<(), Failure> {
        admit(&self.parts, Entry::new(AGENT), AGENT, pid)
    }

    /// As [`Self::admit_broker`], for the part that may ask who others are.
    pub fn admit_attest(&self, pid: u32) -> Result<(), Failure> {
        admit(&self.programs, Entry::new(ATTEST), ATTEST, pid)
    }

    /// Ends all of them.
    pub async fn stop(self) {
        tokio::join!(self.parts.stop(), self.programs.stop(), self.service.stop(), self.admin.stop());
    }
}

fn admit(server: &Server, entry: Result<Entry, EntryError>, id: &str, pid: u32) -> Result<(), Failure> {
    let entry = entry.and_then(|entry| entry.process(pid));
    let added = entry.and_then(|entry| server.add_entry(entry));
    added.map_err(|error| told(&format!("{id} cannot be given to process {pid}"), &error))
}

fn told(what: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(what).because(error)
}
