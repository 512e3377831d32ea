//! The broker's own two logins at Vault: one that gives, one that can only take back.
//!
//! Both begin with a JWT-SVID. The giving one is short and needs a fresh identity each time. The revoking one is
//! periodic and renews itself, so that it goes on when no identity can be had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use dayfly_client::Identity;
use dayfly_domain::secret::Secret;
use rustify::Endpoint;
use tokio::sync::Mutex;
use tokio::time::timeout_at;
use tracing::{info, warn};
use vaultrs::api::auth::oidc::requests::JWTLoginRequest;

use super::BoxError;
use super::config::{Reach, VaultConfig};
use super::endpoints::{Auth, Envelope, Health, HealthAnswer, Nothing, RenewSelf};
use super::errors::CallError;
use super::wire::{Answer, Wire};

/// Shortest life of the revoking login that outlasts an identity outage.
pub(super) const REVOKING_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The revoking login is renewed at least this often.
const RENEW_EVERY: Duration = Duration::from_secs(3600);
/// A refused token that is younger than this is not at fault: its policy is.
const TOO_YOUNG: Duration = Duration::from_secs(10);
/// A failed login is not tried again for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries, when nobody waits for the login.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest sleep between two looks at the logins.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where the broker's JWT-SVIDs come from.
#[async_trait]
pub trait JwtSource: Send + Sync {
    /// A fresh JWT-SVID of the broker itself, for this one audience.
    ///
    /// # Errors
    /// Whatever kept it from being had.
    async fn fetch(&self, audience: &str) -> Result<Secret, BoxError>;
}

#[async_trait]
impl JwtSource for Identity {
    async fn fetch(&self, audience: &str) -> Result<Secret, BoxError> {
        let mut own = self.jwt_svid(audience).await?;
        Ok(Secret::new(std::mem::take(&mut *own.token)))
    }
}

/// The way into one Vault: what it takes to make a login there.
pub(super) struct Door {
    wire: Arc<Wire>,
    jwt: Arc<dyn JwtSource>,
    mount: String,
    audience: String,
    timeout: Duration,
}

/// Both logins of the provider.
pub(super) struct Logins {
    door: Door,
    /// Creates and renews tokens of the named roles.
    pub(super) mint: Login,
    /// Revokes and looks up; nothing else.
    pub(super) revoke: Login,
}

/// One login.
pub(super) struct Login {
    role: String,
    periodic: bool,
    session: ArcSwapOption<Session>,
    /// Held while logging in, so that one call does it for all. Holds when that last failed.
    turn: Mutex<Option<Instant>>,
}

/// A token of ours that works, as far as we know.
pub(super) struct Session {
    token: Arc<Secret>,
    /// The cluster it was given by.
    pub(super) cluster: Option<String>,
    renewable: bool,
    since: Instant,
    life: Duration,
}

impl Session {
    fn is_over(&self) -> bool {
        self.since.elapsed() >= self.life
    }

    /// When to renew it or to log in anew.
    fn due(&self, periodic: bool) -> Instant {
        let half = self.life / 2;
        self.since + if periodic { half.min(RENEW_EVERY) } else { half }
    }

    /// How long it was given for.
    pub(super) fn life(&self) -> Duration {
        self.life
    }

    /// Whether it can be renewed without an identity.
    pub(super) fn renewable(&self) -> bool {
        self.renewable
    }
}

impl Logins {
    pub(super) fn new(config: &VaultConfig, wire: Arc<Wire>, jwt: Arc<dyn JwtSource>) -> Self {
        Self {
            door: Door::new(&config.reach(), wire, jwt),
            mint: Login::new(&config.mint_role, false),
            revoke: Login::new(&config.revoke_role, true),
        }
    }

    /// Makes one call with a login.
    pub(super) async fn call<E: Endpoint>(
        &self,
        login: &Login,
        endpoint: impl Fn() -> E,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        self.door.call(login, endpoint, deadline).await
    }

    /// The session as it stands, or a new one.
    pub(super) async fn session(&self, login: &Login, deadline: Instant) -> Result<Arc<Session>, CallError> {
        self.door.session(login, deadline).await
    }

    /// Keeps both logins alive. Never returns.
    pub(super) async fn keep(&self) {
        tokio::join!(self.door.keep(&self.revoke), self.door.keep(&self.mint));
    }
}

impl Door {
    pub(super) fn new(reach: &Reach<'_>, wire: Arc<Wire>, jwt: Arc<dyn JwtSource>) -> Self {
        Self {
            wire,
            jwt,
            mount: reach.auth_mount.to_owned(),
            audience: reach.audience.to_owned(),
            timeout: reach.timeout.as_duration(),
        }
    }

    /// Makes one call with a login. If Vault refuses the token, logs in again and asks once more: a refused call did
    /// nothing.
    pub(super) async fn call<E: Endpoint>(
        &self,
        login: &Login,
        endpoint: impl Fn() -> E,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let session = self.session(login, deadline).await?;
        let refused = match self.wire.call(Some(&session.token), endpoint(), deadline).await {
            Err(error) if error.is_forbidden() => error,
            answer => return answer,
        };
        if session.since.elapsed() < TOO_YOUNG && !refused.says("invalid token") {
            return Err(refused);
        }
        let session = self.replace(login, Some(&session), deadline).await?;
        self.wire.call(Some(&session.token), endpoint(), deadline).await
    }

