//! Random texts: ids of requests, and the secret of a demonstration.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use uuid::Uuid;

#[expect(clippy::disallowed_methods, reason = "this is an edge, outside of any transaction")]
fn uuid() -> Uuid {
    Uuid::new_v4()
}

/// The id of a request: 32 hexadecimal digits.
pub(crate) fn request_id() -> String {
    uuid().simple().to_string()
}

/// An access key: it is no secret.
pub(crate) fn access_key() -> String {
    format!("DEMO{}", &uuid().simple().to_string().to_uppercase()[..16])
}

/// A secret of 244 random bits.
pub(crate) fn secret() -> String {
    let random = [uuid().into_bytes(), uuid().into_bytes()].concat();
    HEXLOWER.encode(&Sha256::digest(random))
}
