//! The outcome of an exec or attach as the client wants to hear it: a `meta/v1.Status` in JSON since v4, plain text of
//! failures before.

use serde::Serialize;
use windlass_core::Error;

/// How a command or an attachment ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Success,
    Exit { code: i32, cmd: Vec<String> },
    Failed { doing: &'static str, error: Error },
}

#[derive(Serialize)]
struct Status {
    metadata: Empty,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: String,
}

impl Outcome {
    /// What goes onto the error stream; nothing for a success told in text.
    pub fn bytes(&self, json: bool) -> Vec<u8> {
        if !json {
            return self.message().unwrap_or_default().into_bytes();
        }
        // Strings and numbers always serialize.
        serde_json::to_vec(&self.status()).unwrap_or_default()
    }

    fn message(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::Exit { code, cmd } => Some(format!(
                "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                cmd.join(" ")
            )),
            Self::Failed { doing, error } => {
                Some(format!("Internal error occurred: error {doing} container: {}", error.chain()))
            }
        }
    }

    fn status(&self) -> Status {
        let success = matches!(self, Self::Success);
        let mut status = Status {
            metadata: Empty {},
            status: if success { "Success" } else { "Failure" },
            message: self.message(),
            reason: None,
            details: None,
            code: None,
        };
        match self {
            Self::Success => {}
            Self::Exit { code, .. } => {
                status.reason = Some("NonZeroExitCode");
                let cause = Cause { reason: Some("ExitCode"), message: code.to_string() };
                status.details = Some(Details { causes: [cause] });
            }
            Self::Failed { doing, error } => {
                status.reason = Some("InternalError");
                let message = format!("error {doing} container: {}", error.chain());
                status.details = Some(Details { causes: [Cause { reason: None, message }] });
                status.code = Some(500);
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(outcome: &Outcome, json: bool) -> String {
        String::from_utf8(outcome.bytes(json)).unwrap()
    }

    #[test]
    fn outcomes_are_told_as_clients_expect() {
        assert_eq!(text(&Outcome::Success, true), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(text(&Outcome::Success, false), "");
        let exit = Outcome::Exit { code: 3, cmd: vec!["sh".into(), "-c".into(), "exit 3".into()] };
        assert_eq!(
            text(&exit, true),
            "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"command terminated with non-zero exit code: \
             error executing command [sh -c exit 3], exit code 3\",\"reason\":\"NonZeroExitCode\",\"details\":\
             {\"causes\":[{\"reason\":\"ExitCode\",\"message\":\"3\"}]}}"
        );
        assert!(text(&exit, false).ends_with("exit code 3"));
        let failed = Outcome::Failed { doing: "attaching to", error: Error::not_found("no such container") };
        assert_eq!(
            text(&failed, true),
            "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"Internal error occurred: error attaching to \
             container: no such container\",\"reason\":\"InternalError\",\"details\":{\"causes\":[{\"message\":\
             \"error attaching to container: no such container\"}]},\"code\":500}"
        );
    }
}
