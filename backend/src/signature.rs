//! `SDK-HMAC-SHA256`: how the SDKs sign requests, and whether a signature is right.

use std::collections::HashSet;

use axum::http::HeaderMap;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use keystead::Timestamp;
use sha2::{Digest, Sha256};

use crate::config::Secret;
use crate::text;

const ALGORITHM: &str = "SDK-HMAC-SHA256";
const DATE: &str = "x-sdk-date";
const BODY_HASH: &str = "x-sdk-content-sha256";

/// How old a request may be, and how far the clock of its sender may be ahead. Together they bound how long
/// one signed request is accepted.
const PAST_SECONDS: i64 = 14 * 60;
const FUTURE_SECONDS: i64 = 60;

/// The head of a request as it came.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    /// The path, percent-encoded.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

/// What the Authorization header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authorization {
    pub(crate) access_key: String,
    /// The names of the headers that are signed, as they were given.
    headers: Vec<String>,
    signature: Vec<u8>,
}

/// Why a request is not taken for signed; told to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsigned {
    Malformed,
    Date,
    Old,
    Early,
    Headers,
    Body,
    Wrong,
}

impl Unsigned {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed Authorization header",
            Self::Date => "the x-sdk-date header is missing, or is no time such as 20260101T120000Z",
            Self::Old => "x-sdk-date is more than 14 minutes ago: sign the request again, look at the clock",
            Self::Early => "x-sdk-date is more than a minute ahead of this service: look at the clock",
            Self::Headers => "x-sdk-date must be signed, and each signed header be there once",
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

    /// The access key that a header names, also if the rest of it is malformed: for the log.
    pub(crate) fn claimed(header: &str) -> Option<&str> {
        let fields = header.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let mut parts = fields.split(',').map(str::trim);
        parts.find_map(|part| part.strip_prefix("Access="))
    }

    /// What can be checked before the body is there and whatever the secret is: that the date is signed and
    /// now, and that all signed headers are there.
    pub(crate) fn check_head(&self, headers: &HeaderMap, now: Timestamp) -> Result<(), Unsigned> {
        let date = single(headers, DATE).and_then(text::basic_time).ok_or(Unsigned::Date)?;
        let now = i64::try_from(now.as_millis() / 1000).map_err(|_| Unsigned::Date)?;
        match now.saturating_sub(date) {
            PAST_SECONDS.. => return Err(Unsigned::Old),
            age if age < -FUTURE_SECONDS => return Err(Unsigned::Early),
            _ => {}
        }
        let mut names = HashSet::new();
        for name in &self.headers {
            // A name again and again would multiply its header's value in memory.
            if !names.insert(name.to_ascii_lowercase()) || value(headers, name).is_none() {
                return Err(Unsigned::Headers);
            }
        }
        if !names.contains(DATE) {
            return Err(Unsigned::Headers);
        }
        let is_hash = |text: &str| HEXLOWER.decode(text.as_bytes()).is_ok_and(|hash| hash.len() == 32);
        let unhashed = headers.contains_key(BODY_HASH) && !single(headers, BODY_HASH).is_some_and(is_hash);
        if unhashed { Err(Unsigned::Body) } else { Ok(()) }
    }

    /// Whether the request was signed with this secret, if that can be known before its body is there: where
    /// the hash of the body is a header. `false`: it can't. [`check_head`](Self::check_head) comes before.
    pub(crate) fn verify_head(&self, head: &Head<'_>, secret: &Secret) -> Result<bool, Unsigned> {
        if !head.headers.contains_key(BODY_HASH) {
            return Ok(false);
        }
        let body_hash = single(head.headers, BODY_HASH).ok_or(Unsigned::Body)?;
        self.verify(head, body_hash, secret).map(|()| true)
    }

    /// Whether the whole request was signed with this secret; [`verify_head`](Self::verify_head) comes before.
    pub(crate) fn verify_body(&self, head: &Head<'_>, body: &[u8], secret: &Secret) -> Result<(), Unsigned> {
        let body_hash = HEXLOWER.encode(&Sha256::digest(body));
        if head.headers.contains_key(BODY_HASH) {
            let as_signed = single(head.headers, BODY_HASH) == Some(&body_hash);
            return if as_signed { Ok(()) } else { Err(Unsigned::Body) };
        }
        self.verify(head, &body_hash, secret)
    }

    fn verify(&self, head: &Head<'_>, body_hash: &str, secret: &Secret) -> Result<(), Unsigned> {
        let date = single(head.headers, DATE).ok_or(Unsigned::Date)?;
        let given: Vec<&str> = self.headers.iter().map(String::as_str).collect();
        let lower: Vec<String> = given.iter().map(|name| name.to_ascii_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        // The signing guide has the names in lower case. Of those who name a header with capitals, some sign
        // it so. Whichever it is, the same headers are signed.
        let spelled = [(&lower, &lower), (&lower, &given), (&given, &given)];
        for (lines, list) in &spelled[..if given == lower { 1 } else { 3 }] {
            let canonical = canonical(head, lines, list, body_hash).ok_or(Unsigned::Headers)?;
            let to_sign = format!("{ALGORITHM}\n{date}\n{}", HEXLOWER.encode(&Sha256::digest(canonical)));
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| Unsigned::Wrong)?;
            mac.update(to_sign.as_bytes());
            // This comparison takes the same time wherever the two differ.
            if mac.verify_slice(&self.signature).is_ok() {
                return Ok(());
            }
        }
        Err(Unsigned::Wrong)
    }
}

/// What is hashed and signed, with the header names spelled as they are in its lines and in their list.
fn canonical(head: &Head<'_>, lines: &[&str], list: &[&str], body_hash: &str) -> Option<Vec<u8>> {
    let mut canonical = Vec::new();
    for part in [head.method, &canonical_path(head.path), &canonical_query(head.query)] {
        canonical.extend(part.as_bytes());
        canonical.push(b'\n');
    }
    for name in lines {
        canonical.extend(name.as_bytes());
        canonical.push(b':');
        canonical.extend(value(head.headers, name)?.trim_ascii());
        canonical.push(b'\n');
    }
    canonical.push(b'\n');
    canonical.extend(list.join(";").as_bytes());
    canonical.push(b'\n');
    canonical.extend(body_hash.as_bytes());
    Some(canonical)
}

/// The value of a header that is there once, whatever the case of its name.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value.as_bytes())
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    std::str::from_utf8(value(headers, name)?).ok()
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
mod tests;
