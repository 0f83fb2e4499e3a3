//! containerd's filter syntax: `field.path==value,labels."a.b"~=^x,name`. Selectors joined by commas must all match;
//! of several filters any.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// Longest filter that is parsed, in bytes.
const MAX_FILTER: usize = 16 * 1024;

/// What can be filtered: answers the value of a field path, `None` where it is absent.
pub trait Fields {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>>;
}

/// Answers `labels.<key>`: everything after the first part, joined by dots, is the key.
pub fn label<'a>(labels: &'a crate::Labels, key: &[&str]) -> Option<Cow<'a, str>> {
    labels.get(&key.join(".")).map(|v| Cow::Borrowed(v.as_str()))
}

/// Any of several filters; none at all matches everything.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    any: Vec<Vec<Selector>>,
    texts: Vec<String>,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(regex_lite::Regex),
}

impl Filters {
    pub fn all() -> Self {
        Self::default()
    }

    /// Parses filters; an empty one matches everything. *Invalid argument* names the filter and the place.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self> {
        let any = filters.iter().map(|f| Parser::new(f.as_ref())?.selectors()).collect::<Result<_>>()?;
        Ok(Self { any, texts: filters.iter().map(|f| f.as_ref().to_owned()).collect() })
    }

    /// As they were written: for a store in another process.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    pub fn matches(&self, object: &dyn Fields) -> bool {
        self.any.is_empty() || self.any.iter().any(|selectors| selectors.iter().all(|s| s.matches(object)))
    }
}

impl Selector {
    fn matches(&self, object: &dyn Fields) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = object.field(&path);
        match (&self.test, value) {
            (Test::Present, value) => value.is_some(),
            (Test::Equal(want), Some(value)) => *want == value,
            (Test::NotEqual(want), value) => value.is_none_or(|v| *want != v),
            (Test::Matches(regex), Some(value)) => regex.is_match(&value),
            (_, None) => false,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self> {
        if text.len() > MAX_FILTER {
            return Err(Error::invalid(format!("filter of {} bytes: at most {MAX_FILTER}", text.len())));
        }
        Ok(Self { text, at: 0 })
    }

    fn error<T>(&self, why: &str) -> Result<T> {
        Err(Error::invalid(format!(
            "filters: parse error: [{} >|{}|< ]: {why}",
            &self.text[..self.at],
            self.rest()
        )))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// White space may stand between tokens: containerd's own clients write it behind commas.
    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn selectors(mut self) -> Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        if self.text.trim().is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            self.space();
            if self.rest().is_empty() {
                return Ok(selectors);
            }
            if !self.eat(",") {
                return self.error("expected a comma");
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.eat(".") {
            path.push(self.field()?);
        }
        let test = if self.eat("==") {
            Test::Equal(self.value(false)?)
        } else if self.eat("!=") {
            Test::NotEqual(self.value(false)?)
        } else if self.eat("~=") {
            let pattern = self.value(true)?;
            match regex_lite::Regex::new(&pattern) {
                Ok(regex) => Test::Matches(regex),
                Err(_) => return self.error("not a regular expression"),
            }
        } else {
            Test::Present
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        self.space();
        if self.rest().starts_with('"') {
            return self.quoted('"');
        }
        let end = self.rest().bytes().position(|b| !(b.is_ascii_alphanumeric() || b == b'_'));
        let name = &self.rest()[..end.unwrap_or(self.rest().len())];
        if name.is_empty() {
            return self.error("expected a field");
        }
        self.at += name.len();
        Ok(name.to_owned())
    }

    /// A value; a regular expression may also stand between slashes or bars.
    fn value(&mut self, pattern: bool) -> Result<String> {
        self.space();
        match self.rest().chars().next() {
            Some('"') => return self.quoted('"'),
            Some(mark @ ('/' | '|')) if pattern => return self.delimited(mark),
            _ => {}
        }
        let end = self.rest().find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(self.rest().len());
        if end == 0 {
            return self.error("expected a value or a quoted string");
        }
        let value = &self.rest()[..end];
        self.at += end;
        Ok(value.to_owned())
    }

    fn delimited(&mut self, mark: char) -> Result<String> {
        let Some(end) = self.rest()[1..].find(mark) else {
            return self.error("the expression is not closed");
        };
        let value = &self.rest()[1..=end];
        self.at += end + 2;
        Ok(value.to_owned())
    }

    /// A Go string literal in double quotes.
    fn quoted(&mut self, mark: char) -> Result<String> {
        let mut out = String::new();
        let text = self.rest();
        let mut chars = text.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == mark {
                self.at += at + c.len_utf8();
                return Ok(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let escaped = match chars.next().map(|(_, c)| c) {
                Some('x') => hex_of(&mut chars, 2),
                Some('u') => hex_of(&mut chars, 4),
                Some('U') => hex_of(&mut chars, 8),
                Some(c) => simple_escape(c),
                None => None,
            };
            match escaped {
                Some(c) => out.push(c),
                None => return self.error("bad escape in a quoted string"),
            }
        }
        self.error("the quoted string is not closed")
    }
}

fn simple_escape(c: char) -> Option<char> {
    Some(match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'v' => '\x0b',
        '\\' | '"' | '\'' => c,
        _ => return None,
    })
}

fn hex_of(chars: &mut dyn Iterator<Item = (usize, char)>, digits: usize) -> Option<char> {
    let code: String = chars.take(digits).map(|(_, c)| c).collect();
    u32::from_str_radix(&code, 16).ok().filter(|_| code.chars().count() == digits).and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Object;
    impl Fields for Object {
        fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
            match path {
                ["name"] => Some("foo".into()),
                ["labels", key @ ..] if key.join(".") == "a.b/c" => Some("x,y".into()),
                _ => None,
            }
        }
    }

    fn matches(filter: &str) -> bool {
        Filters::parse(&[filter]).unwrap().matches(&Object)
    }

    #[test]
    fn filters_match_as_containerds_do() {
        for yes in [
            "",
            "name",
            "name==foo",
            "name!=bar",
            "name~=^fo+$",
            "name~=/^f/",
            "nothing!=x",
            r#"labels."a.b/c"=="x,y""#,
            r#"name==foo, labels."a.b/c""#,
            r#"name=="f\x6f\u006f""#,
            " name == foo , name ",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in ["name==bar", "nothing", "name~=^o", "name==foo,nothing", "nothing==x"] {
            assert!(!matches(no), "{no}");
        }
        assert!(Filters::parse(&["name==bar", "name==foo"]).unwrap().matches(&Object));
    }

    #[test]
    fn bad_filters_are_refused() {
        for bad in [
            "==x",
            "name=",
            "name==",
            "name=x",
            "name==\"x",
            "a..b",
            "name~=(",
            "a,,b",
            "a b",
            "name==\"\\q\"",
        ] {
            assert!(Filters::parse(&[bad]).is_err(), "{bad}");
        }
    }
}
