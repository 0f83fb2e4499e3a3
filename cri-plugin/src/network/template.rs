//! A network configuration out of a template: the part of Go's template language that such files are written in.
//!
//! `{{.PodCIDR}}`, `{{range .PodCIDRRanges}}{{.}}{{end}}`, the same with variables (`{{range $i, $range := .PodCIDRRanges}}`),
//! `{{if $i}}…{{else}}…{{end}}`, and `.Routes` as the second list. Dashes inside the braces trim spaces.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use windlass_core::{Error, Result};

/// The file that is written, by the name that tools look for.
const FILE: &str = "10-containerd-net.conflist";

/// What a template may name.
pub struct Values {
    ranges: Vec<String>,
    routes: Vec<String>,
}

impl Values {
    /// Of the kubelet's pod addresses: ranges joined by commas. *Invalid argument* for what is no range.
    pub fn new(cidrs: &str) -> Result<Self> {
        let ranges: Vec<String> = cidrs.split(',').map(|range| range.trim().to_owned()).collect();
        let (mut v4, mut v6) = (false, false);
        for range in &ranges {
            match address(range)? {
                IpAddr::V4(_) => v4 = true,
                IpAddr::V6(_) => v6 = true,
            }
        }
        let routes = [(v4, "0.0.0.0/0"), (v6, "::/0")];
        Ok(Self { ranges, routes: routes.iter().filter(|r| r.0).map(|r| r.1.to_owned()).collect() })
    }

    fn list(&self, name: &str) -> Option<&[String]> {
        match name {
            ".PodCIDRRanges" => Some(&self.ranges),
            ".Routes" => Some(&self.routes),
            _ => None,
        }
    }
}

/// The address of `10.0.0.0/8`.
fn address(range: &str) -> Result<IpAddr> {
    let bad = || Error::invalid(format!("pod addresses: {range:?} is no range like 10.0.0.0/16"));
    let (address, length) = range.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let length: u8 = length.parse().map_err(|_| bad())?;
    if length > if address.is_ipv4() { 32 } else { 128 } { Err(bad()) } else { Ok(address) }
}

/// Fills a template in and puts the outcome into `dir`. Blocks.
pub fn write(template: &Path, dir: &Path, values: &Values, limit: u64) -> Result<()> {
    let mut text = String::new();
    let read = fs::File::open(template).and_then(|file| file.take(limit + 1).read_to_string(&mut text));
    let read = read.map_err(|e| Error::io(format!("read network template {}", template.display()), e))?;
    if read as u64 > limit {
        return Err(Error::invalid(format!(
            "network template {} is larger than {limit} bytes",
            template.display()
        )));
    }
    let filled =
        fill(&text, values).map_err(|e| e.context(format!("network template {}", template.display())))?;
    let fail = |what: &str, path: &Path, e| Error::io(format!("{what} {}", path.display()), e);
    fs::create_dir_all(dir).map_err(|e| fail("make", dir, e))?;
    let (path, part) = (dir.join(FILE), dir.join(format!(".{FILE}")));
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&part);
    written
        .and_then(|mut file| file.write_all(filled.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&part, &path))
        .map_err(|e| fail("write", &path, e))
}

/// A piece of a template.
enum Piece<'a> {
    Text(&'a str),
    Action(&'a str),
}

/// Fills a template in. *Invalid argument* for what is not understood.
fn fill(text: &str, values: &Values) -> Result<String> {
    let pieces = pieces(text)?;
    let mut out = String::new();
    let scope = Scope { values, dot: None, variables: Vec::new() };
    let rest = scope.run(&pieces, &mut out)?;
    if rest.is_empty() { Ok(out) } else { Err(Error::invalid("an end without a beginning")) }
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) =
            after.split_once("}}").ok_or_else(|| Error::invalid("an action is not closed"))?;
        let (trim_before, action) = action.strip_prefix("- ").map_or((false, action), |a| (true, a));
        let (trim_after, action) = action.strip_suffix(" -").map_or((false, action), |a| (true, a));
        pieces.push(Piece::Text(if trim_before { before.trim_end() } else { before }));
        if !action.trim_start().starts_with("/*") {
            pieces.push(Piece::Action(action.trim()));
        }
        rest = if trim_after { after.trim_start() } else { after };
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

struct Scope<'a> {
    values: &'a Values,
    /// What `.` is.
    dot: Option<String>,
    variables: Vec<(String, String)>,
}