    /// The session as it stands, or a new one. No call is made while the one at hand holds.
    pub(super) async fn session(&self, login: &Login, deadline: Instant) -> Result<Arc<Session>, CallError> {
        match login.session.load_full() {
            Some(session) if !session.is_over() => Ok(session),
            stale => self.replace(login, stale.as_ref(), deadline).await,
        }
    }

    /// Logs in, unless another caller has done so since `stale` was read.
    async fn replace(
        &self,
        login: &Login,
        stale: Option<&Arc<Session>>,
        deadline: Instant,
    ) -> Result<Arc<Session>, CallError> {
        let no_login = |source: BoxError| CallError::NoLogin { role: login.role.clone(), source };
        let turn = timeout_at(deadline.into(), login.turn.lock()).await;
        let mut failed_at = turn.map_err(|_| no_login("another call was still at it".into()))?;
        match login.session.load_full() {
            Some(session)
                if !session.is_over() && stale.is_none_or(|stale| !Arc::ptr_eq(stale, &session)) =>
            {
                return Ok(session);
            }
            _ => {}
        }
        if failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(no_login("it failed a moment ago; the log says why".into()));
        }
        match self.log_in(login, deadline).await {
            Ok(session) => {
                *failed_at = None;
                info!(role = login.role, life_s = session.life.as_secs(), "logged in to vault");
                let session = Arc::new(session);
                login.session.store(Some(session.clone()));
                Ok(session)
            }
            Err(source) => {
                *failed_at = Some(Instant::now());
                warn!(role = login.role, error = %chain(source.as_ref()), "could not log in to vault");
                Err(no_login(source))
            }
        }
    }

    async fn log_in(&self, login: &Login, deadline: Instant) -> Result<Session, BoxError> {
        let jwt = timeout_at(deadline.into(), self.jwt.fetch(&self.audience)).await;
        let jwt = jwt.map_err(|_| "no JWT-SVID came in time")??;
        let since = Instant::now();
        let request = JWTLoginRequest::builder()
            .mount(self.mount.as_str())
            .role(login.role.as_str())
            .jwt(jwt.expose())
            .build()
            .expect("every field has a default");
        let answer = self.wire.call(None, request, deadline).await?;
        let auth =
            answer.read::<Envelope<Nothing>>()?.auth.ok_or(CallError::Unreadable("it holds no token"))?;
        let health: HealthAnswer = self.wire.call(None, Health {}, deadline).await?.read()?;
        Session::of(auth, health.cluster_id, since)
    }

    /// Keeps a login alive. Never returns.
    pub(super) async fn keep(&self, login: &Login) {
        let mut pause = PAUSE;
        loop {
            let due = match login.session.load_full() {
                Some(session) if !session.is_over() => session.due(login.periodic),
                _ => Instant::now(),
            };
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                // Not longer: a call may have put a new session there, and the clock stands still while a machine sleeps.
                tokio::time::sleep(wait.min(LOOK_EVERY)).await;
                continue;
            }
            let deadline = Instant::now() + self.timeout;
            match self.refresh(login, deadline).await {
                Ok(()) => pause = PAUSE,
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Lengthens the session where it can be, else logs in.
    async fn refresh(&self, login: &Login, deadline: Instant) -> Result<(), CallError> {
        let stale = login.session.load_full();
        if let Some(session) =
            stale.as_ref().filter(|session| login.periodic && session.renewable && !session.is_over())
        {
            match self.renew(session, deadline).await {
                Ok(renewed) => {
                    login.session.store(Some(Arc::new(renewed)));
                    return Ok(());
                }
                // The token is gone; only an identity helps.
                Err(error) if error.is_forbidden() => {}
                Err(error) => {
                    warn!(role = login.role, error = %chain(&error), "could not renew the login at vault");
                    return Err(error);
                }
            }
        }
        self.replace(login, stale.as_ref(), deadline).await.map(drop)
    }

    async fn renew(&self, session: &Session, deadline: Instant) -> Result<Session, CallError> {
        let since = Instant::now();
        let answer = self.wire.call(Some(&session.token), RenewSelf {}, deadline).await?;
        let auth =
            answer.read::<Envelope<Nothing>>()?.auth.ok_or(CallError::Unreadable("it holds no token"))?;
        Ok(Session {
            token: session.token.clone(),
            cluster: session.cluster.clone(),
            renewable: auth.renewable,
            since,
            life: Duration::from_secs(auth.lease_duration),
        })
    }
}

impl Login {
    pub(super) fn new(role: &str, periodic: bool) -> Self {
        Self { role: role.to_owned(), periodic, session: ArcSwapOption::empty(), turn: Mutex::new(None) }
    }

    /// Its role at the jwt auth method.
    pub(super) fn role(&self) -> &str {
        &self.role
    }
}

impl Session {
    fn of(auth: Auth, cluster: Option<String>, since: Instant) -> Result<Self, BoxError> {
        let token = auth.client_token;
        if token.expose().is_empty() || !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("vault gave a token that fits no header".into());
        }
        if auth.lease_duration == 0 {
            return Err(
                "vault gave a token without end; its jwt role needs a token_ttl or token_period".into()
            );
        }
        let life = Duration::from_secs(auth.lease_duration);
        Ok(Self { token: Arc::new(token), cluster, renewable: auth.renewable, since, life })
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
