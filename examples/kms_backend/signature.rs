//! `SDK-HMAC-SHA256`: how the SDK signs requests, and whether a signature is right.

use std::collections::HashSet;

use axum::http::HeaderMap;
use axum::http::header::HOST;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use keystead::Timestamp;
use sha2::{Digest, Sha256};

use crate::config::Secret;
use crate::text;

const ALGORITHM: &str = "SDK-HMAC-SHA256";
const DATE: &str = "x-sdk-date";
const BODY_HASH: &str = "x-sdk-content-sha256";

/// How far the date of a request may be from now.
const WINDOW_SECONDS: u64 = 15 * 60;

/// A request as it came.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    /// The path, percent-encoded.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

/// What the Authorization header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authorization {
    pub(crate) access_key: String,
    /// The names of the headers that are signed.
    headers: Vec<String>,
    signature: Vec<u8>,
}

/// Why a request is not taken for signed; told to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsigned {
    Malformed,
    Date,
    Headers,
    Body,
    Wrong,
}

impl Unsigned {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed Authorization header",
            Self::Date => "the x-sdk-date header is missing or not within 15 minutes",
            Self::Headers => "host and x-sdk-date must be signed, and each signed header be there once",
            Self::Body => "the body is not the one that was signed",
            Self::Wrong => "verify aksk signature fail",
        }
    }
}

