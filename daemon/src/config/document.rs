//! One configuration file: its values, and the line that each was written on.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::Error;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Keys from the top down to a value.
pub type KeyPath = Vec<String>;

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A file as it was read, or several merged.
#[derive(Clone, Debug, Default)]
pub struct Document {
    pub table: toml::Table,
    places: BTreeMap<KeyPath, Place>,
}

/// The keys as a person writes them.
pub fn shown(path: &[String]) -> String {
    let bare =
        |k: &String| !k.is_empty() && k.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let parts: Vec<String> =
        path.iter().map(|k| if bare(k) { k.clone() } else { format!("{k:?}") }).collect();
    parts.join(".")
}

impl Document {
    pub fn read(file: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Read { file: file.to_owned(), source };
        let size = std::fs::metadata(file).map_err(fail)?.len();
        if size > MAX_FILE {
            return Err(Error::TooLarge { file: file.to_owned(), size });
        }
        Self::parse(file, &std::fs::read_to_string(file).map_err(fail)?)
    }

    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let file: Arc<Path> = Arc::from(file);
        let lines = Lines::new(text);
        let parsed = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| lines.of(span.start));
            Error::Syntax { place: Place { file: file.clone(), line }, why: error.message().to_owned() }
        })?;
        let mut document = Self::default();
        let mut reader = Reader { file, lines, places: &mut document.places };
        document.table = reader.table(parsed.get_ref(), &mut Vec::new())?;
        Ok(document)
    }

    /// Where a key was written, or the nearest one above it that was.
    pub fn place(&self, path: &[String]) -> Option<&Place> {
        (1..=path.len()).rev().find_map(|n| self.places.get(&path[..n]))
    }

    pub fn get(&self, path: &[&str]) -> Option<&toml::Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.table.get(*first)?, |value, key| value.get(*key))
    }

    /// Takes a value out, with an emptied table above it.
    pub fn take(&mut self, path: &[&str]) -> Option<toml::Value> {
        let (last, above) = path.split_last()?;
        let table = above.iter().try_fold(&mut self.table, |t, key| t.get_mut(*key)?.as_table_mut())?;
        let value = table.remove(*last)?;
        if table.is_empty() && above.len() == 1 {
            self.table.remove(above[0]);
        }
        Some(value)
    }

    /// Moves a value to another key, and the knowledge of where it was written with it. What is at the new key already
    /// stays, and the moved value is dropped.
    pub fn rename(&mut self, from: &[&str], to: &[&str]) {
        let Some(value) = self.take(from) else { return };
        let owned = |path: &[&str]| path.iter().map(|k| (*k).to_owned()).collect::<KeyPath>();
        let (from, to_path) = (owned(from), owned(to));
        let moved: Vec<_> = self
            .places
            .iter()
            .filter(|(p, _)| p.starts_with(&from))
            .map(|(p, l)| (p.clone(), l.clone()))
            .collect();
        for (path, place) in moved {
            let new: KeyPath = to_path.iter().chain(&path[from.len()..]).cloned().collect();
            self.places.entry(new).or_insert(place);
        }
        self.put(to, value);
    }

    /// Sets a value where there is none, with the tables above it.
    pub fn put(&mut self, path: &[&str], value: toml::Value) {
        let Some((last, above)) = path.split_last() else { return };
        let mut table = &mut self.table;
        for key in above {
            let next =
                table.entry((*key).to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let Some(next) = next.as_table_mut() else { return };
            table = next;
        }
        table.entry((*last).to_owned()).or_insert(value);
    }

    /// Takes over the places of a document that has been merged into this one.
    pub fn adopt_places(&mut self, from: &Document) {
        self.places.extend(from.places.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
}

/// Offsets of line starts.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn of(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}

struct Reader<'a> {
    file: Arc<Path>,
    lines: Lines,
    places: &'a mut BTreeMap<KeyPath, Place>,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, path: &mut KeyPath) -> Result<toml::Table, Error> {
        let mut read = toml::Table::new();
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            let line = self.lines.of(key.span().start);
            self.places.insert(path.clone(), Place { file: self.file.clone(), line });
            let value = self.value(value.get_ref(), path, line)?;
            path.pop();
            read.insert(key.get_ref().to_string(), value);
        }
        Ok(read)
    }

    fn value(&mut self, value: &DeValue<'_>, path: &mut KeyPath, line: usize) -> Result<toml::Value, Error> {
        let bad = |why: &str| Error::Value {
            place: Some(Place { file: self.file.clone(), line }),
            key: shown(path),
            why: why.to_owned(),
        };
        Ok(match value {
            DeValue::String(text) => toml::Value::String(text.to_string()),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
                toml::Value::Integer(parsed.map_err(|_| bad("the number is too large"))?)
            }
            DeValue::Float(number) => {
                let parsed = number.as_str().replace('_', "").parse();
                toml::Value::Float(parsed.map_err(|_| bad("not a number"))?)
            }
            DeValue::Boolean(flag) => toml::Value::Boolean(*flag),
            DeValue::Datetime(time) => toml::Value::Datetime(*time),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| self.value(item.get_ref(), path, line));
                toml::Value::Array(items.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => toml::Value::Table(self.table(table, path)?),
        })
    }
}

/// The directory that relative names in a file are relative to.
pub fn directory(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(keys: &[&str]) -> KeyPath {
        keys.iter().map(|k| (*k).to_owned()).collect()
    }

    #[test]
    fn every_key_has_its_line() {
        let text = "version = 3\n\n[grpc]\naddress = \"/x\"\n\n[plugins.\"io.containerd.a.v1.b\"]\n  list = [\n  1,\n]\n";
        let document = Document::parse(Path::new("/c.toml"), text).unwrap();
        let line = |keys: &[&str]| document.place(&path(keys)).unwrap().line;
        assert_eq!((line(&["version"]), line(&["grpc", "address"])), (1, 4));
        assert_eq!(line(&["plugins", "io.containerd.a.v1.b", "list"]), 7);
        assert_eq!(line(&["grpc", "nowhere"]), 3);
        assert_eq!(shown(&path(&["plugins", "a.b", "list"])), "plugins.\"a.b\".list");
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let error = Document::parse(Path::new("/c.toml"), "version = 3\n\nroot = = 1\n").unwrap_err();
        assert!(error.to_string().starts_with("/c.toml:3: "), "{error}");
        let error =
            Document::parse(Path::new("/c.toml"), "\noom_score = 99999999999999999999\n").unwrap_err();
        assert!(error.to_string().starts_with("/c.toml:2: "), "{error}");
    }

    #[test]
    fn renamed_keys_keep_their_lines() {
        let mut document = Document::parse(Path::new("/c.toml"), "[a]\nb = 1\nc = 2\n[n]\nc = 3\n").unwrap();
        document.rename(&["a", "b"], &["n", "x"]);
        document.rename(&["a", "c"], &["n", "c"]);
        assert_eq!(document.get(&["n", "x"]).unwrap().as_integer(), Some(1));
        assert_eq!(document.place(&path(&["n", "x"])).unwrap().line, 2);
        assert_eq!(document.get(&["n", "c"]).unwrap().as_integer(), Some(3));
        assert!(document.get(&["a"]).is_none());
    }
}
