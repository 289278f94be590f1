//! Who is calling, for which project, and with what: [`Call`], which every handler takes.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, OriginalUri, RawPathParams};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{self, HeaderMap, HeaderValue};
use keystead::{ProjectId, Scope, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Span, field};

use crate::body::{BodyBudget, BodyRead, UnprovenBudget, throw_away};
use crate::config::{Account, Secret};
use crate::error::Refusal;
use crate::server::Peer;
use crate::signature::{Authorization, Head, Unsigned};
use crate::state::App;
use crate::text;

const TOKEN: &str = "x-auth-token";

/// How much of an access key that somebody claims to have is logged.
const CLAIMED_MAX: usize = 64;

/// Who may call, from the configuration.
pub(crate) struct Directory {
    by_access_key: HashMap<String, KnownKey>,
    tokens: Vec<KnownToken>,
}

struct KnownKey {
    account: Arc<Account>,
    secret: Secret,
    /// For the bodies of those who say that they have it.
    unproven: UnprovenBudget,
}

/// Tokens are compared by their digests, all of them, so that time tells nothing of them.
struct KnownToken {
    digest: [u8; 32],
    account: Arc<Account>,
    name: String,
}

impl Directory {
    pub(crate) fn new(accounts: Vec<Account>, bodies: &BodyBudget) -> Self {
        let mut directory = Self { by_access_key: HashMap::new(), tokens: Vec::new() };
        for account in accounts.into_iter().map(Arc::new) {
            for access in &account.access {
                let known = KnownKey {
                    account: Arc::clone(&account),
                    secret: access.secret_key.clone(),
                    unproven: bodies.of_unproven(),
                };
                directory.by_access_key.insert(access.access_key.clone(), known);
            }
            for token in &account.token {
                directory.tokens.push(KnownToken {
                    digest: Sha256::digest(token.token.as_bytes()).into(),
                    account: Arc::clone(&account),
                    name: token.name.clone(),
                });
            }
        }
        directory
    }

    /// Who the head of a request says that it is from. Whoever is unknown is refused here, before the body is
    /// read.
    fn claim(&self, headers: &HeaderMap, now: Timestamp) -> Result<Claim<'_>, &'static str> {
        // Of two, a proxy in front may have looked at the other one.
        let authorization =
            once(headers, AUTHORIZATION.as_str(), "there is more than one Authorization header")?;
        let token = once(headers, TOKEN, "there is more than one X-Auth-Token header")?;
        if let Some(header) = authorization {
            let header = header.to_str().ok().and_then(Authorization::parse);
            let authorization = header.ok_or(Unsigned::Malformed.as_str())?;
            authorization.check_head(headers, now).map_err(Unsigned::as_str)?;
            // It sounds as if the secret was wrong. Who holds the body back can tell the two from each other:
            // an access key is no secret.
            let known = self.by_access_key.get(&authorization.access_key).ok_or(Unsigned::Wrong.as_str())?;
            return Ok(Claim { account: &known.account, by: ClaimedBy::Signature(authorization, known) });
        }
        let token = token.ok_or("neither an Authorization nor an X-Auth-Token header is there")?;
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for known in &self.tokens {
            if bool::from(known.digest.ct_eq(&digest)) {
                found = Some(known);
            }
        }
        let known = found.ok_or("the token is unknown")?;
        Ok(Claim { account: &known.account, by: ClaimedBy::Token(&known.name) })
    }
}

/// Who a request says that it is from.
struct Claim<'a> {
    account: &'a Arc<Account>,
    by: ClaimedBy<'a>,
}

enum ClaimedBy<'a> {
    /// Of the whole request. Whether it is right is known before the body is there only where the body's hash
    /// is a header.
    Signature(Authorization, &'a KnownKey),
    /// A right one, and the name of who has it.
    Token(&'a str),
}

impl Claim<'_> {
    /// Proves as much as the head can. Answers out of what the body may have its memory if that leaves open
    /// who makes the request.
    fn prove_head(&self, head: &Head<'_>) -> Result<Option<&UnprovenBudget>, &'static str> {
        match &self.by {
            ClaimedBy::Token(_) => Ok(None),
            ClaimedBy::Signature(authorization, known) => {
                let proven = authorization.verify_head(head, &known.secret).map_err(Unsigned::as_str)?;
                Ok((!proven).then_some(&known.unproven))
            }
        }
    }

    /// The name of who makes the request, if it is who it says.
    fn prove(&self, head: &Head<'_>, body: &[u8]) -> Result<&str, &'static str> {
        match &self.by {
            ClaimedBy::Token(name) => Ok(name),
            ClaimedBy::Signature(authorization, known) => {
                authorization.verify_body(head, body, &known.secret).map_err(Unsigned::as_str)?;
                Ok(&authorization.access_key)
            }
        }
    }
}

/// A header that may be there once; `twice` is what is wrong if there are more.
fn once<'a>(
    headers: &'a HeaderMap,
    name: &str,
    twice: &'static str,
) -> Result<Option<&'a HeaderValue>, &'static str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() { Err(twice) } else { Ok(value) }
}

