//! [`Refusal`]: what the service answers when it does not do what it was asked.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use keystead::Error;
use serde::Serialize;
use tracing::Span;
use utoipa::{IntoResponses, ToSchema};

/// A status, a code and a sentence.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    /// 400 with a code of the API.
    pub(crate) fn of_request(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into() }
    }

    /// A parameter that no code of its own is for.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::of_request("KMS.0308", message)
    }

    pub(crate) fn missing(parameter: &str) -> Self {
        Self::of_request("KMS.0204", format!("the parameter {parameter} is missing"))
    }

    pub(crate) fn unauthenticated(why: &str) -> Self {
        let message = format!("Incorrect IAM authentication information: {why}");
        Self { status: StatusCode::UNAUTHORIZED, code: "APIGW.0301", message }
    }

    pub(crate) fn forbidden() -> Self {
        let message = "the project is not one of the caller's account".to_owned();
        Self { status: StatusCode::FORBIDDEN, code: "APIGW.0302", message }
    }

    pub(crate) fn no_such_version() -> Self {
        let message = "there is no such version of the API: there is v1.0".to_owned();
        Self { status: StatusCode::NOT_FOUND, code: "KMS.0201", message }
    }

    /// An operation that the service does not offer, whether the path or the method is unknown. It is not 404:
    /// clients take that for the answer that a resource is gone, and forget it.
    pub(crate) fn not_offered() -> Self {
        let message =
            "this service does not offer this operation: there is no such path, or not with this method";
        Self { status: StatusCode::METHOD_NOT_ALLOWED, code: "KMS.0215", message: message.to_owned() }
    }

    pub(crate) fn too_long() -> Self {
        Self::of_request("KMS.0203", "the request is too long")
    }

    /// A body that is long must say how long, as long as it is not known who sends it.
    pub(crate) fn length_required() -> Self {
        let message = "a body of more than 16 KiB needs a Content-Length header, or a signed request an \
                       X-Sdk-Content-Sha256 header";
        Self { status: StatusCode::LENGTH_REQUIRED, code: "KMS.0308", message: message.to_owned() }
    }

    pub(crate) fn body_too_slow() -> Self {
        let message = "the body did not come in time".to_owned();
        Self { status: StatusCode::REQUEST_TIMEOUT, code: "KMS.0308", message }
    }

    /// Too much is under way, or it took too long.
    pub(crate) fn unavailable(message: &str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "KMS.0101", message: message.to_owned() }
    }

    /// Something went wrong inside. The caller is not told what; the log is.
    pub(crate) fn internal(what: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %what, "internal trouble");
        let message = "the service failed; its operator finds the cause by the request id".to_owned();
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "KMS.0101", message }
    }

    #[cfg(test)]
    pub(crate) fn status_and_code(&self) -> (u16, &'static str) {
        (self.status.as_u16(), self.code)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if let Some(api) = error.api() {
            let status = StatusCode::from_u16(api.status).unwrap_or(StatusCode::BAD_REQUEST);
            return Self { status, code: api.code, message: error.to_string() };
        }
        let gone = matches!(error, Error::HistoryTrimmed { .. });
        match error {
            Error::HistoryTrimmed { .. } | Error::HistoryDisabled => Self {
                status: if gone { StatusCode::GONE } else { StatusCode::NOT_FOUND },
                code: "KMS.0308",
                message: error.to_string(),
            },
            Error::TransactionTooLarge { .. } => Self::invalid(error.to_string()),
            error if error.is_retryable() => {
                tracing::warn!(%error, "a passing trouble of the store");
                Self::unavailable("the service is busy; nothing was changed, try again")
            }
            error => Self::internal(&error),
        }
    }
}

/// Turns what is wrong with a value into a refusal, through the library's own codes.
pub(crate) fn refused<W: Into<Error>>(wrong: W) -> Refusal {
    Refusal::from(wrong.into())
}

/// The body of a refusal: nested, as documented, and flat, because some SDKs read only that.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RefusalBody {
    error: ErrorDetail,
    error_code: String,
    error_msg: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    #[schema(example = "KMS.0207")]
    error_code: String,
    error_msg: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        Span::current().record("code", self.code);
        let (code, message) = (self.code.to_owned(), self.message);
        let error = ErrorDetail { error_code: code.clone(), error_msg: message.clone() };
        let body = Json(RefusalBody { error, error_code: code, error_msg: message });
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The refusals that every operation may answer with.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only described")]
pub(crate) enum Refusals {
    #[response(status = 400, description = "The request is wrong, or does not suit the state of the key")]
    BadRequest(RefusalBody),
    #[response(status = 401, description = "Not signed, or wrongly")]
    Unauthorized(RefusalBody),
    #[response(status = 403, description = "The project belongs to another account")]
    Forbidden(RefusalBody),
    #[response(status = 404, description = "There is no such key, alias or tag")]
    NotFound(RefusalBody),
    #[response(status = 405, description = "The service does not offer this operation")]
    WrongMethod(RefusalBody),
    #[response(status = 408, description = "The body did not come in time")]
    BodyTooSlow(RefusalBody),
    #[response(status = 411, description = "A long body does not say how long it is")]
    LengthRequired(RefusalBody),
    #[response(status = 500, description = "Internal trouble")]
    Internal(RefusalBody),
    #[response(status = 503, description = "Too busy, or it took too long: what became of it is unknown")]
    Unavailable(RefusalBody),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_the_store_keep_their_codes_and_troubles_say_nothing() {
        let missing = refused("zz6a3d22-dc93-47ac-b5bd-88df7ad35f1e".parse::<keystead::KeyId>().unwrap_err());
        assert_eq!(missing.status_and_code(), (404, "KMS.0207"));
        let trouble = Refusal::from(Error::Corrupted("the row 17 of secrets".into()));
        assert_eq!(trouble.status_and_code(), (500, "KMS.0101"));
        assert!(!trouble.message.contains("17"));
        let denied = Refusal::from(Error::AccessDenied("the user kms has no permission".into()));
        assert_eq!(denied.status_and_code(), (500, "KMS.0101"));
        assert!(!denied.message.contains("permission"), "it is between the service and its servers");
        assert_eq!(Refusal::from(Error::Conflict).status_and_code(), (503, "KMS.0101"));
        let position = refused("x".parse::<keystead::Position>().unwrap_err());
        assert_eq!(position.status_and_code(), (400, "KMS.1602"));
    }
}
