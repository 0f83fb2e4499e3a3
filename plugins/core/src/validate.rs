//! Checks of names that come from outside.

use crate::error::{Error, Result};
use crate::types::Labels;

/// Longest identifier, in bytes (containerd's bound).
pub const MAX_IDENTIFIER: usize = 76;
/// Longest key and value of a label together, in bytes (containerd's bound).
pub const MAX_LABEL: usize = 4096;

/// Accepts `[A-Za-z0-9]+([._-][A-Za-z0-9]+)*`, at most 76 bytes: ids of containers, namespaces, leases, sandboxes.
/// `kind` names the thing in the error: `container id`.
pub fn identifier(kind: &str, id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::invalid(format!("{kind} must not be empty")));
    }
    if id.len() > MAX_IDENTIFIER {
        return Err(Error::invalid(format!("{kind} {id:?} is longer than {MAX_IDENTIFIER} bytes")));
    }
    let well_formed =
        id.split(['.', '_', '-']).all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric()));
    if !well_formed {
        return Err(Error::invalid(format!(
            "{kind} {id:?} must be letters and digits, joined by single '.', '_' or '-'"
        )));
    }
    Ok(())
}

/// Every label's key and value within [`MAX_LABEL`], and no key empty.
pub fn labels(labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        if key.len() + value.len() > MAX_LABEL {
            let shown: String = key.chars().take(64).collect();
            return Err(Error::invalid(format!(
                "label key and value greater than maximum size ({MAX_LABEL} characters), key: {shown}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_hold_no_paths() {
        for good in ["a", "k8s.io", "a-b_c.d9", "0"] {
            assert!(identifier("id", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a..b", "-a", "a-", "é", "a\n", &"a".repeat(77)] {
            assert!(identifier("id", bad).is_err(), "{bad}");
        }
    }
}
