//! Tells the answers of a server whose storage is full, or that has no cluster, from other errors.

use std::error::Error;

use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode};

/// Whether an error, or one of its causes, is the server's answer that its storage is full.
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    has_answer(error, says_full)
}

/// Whether an error, or one of its causes, is the answer of a server without a cluster that it keeps no copies.
pub fn needs_cluster(error: &(dyn Error + 'static)) -> bool {
    has_answer(error, |answer| {
        answer.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
    })
}

/// Whether an error, or one of its causes, is an answer of the server that `is_wanted` accepts.
fn has_answer(error: &(dyn Error + 'static), is_wanted: impl Fn(&jetstream::Error) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        // An answer about a stream is in the kind of the error, one about a message is its cause.
        let created = cause
            .downcast_ref::<CreateStreamError>()
            .map(CreateStreamError::kind);
        let answer = match &created {
            Some(CreateStreamErrorKind::JetStream(answer)) => Some(answer),
            _ => cause.downcast_ref::<jetstream::Error>(),
        };
        if answer.is_some_and(&is_wanted) {
            return true;
        }
        next = cause.source();
    }
    false
}

fn says_full(error: &jetstream::Error) -> bool {
    match error.error_code() {
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES => true,
        // A cluster answers so for each reason why none of its servers takes a stream.
        ErrorCode::CLUSTER_NO_PEERS => error.to_string().contains("insufficient storage"),
        // The code stands for any message that was not stored; the text says why.
        ErrorCode::STREAM_STORE_FAILED => {
            let text = error.to_string();
            text.contains("maximum bytes exceeded") || text.contains("no space left")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::error::StreamError;

    fn answer(code: u64, description: &str) -> jetstream::Error {
        let json = serde_json::json!({ "code": 503, "err_code": code, "description": description });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn answers_of_a_full_server_are_told_from_others_however_deep_they_lie() {
        for (code, description, expected) in [
            (10_002, "resource limits exceeded for account", true),
            (10_047, "insufficient storage resources available", true),
            (10_023, "insufficient resources", true),
            (
                10_005,
                "no suitable peers for placement, insufficient storage",
                true,
            ),
            (10_005, "no suitable peers for placement, tags not matched", false),
            (10_077, "maximum bytes exceeded", true),
            (10_077, "maximum messages exceeded", false),
            (10_071, "wrong last sequence: 1", false),
        ] {
            let error = StreamError::new("store a test".to_owned(), answer(code, description));
            assert_eq!(is_full(&error), expected, "{description}");
        }
        assert!(!is_full(&std::io::Error::other("maximum bytes exceeded")));
    }
}