impl Scope<'_> {
    /// Runs up to the `end` or `else` of this block, and answers from there on.
    fn run<'p, 't>(&self, mut pieces: &'p [Piece<'t>], out: &mut String) -> Result<&'p [Piece<'t>]> {
        while let Some((piece, rest)) = pieces.split_first() {
            match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    pieces = rest;
                }
                Piece::Action("end" | "else") => return Ok(pieces),
                Piece::Action(action) => {
                    pieces = match action.split_once(' ') {
                        Some(("range", list)) => self.repeat(list.trim(), rest, out)?,
                        Some(("if", value)) => self.choose(value.trim(), rest, out)?,
                        _ => {
                            out.push_str(&self.value(action)?);
                            rest
                        }
                    }
                }
            }
        }
        Ok(pieces)
    }

    fn value(&self, name: &str) -> Result<String> {
        let found = match name {
            "." => self.dot.clone(),
            ".PodCIDR" => self.values.ranges.first().cloned(),
            _ => self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone()),
        };
        found.ok_or_else(|| Error::invalid(format!("{{{{{name}}}}} is not understood")))
    }

    fn repeat<'p, 't>(&self, list: &str, body: &'p [Piece<'t>], out: &mut String) -> Result<&'p [Piece<'t>]> {
        let (names, list) = list.split_once(":=").map_or(("", list), |(names, list)| (names, list.trim()));
        let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let items = self.values.list(list).ok_or_else(|| Error::invalid(format!("{list:?} is no list")))?;
        for (index, item) in items.iter().enumerate() {
            let mut variables = self.variables.clone();
            match names[..] {
                [] => {}
                [name] => variables.push((name.to_owned(), item.clone())),
                [number, name] => {
                    variables.push((number.to_owned(), index.to_string()));
                    variables.push((name.to_owned(), item.clone()));
                }
                _ => return Err(Error::invalid("a range has at most two variables")),
            }
            Scope { values: self.values, dot: Some(item.clone()), variables }.run(body, out)?;
        }
        Self::after(self.run(body, &mut String::new()).or_else(|_| self.skip(body))?)
    }

    fn choose<'p, 't>(
        &self,
        value: &str,
        body: &'p [Piece<'t>],
        out: &mut String,
    ) -> Result<&'p [Piece<'t>]> {
        let value = match self.values.list(value) {
            Some(items) => !items.is_empty(),
            None => !matches!(self.value(value)?.as_str(), "" | "0"),
        };
        let (mut yes, mut no) = (String::new(), String::new());
        let mut rest = self.run(body, &mut yes)?;
        if let Some((Piece::Action("else"), after)) = rest.split_first() {
            rest = self.run(after, &mut no)?;
        }
        out.push_str(if value { &yes } else { &no });
        Self::after(rest)
    }

    /// Finds the end of a block whose variables are not there.
    fn skip<'p, 't>(&self, body: &'p [Piece<'t>]) -> Result<&'p [Piece<'t>]> {
        let mut depth = 0;
        for (at, piece) in body.iter().enumerate() {
            let Piece::Action(action) = piece else { continue };
            match action.split(' ').next() {
                Some("range" | "if") => depth += 1,
                Some("end") if depth == 0 => return Ok(&body[at..]),
                Some("end") => depth -= 1,
                _ => {}
            }
        }
        Err(Error::invalid("a block has no end"))
    }

    fn after<'p, 't>(rest: &'p [Piece<'t>]) -> Result<&'p [Piece<'t>]> {
        match rest.split_first() {
            Some((Piece::Action("end"), after)) => Ok(after),
            _ => Err(Error::invalid("a block has no end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_template_is_filled_in() {
        let text = r#"{"subnet": "{{.PodCIDR}}",
"ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
"routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]}"#;
        let values = Values::new("10.0.0.0/24, fd00::/64").expect("two ranges");
        let json: serde_json::Value =
            serde_json::from_str(&fill(text, &values).expect("it is understood")).expect("it is JSON");
        assert_eq!(json["subnet"], "10.0.0.0/24");
        assert_eq!(json["ranges"][1][0]["subnet"], "fd00::/64");
        assert_eq!(json["routes"][0]["dst"], "0.0.0.0/0");
        assert_eq!(json["routes"][1]["dst"], "::/0");
    }

    #[test]
    fn other_forms() {
        let values = Values::new("10.0.0.0/24,10.1.0.0/24").expect("two ranges");
        let filled = |text: &str| fill(text, &values).map_err(|e| e.message().to_owned());
        assert_eq!(
            filled("{{range .PodCIDRRanges}}<{{.}}>{{end}}").as_deref(),
            Ok("<10.0.0.0/24><10.1.0.0/24>")
        );
        assert_eq!(filled("a {{- /* no */ -}} b{{ .PodCIDR }}").as_deref(), Ok("ab10.0.0.0/24"));
        assert_eq!(filled("{{if .Routes}}yes{{else}}no{{end}}").as_deref(), Ok("yes"));
        for wrong in ["{{.Other}}", "{{range .PodCIDRRanges}}", "{{end}}", "{{", "{{range .X}}{{end}}"] {
            assert!(filled(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_are_checked() {
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/8,"] {
            assert!(Values::new(wrong).is_err(), "{wrong}");
        }
    }
}
