//! Percent encoding and times, as the wire has them.

use jiff::Timestamp as Moment;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use keystead::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What is not encoded: letters, digits and `-._~`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// A percent-encoded text as it is meant; `+` stands for itself.
pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The names and values of a query string, in its order.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pairs = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

/// RFC 3339 in UTC, in whole seconds: the times of aliases.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let seconds = i64::try_from(time.as_millis() / 1000).unwrap_or(i64::MAX);
    Moment::from_second(seconds).unwrap_or(Moment::MAX).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Milliseconds since the epoch: all other times.
pub(crate) fn millis(time: Option<Timestamp>) -> String {
    time.map(|time| time.as_millis().to_string()).unwrap_or_default()
}

/// The seconds since the epoch of a basic ISO 8601 time in UTC, such as `20260101T120000Z`.
pub(crate) fn basic_time(text: &str) -> Option<i64> {
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let exact = text.len() == "20260101T120000Z".len();
    let zoned = time.to_zoned_datetime(TimeZone::UTC).ok()?;
    exact.then_some(zoned.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_encoded_as_the_signature_has_them() {
        assert_eq!(encode("a-b._~/ +\u{e9}"), "a-b._~%2F%20%2B%C3%A9");
        assert_eq!(decode("a%2Fb+c%20%C3%A9"), "a/b+c \u{e9}");
        let pairs = query_pairs("b=2&a=%26&&c");
        let expected = [("b", "2"), ("a", "&"), ("c", "")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn times_are_written_and_read() {
        assert_eq!(rfc3339(Timestamp::from_millis(1_711_929_600_999)), "2024-04-01T00:00:00Z");
        assert_eq!(rfc3339(Timestamp::from_millis(u64::MAX)), "9999-12-30T22:00:00Z");
        assert_eq!(millis(Some(Timestamp::from_millis(7))), "7");
        assert_eq!(millis(None), "");
        assert_eq!(basic_time("20240401T000000Z"), Some(1_711_929_600));
        for wrong in ["", "20240401T000000", "2024-04-01T00:00:00Z", "20240401T000000Zx", "20241301T000000Z"]
        {
            assert_eq!(basic_time(wrong), None, "{wrong}");
        }
    }
}