/// Counts and logs a request of nobody known: where it came from and who it claims to be, but nothing that may
/// be a secret.
fn refuse_login(app: &App, parts: &Parts, why: &'static str) -> Refusal {
    app.metrics.unauthenticated.inc();
    let peer = parts.extensions.get::<Peer>().map(|Peer(address)| field::display(*address));
    let header = parts.headers.get(AUTHORIZATION).map(|header| String::from_utf8_lossy(header.as_bytes()));
    let access_key = header.as_deref().and_then(Authorization::claimed).map(shortened);
    tracing::warn!(peer, access_key, why, "a login was refused");
    Refusal::unauthenticated(why)
}

/// What a stranger wrote, in ASCII that can be printed, and not too much of it.
fn shortened(claimed: &str) -> String {
    claimed.chars().take(CLAIMED_MAX).flat_map(char::escape_default).collect()
}

/// A request of a known caller, for a project of the caller's account.
pub(crate) struct Call {
    pub(crate) scope: Scope,
    /// The account and the access key, for change records.
    pub(crate) actor: String,
    pub(crate) path: String,
    /// The variable parts of the path.
    params: Vec<(String, String)>,
    query: Vec<(String, String)>,
    body: BodyRead,
    /// Held until the call ends: it is one of those in work.
    _permit: OwnedSemaphorePermit,
}

impl Call {
    pub(crate) fn body(&self) -> &[u8] {
        &self.body.bytes
    }

    /// A variable part of the path.
    pub(crate) fn part(&self, name: &str) -> Result<&str, Refusal> {
        named(&self.params, name).ok_or_else(|| Refusal::missing(name))
    }

    /// A parameter of the query string; an empty one counts as missing.
    pub(crate) fn query(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Refusal::invalid(format!("the parameter {name} is there twice"))),
            (value, None) => Ok(value.filter(|value| !value.is_empty())),
        }
    }
}

fn named<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

impl FromRequest<Arc<App>> for Call {
    type Rejection = Refusal;

    async fn from_request(request: http::Request<Body>, app: &Arc<App>) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let params = RawPathParams::from_request_parts(&mut parts, app).await.map(|params| {
            let pairs = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            pairs.collect::<Vec<_>>()
        });
        // A nested router sees only the rest of the path; what was signed is the whole.
        let Ok(OriginalUri(uri)) = OriginalUri::from_request_parts(&mut parts, app).await;
        let headers = &parts.headers;
        let head = Head {
            method: parts.method.as_str(),
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            headers,
        };
        let claim = app.directory.claim(headers, Timestamp::now());
        let claimed = claim.as_ref().map_err(|why| *why);
        let (claim, unproven) = match claimed.and_then(|claim| Ok((claim, claim.prove_head(&head)?))) {
            Ok(claimed) => claimed,
            Err(why) => {
                throw_away(body, headers);
                return Err(refuse_login(app, &parts, why));
            }
        };
        let mut body = app.bodies.read(body, headers, app.limits.body_time(), unproven).await?;
        // Not before the body is there: who sends it slowly, known or not, keeps nobody else waiting.
        let permit = Arc::clone(&app.requests).acquire_owned().await;
        let permit = permit.map_err(|closed| Refusal::internal(&closed))?;
        let name = claim.prove(&head, &body.bytes).map_err(|why| refuse_login(app, &parts, why))?;
        body.proven();
        let account = claim.account;
        let actor = format!("{}/{name}", account.domain_id);
        Span::current().record("actor", actor.as_str());
        let params = params.map_err(|_| Refusal::invalid("the path is not UTF-8"))?;
        let asked = named(&params, "project_id");
        let is_project = |id: &&ProjectId| asked == Some(id.as_str());
        let project = account.projects.iter().find(is_project).ok_or_else(Refusal::forbidden)?;
        let scope = Scope::from_ids(account.domain_id.clone(), project.clone());
        Span::current().record("project", project.as_str());
        app.prepare(account, &scope).await?;
        let path = uri.path().to_owned();
        let query = text::query_pairs(uri.query().unwrap_or_default());
        Ok(Self { scope, actor, path, params, query, body, _permit: permit })
    }
}
