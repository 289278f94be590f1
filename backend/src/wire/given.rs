//! What requests give, before it is anything: bodies, and the values in them.
//!
//! An empty string is judged alike everywhere. Where a value need not be there, it is none. Where it must be
//! there it is a wrong one, and refused with the code of that value.

use keystead::{KeyId, RequestId};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use tracing::Span;
use utoipa::ToSchema;

use crate::error::{Refusal, refused};

/// Reads a body. An empty one is an object without fields; unknown fields are left out.
pub(crate) fn parse<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = body.trim_ascii();
    if body.is_empty() || body == b"null" {
        return Ok(T::default());
    }
    if body[0] != b'{' {
        return Err(Refusal::of_request("KMS.0202", "the body is no JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { "KMS.0308" } else { "KMS.0202" };
        Refusal::of_request(code, error.to_string())
    })
}

/// A parameter that must be there.
pub(crate) fn required<T>(value: Option<T>, name: &str) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::missing(name))
}

/// A key id that must be there.
pub(crate) fn key_id(text: Option<&str>) -> Result<KeyId, Refusal> {
    required(text, "key_id")?.parse().map_err(refused::<keystead::InvalidKeyId>)
}

/// The caller's own number of the request, which need not be there; it is logged.
pub(crate) fn sequence(text: Option<&str>) -> Result<Option<RequestId>, Refusal> {
    let sequence: Option<RequestId> =
        text.map(str::parse).transpose().map_err(refused::<keystead::InvalidRequestId>)?;
    if let Some(sequence) = &sequence {
        Span::current().record("sequence", sequence.as_str());
    }
    Ok(sequence)
}

/// A number that clients write as a string or as a number.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a number is written as an integer or as a string")]
pub(crate) enum Number {
    Text(String),
    Integer(i64),
}

impl Number {
    pub(crate) fn value(&self) -> Option<u64> {
        match self {
            Self::Text(text) => digits(text),
            Self::Integer(number) => u64::try_from(*number).ok(),
        }
    }
}

/// A number that is written with digits only.
pub(crate) fn digits(text: &str) -> Option<u64> {
    let only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if only_digits { text.parse().ok() } else { None }
}

/// A text that need not be there.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let given = Option::<String>::deserialize(deserializer)?;
    Ok(given.filter(|text| !text.is_empty()))
}

/// A number that need not be there.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Number>, D::Error> {
    let given = Option::<Number>::deserialize(deserializer)?;
    Ok(given.filter(|given| !matches!(given, Number::Text(text) if text.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::super::ListKeysBody;
    use super::*;

    fn code(body: &str) -> (u16, &'static str) {
        parse::<ListKeysBody>(body.as_bytes()).unwrap_err().status_and_code()
    }

    #[test]
    fn bodies_are_objects() {
        for empty in ["", "  ", "{}", "null", "{\"unknown\":[1]}", "{\"limit\":null}"] {
            assert!(parse::<ListKeysBody>(empty.as_bytes()).unwrap().limit.is_none(), "{empty}");
        }
        for wrong in ["[]", "7", "{", "{]", "{\"limit\":}", "\u{1}", "\"x\""] {
            assert_eq!(code(wrong), (400, "KMS.0202"), "{wrong}");
        }
        for wrong in ["{\"limit\":[]}", "{\"limit\":1.5}", "{\"key_spec\":7}"] {
            assert_eq!(code(wrong), (400, "KMS.0308"), "{wrong}");
        }
    }

    #[test]
    fn numbers_come_as_strings_or_numbers() {
        let limit = |text: &str| {
            let body: ListKeysBody = parse(format!("{{\"limit\":{text}}}").as_bytes()).unwrap();
            body.limit.unwrap().value()
        };
        assert_eq!((limit("7"), limit("\"7\""), limit("\"007\"")), (Some(7), Some(7), Some(7)));
        for wrong in ["-1", "\"-1\"", "\"+1\"", "\"1.5\"", "\" 1\"", "\"99999999999999999999\""] {
            assert_eq!(limit(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_empty_text_is_none_where_there_need_be_none() {
        let body: ListKeysBody =
            parse(br#"{"limit":"","marker":"","key_state":"","key_spec":"","sequence":""}"#).unwrap();
        assert!(body.limit.is_none() && body.marker.is_none() && body.key_state.is_none());
        assert_eq!((body.key_spec, body.sequence), (None, None));
        assert_eq!(key_id(Some("")).unwrap_err().status_and_code(), (400, "KMS.0205"));
    }

    #[test]
    fn parameters_are_checked() {
        let code = |refused: Refusal| refused.status_and_code();
        assert_eq!(code(key_id(None).unwrap_err()), (400, "KMS.0204"));
        assert_eq!(code(key_id(Some("x")).unwrap_err()), (400, "KMS.0205"));
        assert_eq!(
            code(key_id(Some("zz6a3d22-dc93-47ac-b5bd-88df7ad35f1e")).unwrap_err()),
            (404, "KMS.0207")
        );
        assert_eq!(code(sequence(Some("short")).unwrap_err()), (400, "KMS.0206"));
        assert!(sequence(Some("919c82d4-8046-4722-9094-35c3c6524cff")).unwrap().is_some());
    }
}
