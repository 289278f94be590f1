//! Who is calling, for which project, and with what: [`Call`], which every handler takes.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, OriginalUri, RawPathParams};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{self, Uri};
use keystead::{ProjectId, Scope, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::Span;

use crate::config::{Account, Secret};
use crate::error::Refusal;
use crate::routes::BODY_MAX;
use crate::signature::{Authorization, Signed, Unsigned};
use crate::state::App;
use crate::text;

const TOKEN: &str = "x-auth-token";

/// How much of a body that is too long is read and thrown away.
const THROWN_AWAY_MAX: usize = 8 * BODY_MAX;
/// For how long.
const THROWN_AWAY_TIME: Duration = Duration::from_secs(1);

/// Who may call, from the configuration.
pub(crate) struct Directory {
    by_access_key: HashMap<String, (Arc<Account>, Secret)>,
    tokens: Vec<KnownToken>,
}

/// Tokens are compared by their digests, all of them, so that time tells nothing of them.
struct KnownToken {
    digest: [u8; 32],
    account: Arc<Account>,
    name: String,
}

impl Directory {
    pub(crate) fn new(accounts: Vec<Account>) -> Self {
        let mut directory = Self { by_access_key: HashMap::new(), tokens: Vec::new() };
        for account in accounts.into_iter().map(Arc::new) {
            for access in &account.access {
                let known = (Arc::clone(&account), access.secret_key.clone());
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

    /// The account that makes a request, and the name of who makes it.
    fn identify(
        &self,
        parts: &Parts,
        uri: &Uri,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(Arc<Account>, String), Refusal> {
        if let Some(header) = parts.headers.get(AUTHORIZATION) {
            let header = header.to_str().ok().and_then(Authorization::parse);
            let authorization =
                header.ok_or_else(|| Refusal::unauthenticated(Unsigned::Malformed.as_str()))?;
            let known = self.by_access_key.get(&authorization.access_key);
            let signed = Signed {
                method: parts.method.as_str(),
                path: uri.path(),
                query: uri.query().unwrap_or_default(),
                headers: &parts.headers,
                body,
            };
            let refused = |unsigned: Unsigned| Refusal::unauthenticated(unsigned.as_str());
            authorization.check_head(&parts.headers, now).map_err(refused)?;
            let (account, secret) = known.ok_or_else(|| refused(Unsigned::Wrong))?;
            authorization.verify(&signed, secret).map_err(refused)?;
            return Ok((Arc::clone(account), authorization.access_key));
        }
        let token = parts.headers.get(TOKEN).ok_or_else(|| {
            Refusal::unauthenticated("neither an Authorization nor an X-Auth-Token header is there")
        })?;
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for known in &self.tokens {
            if bool::from(known.digest.ct_eq(&digest)) {
                found = Some(known);
            }
        }
        let known = found.ok_or_else(|| Refusal::unauthenticated("the token is unknown"))?;
        Ok((Arc::clone(&known.account), known.name.clone()))
    }
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
    pub(crate) body: Bytes,
    /// Held until the call ends: it is one of those in work.
    _permit: OwnedSemaphorePermit,
}

impl Call {
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

/// The body, if it is not too long and not too slow.
async fn read_body(mut body: Body, app: &Arc<App>) -> Result<Bytes, Refusal> {
    // What says that it is too long is not waited for.
    let announced = body.size_hint().lower() > BODY_MAX as u64;
    let read = if announced {
        None
    } else {
        let reading = timeout(app.limits.body_time(), read_up_to(&mut body, BODY_MAX)).await;
        reading.map_err(|_| Refusal::body_too_slow())??
    };
    match read {
        Some(read) => Ok(read),
        None => {
            // A connection that is closed with bytes unread may lose the answer on its way, so some more is
            // read and thrown away. How that ends does not matter.
            let _ended = timeout(THROWN_AWAY_TIME, throw_away(&mut body)).await;
            Err(Refusal::too_long())
        }
    }
}

/// The whole body, `None` if it is longer than that.
async fn read_up_to(body: &mut Body, max: usize) -> Result<Option<Bytes>, Refusal> {
    let mut read = Vec::new();
    while let Some(data) = next_data(body).await? {
        if read.len() + data.len() > max {
            return Ok(None);
        }
        read.extend_from_slice(&data);
    }
    Ok(Some(Bytes::from(read)))
}

async fn throw_away(body: &mut Body) {
    let mut left = THROWN_AWAY_MAX;
    while let Ok(Some(data)) = next_data(body).await {
        left = left.saturating_sub(data.len());
        if left == 0 {
            return;
        }
    }
}

/// The next part of a body, `None` at its end.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        let frame = frame.map_err(|_| Refusal::invalid("the body could not be read"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
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
        let body = read_body(body, app).await?;
        // Not before the body is there: who sends it slowly, known or not, keeps nobody else waiting.
        let permit = Arc::clone(&app.requests).acquire_owned().await;
        let permit = permit.map_err(|closed| Refusal::internal(&closed))?;
        let identified = app.directory.identify(&parts, &uri, &body, Timestamp::now());
        let (account, name) = identified.inspect_err(|_| app.metrics.unauthenticated.inc())?;
        let params = params.map_err(|_| Refusal::invalid("the path is not UTF-8"))?;
        let asked = named(&params, "project_id");
        let is_project = |id: &&ProjectId| asked == Some(id.as_str());
        let project = account.projects.iter().find(is_project).ok_or_else(Refusal::forbidden)?;
        let scope = Scope::from_ids(account.domain_id.clone(), project.clone());
        let actor = format!("{}/{name}", account.domain_id);
        Span::current().record("project", project.as_str()).record("actor", actor.as_str());
        app.prepare(&account, &scope).await?;
        let path = uri.path().to_owned();
        let query = text::query_pairs(uri.query().unwrap_or_default());
        Ok(Self { scope, actor, path, params, query, body, _permit: permit })
    }
}
