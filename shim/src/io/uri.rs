//! Names of streams: a path, or a URI of one of the schemes that containerd knows.

use std::path::PathBuf;

use crate::error::{Error, Result};

#[derive(Debug, PartialEq, Eq)]
pub enum Uri {
    /// A fifo, or an existing file; empty is none.
    Fifo(PathBuf),
    /// A file to append to.
    File(PathBuf),
    /// A program that reads the output; `strict` wants a sign of readiness from it.
    Binary { path: PathBuf, args: Vec<String>, strict: bool },
}

impl Uri {
    pub fn parse(text: &str) -> Result<Uri> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Uri::Fifo(text.into())) };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        // What stands before the path's first slash would be a host, which no scheme here has.
        let path = match path.find('/') {
            Some(0) => decode(path, false)?,
            _ => return Err(Error::invalid(format!("absolute path required in {text:?}"))),
        };
        match scheme {
            "fifo" => Ok(Uri::Fifo(path.into())),
            "file" => Ok(Uri::File(path.into())),
            "binary" | "binary-v2" => {
                let mut args: Vec<(String, String)> = Vec::new();
                for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    let (key, value) = (decode(key, true)?, decode(value, true)?);
                    // Of a key that repeats the first value counts, as in Go.
                    if !args.iter().any(|(known, _)| *known == key) {
                        args.push((key, value));
                    }
                }
                let args = args.into_iter().flat_map(|(key, value)| [key, value]).collect();
                Ok(Uri::Binary { path: path.into(), args, strict: scheme == "binary-v2" })
            }
            other => Err(Error::unknown(format!("unknown STDIO scheme {other}"))),
        }
    }
}

/// Undoes percent-encoding; in a query `+` is a blank.
fn decode(text: &str, query: bool) -> Result<String> {
    let invalid = || Error::invalid(format!("invalid escape in {text:?}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|d| (d as char).to_digit(16)).ok_or_else(invalid);
                (digit()? * 16 + digit()?) as u8
            }
            b'+' if query => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        assert_eq!(Uri::parse("").unwrap(), Uri::Fifo("".into()));
        assert_eq!(Uri::parse("/run/a-stdout").unwrap(), Uri::Fifo("/run/a-stdout".into()));
        assert_eq!(Uri::parse("file:///var/log/a%20b").unwrap(), Uri::File("/var/log/a b".into()));
        assert_eq!(
            Uri::parse("binary:///bin/log?file=%2Ftmp%2Fx&v=a+b&v=2&flag").unwrap(),
            Uri::Binary {
                path: "/bin/log".into(),
                args: ["file", "/tmp/x", "v", "a b", "flag", ""].map(str::to_owned).to_vec(),
                strict: false
            }
        );
    }

    #[test]
    fn mistakes() {
        assert!(Uri::parse("http:///x").unwrap_err().to_string().contains("unknown STDIO scheme http"));
        assert!(Uri::parse("file://host/x").is_err());
        assert!(Uri::parse("file:///%zz").is_err());
    }
}