impl Authorization {
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let fields = header.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let mut parts = fields.split(',').map(str::trim);
        let mut field = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let (access_key, headers, signature) =
            (field("Access")?, field("SignedHeaders")?, field("Signature")?);
        let headers: Vec<String> = headers.split(';').map(str::to_owned).collect();
        let signature = HEXLOWER.decode(signature.as_bytes()).ok()?;
        let ended = parts.next().is_none();
        ended.then(|| Self { access_key: access_key.to_owned(), headers, signature })
    }

    /// Whether the request was signed with this secret, just now. Without a secret, nothing was; it
    /// takes as long to say so.
    pub(crate) fn verify(
        &self,
        request: &Signed<'_>,
        secret: Option<&Secret>,
        now: Timestamp,
    ) -> Result<(), Unsigned> {
        let date = single(request.headers, DATE).ok_or(Unsigned::Date)?;
        let time = text::basic_time(date).ok_or(Unsigned::Date)?;
        let now = i64::try_from(now.as_millis() / 1000).map_err(|_| Unsigned::Date)?;
        if now.abs_diff(time) > WINDOW_SECONDS {
            return Err(Unsigned::Date);
        }
        let body_hash = HEXLOWER.encode(&Sha256::digest(request.body));
        if request.headers.contains_key(BODY_HASH) && single(request.headers, BODY_HASH) != Some(&body_hash) {
            return Err(Unsigned::Body);
        }
        let canonical = self.canonical(request, &body_hash)?;
        let to_sign = format!("{ALGORITHM}\n{date}\n{}", HEXLOWER.encode(&Sha256::digest(canonical)));
        let key = secret.map_or(&b"nobody's"[..], Secret::as_bytes);
        let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Unsigned::Wrong)?;
        mac.update(to_sign.as_bytes());
        // This comparison takes the same time wherever the two differ.
        let right = mac.verify_slice(&self.signature).is_ok();
        if right && secret.is_some() { Ok(()) } else { Err(Unsigned::Wrong) }
    }

    fn canonical(&self, request: &Signed<'_>, body_hash: &str) -> Result<Vec<u8>, Unsigned> {
        let has = |name: &str| self.headers.iter().any(|header| header == name);
        let names: HashSet<&String> = self.headers.iter().collect();
        // A name again and again would multiply its header's value in memory.
        if !has(HOST.as_str()) || !has(DATE) || names.len() < self.headers.len() {
            return Err(Unsigned::Headers);
        }
        let mut canonical = Vec::new();
        for part in [request.method, &canonical_path(request.path), &canonical_query(request.query)] {
            canonical.extend(part.as_bytes());
            canonical.push(b'\n');
        }
        for name in &self.headers {
            let mut values = request.headers.get_all(name.as_str()).iter();
            let (Some(value), None) = (values.next(), values.next()) else { return Err(Unsigned::Headers) };
            canonical.extend(name.as_bytes());
            canonical.push(b':');
            canonical.extend(value.as_bytes().trim_ascii());
            canonical.push(b'\n');
        }
        canonical.push(b'\n');
        canonical.extend(self.headers.join(";").as_bytes());
        canonical.push(b'\n');
        canonical.extend(body_hash.as_bytes());
        Ok(canonical)
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The path, each of its parts encoded anew, with a slash at the end.
fn canonical_path(path: &str) -> String {
    let decoded = text::decode(path);
    let mut canonical = decoded.split('/').map(text::encode).collect::<Vec<_>>().join("/");
    if !canonical.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

/// The query, sorted and encoded anew.
fn canonical_query(query: &str) -> String {
    let mut pairs = text::query_pairs(query);
    pairs.sort();
    let encoded = pairs.iter().map(|(name, value)| format!("{}={}", text::encode(name), text::encode(value)));
    encoded.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    // Each signature was made by `huaweicloudsdkcore` 3.1.219 itself.
    const PROJECT: &str = "0d0466b0e7274d9cb35df84bb474a37f";
    const KMS: &str = "/v1.0/0d0466b0e7274d9cb35df84bb474a37f/kms";
    const SIGNED: &str =
        "Access=AKEXAMPLE, SignedHeaders=content-type;host;user-agent;x-project-id;x-sdk-date";
    const BODY: &str = r#"{"key_id": "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e", "key_alias": "test"}"#;
    const POST: &str = "73845c9fcf4f95cc11f10952324ad98845dad3b3671b67f07065da34a8110d1b";
    const GET: &str = "0567e5329520daf70f39e97eb8a1e5bbff0331fd5208c12ac7affe444d4e0944";
    const DELETE: &str = "3b320ae56519a76f1d130d3db5129b8225bde4358af960e15f571f45f217d5d0";

    fn headers(content_type: &str, agent: &str) -> HeaderMap {
        let pairs = [
            ("content-type", content_type),
            ("user-agent", agent),
            ("x-sdk-date", "20260101T120000Z"),
            ("x-project-id", PROJECT),
            ("host", "127.0.0.1:8080"),
        ];
        let pair = |(name, value): (&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        pairs.into_iter().map(pair).collect()
    }

    fn now() -> Timestamp {
        let seconds = text::basic_time("20260101T120000Z").unwrap();
        Timestamp::from_millis(u64::try_from(seconds).unwrap() * 1000)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(now().as_millis().checked_add_signed(seconds * 1000).unwrap())
    }

    fn verify(
        signature: &str,
        request: &Signed<'_>,
        secret: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Unsigned> {
        let header = format!("{ALGORITHM} {SIGNED}, Signature={signature}");
        let authorization = Authorization::parse(&header).unwrap();
        assert_eq!(authorization.access_key, "AKEXAMPLE");
        authorization.verify(request, secret.map(Secret::new).as_ref(), now)
    }

    fn post<'a>(path: &'a str, headers: &'a HeaderMap, body: &'a str) -> Signed<'a> {
        Signed { method: "POST", path, query: "", headers, body: body.as_bytes() }
    }

    #[test]
    fn what_the_sdk_signed_is_right() {
        let json = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
        let path = format!("{KMS}/update-key-alias");
        assert_eq!(verify(POST, &post(&path, &json, BODY), Some("SKEXAMPLE"), now()), Ok(()));

        let plain = headers("application/json", "huaweicloud-usdk-python/3.0");
        let path = format!("{KMS}/aliases");
        let query = "key_id=bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e&limit=2&marker=a%2Fb%20c%2B%C3%A9";
        let request = Signed { method: "GET", path: &path, query, headers: &plain, body: b"" };
        assert_eq!(verify(GET, &request, Some("SKEXAMPLE"), now()), Ok(()));

        let accented = headers("application/json", "caf\u{e9}");
        let path = format!("{KMS}/bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e/tags/a%2Fb%20%C3%A9~");
        let request = Signed { method: "DELETE", path: &path, query: "", headers: &accented, body: b"" };
        assert_eq!(verify(DELETE, &request, Some("SKEXAMPLE"), now()), Ok(()));
    }

    #[test]
    fn anything_else_is_wrong() {
        let json = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
        let path = format!("{KMS}/update-key-alias");
        let request = post(&path, &json, BODY);
        let secret = Some("SKEXAMPLE");
        assert_eq!(verify(POST, &request, Some("SKEXAMPLF"), now()), Err(Unsigned::Wrong));
        assert_eq!(verify(POST, &request, None, now()), Err(Unsigned::Wrong));
        assert_eq!(verify(GET, &request, secret, now()), Err(Unsigned::Wrong));
        assert_eq!(verify("", &request, secret, now()), Err(Unsigned::Wrong));
        assert_eq!(verify(&POST[..62], &request, secret, now()), Err(Unsigned::Wrong));
        assert_eq!(verify(POST, &post(&path, &json, "{}"), secret, now()), Err(Unsigned::Wrong));
        assert_eq!(verify(POST, &post(KMS, &json, BODY), secret, now()), Err(Unsigned::Wrong));
        let other = Signed { query: "x=1", ..post(&path, &json, BODY) };
        assert_eq!(verify(POST, &other, secret, now()), Err(Unsigned::Wrong));
        let mut moved = json.clone();
        moved.insert("host", HeaderValue::from_static("127.0.0.1:8081"));
        assert_eq!(verify(POST, &post(&path, &moved, BODY), secret, now()), Err(Unsigned::Wrong));
    }

    #[test]
    fn the_date_is_within_the_window() {
        let json = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
        let path = format!("{KMS}/update-key-alias");
        let request = post(&path, &json, BODY);
        for (seconds, expected) in
            [(900, Ok(())), (-900, Ok(())), (901, Err(Unsigned::Date)), (-901, Err(Unsigned::Date))]
        {
            assert_eq!(verify(POST, &request, Some("SKEXAMPLE"), at(seconds)), expected, "{seconds}");
        }
        let mut undated = json.clone();
        undated.remove(DATE);
        assert_eq!(verify(POST, &post(&path, &undated, BODY), Some("SKEXAMPLE"), now()), Err(Unsigned::Date));
    }

    #[test]
    fn headers_that_must_be_signed_are_there_once() {
        let json = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
        let path = format!("{KMS}/update-key-alias");
        let mut twice = json.clone();
        twice.append("x-project-id", HeaderValue::from_static("other"));
        let secret = Secret::new("SKEXAMPLE");
        assert_eq!(
            verify(POST, &post(&path, &twice, BODY), Some("SKEXAMPLE"), now()),
            Err(Unsigned::Headers)
        );
        for signed in ["host", "x-sdk-date", "host;x-sdk-date;absent", "host;host;x-sdk-date"] {
            let header = format!("{ALGORITHM} Access=A, SignedHeaders={signed}, Signature={POST}");
            let authorization = Authorization::parse(&header).unwrap();
            let refused = authorization.verify(&post(&path, &json, BODY), Some(&secret), now());
            assert_eq!(refused, Err(Unsigned::Headers), "{signed}");
        }
        let mut unsigned = json.clone();
        unsigned.insert(BODY_HASH, HeaderValue::from_static("UNSIGNED-PAYLOAD"));
        assert_eq!(
            verify(POST, &post(&path, &unsigned, BODY), Some("SKEXAMPLE"), now()),
            Err(Unsigned::Body)
        );
    }

    #[test]
    fn other_headers_are_malformed() {
        for wrong in [
            "",
            "Bearer x",
            "SDK-HMAC-SHA256",
            "SDK-HMAC-SHA256 Access=A, SignedHeaders=host",
            "SDK-HMAC-SHA256 Access=A, SignedHeaders=host, Signature=xyz",
            "SDK-HMAC-SHA256 Access=A, SignedHeaders=host, Signature=00, More=1",
            "V11-HMAC-SHA256 Access=A, SignedHeaders=host, Signature=00",
        ] {
            assert_eq!(Authorization::parse(wrong), None, "{wrong}");
        }
    }
}
