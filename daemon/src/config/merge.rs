//! One configuration over another.
//!
//! Later files win. An empty text and a zero say nothing and change nothing; lists at the top level are joined; in
//! `plugins` tables are merged to the bottom and everything else is replaced; entries of the other maps are replaced as a
//! whole.

use toml::{Table, Value};

use super::document::Document;

/// Lists that are joined.
const JOINED: &[&str] = &["disabled_plugins", "required_plugins", "imports"];
/// Maps whose entries are replaced.
const REPLACED: &[&str] = &["timeouts", "stream_processors", "proxy_plugins"];

pub fn merge(to: &mut Document, from: Document) {
    to.adopt_places(&from);
    for (key, value) in from.table {
        match to.table.get_mut(&key) {
            None => drop(to.table.insert(key, value)),
            Some(old) => combine(&key, old, value),
        }
    }
}

fn combine(key: &str, old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Array(old), Value::Array(new)) if JOINED.contains(&key) => {
            for item in new {
                if !old.contains(&item) {
                    old.push(item);
                }
            }
        }
        (Value::Table(old), Value::Table(new)) if REPLACED.contains(&key) => old.extend(new),
        (Value::Table(old), Value::Table(new)) if key == "plugins" => deep(old, new),
        (Value::Table(old), Value::Table(new)) => {
            old.extend(new.into_iter().filter(|(_, value)| !says_nothing(value)));
        }
        (old, new) if !says_nothing(&new) => *old = new,
        _ => {}
    }
}

fn deep(to: &mut Table, from: Table) {
    for (key, value) in from {
        match (to.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => deep(old, new),
            (Some(old), new) => *old = new,
            (None, new) => drop(to.insert(key, new)),
        }
    }
}

fn says_nothing(value: &Value) -> bool {
    matches!(value, Value::Integer(0)) || value.as_str().is_some_and(str::is_empty)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn merged(files: &[&str]) -> Table {
        let mut all = Document::default();
        for text in files {
            merge(&mut all, Document::parse(Path::new("/c.toml"), text).unwrap());
        }
        all.table
    }

    fn expect(files: &[&str], want: &str) {
        assert_eq!(merged(files), want.parse::<Table>().unwrap());
    }

    #[test]
    fn later_files_win_where_they_say_something() {
        expect(
            &[
                "root = \"/old\"\nstate = \"/s\"\noom_score = 1\nrequired_plugins = [\"a.b\"]\n\
                 [timeouts]\na = \"1s\"\n[stream_processors.one]\npath = \"2\"\nreturns = \"4\"\n",
                "root = \"/new\"\nstate = \"\"\noom_score = 0\nrequired_plugins = [\"a.b\", \"c.d\"]\n\
                 [timeouts]\nb = \"2s\"\n[stream_processors.one]\npath = \"3\"\n",
            ],
            "root = \"/new\"\nstate = \"/s\"\noom_score = 1\nrequired_plugins = [\"a.b\", \"c.d\"]\n\
             [timeouts]\na = \"1s\"\nb = \"2s\"\n[stream_processors.one]\npath = \"3\"\n",
        );
    }

    #[test]
    fn plugins_are_merged_to_the_bottom() {
        expect(
            &[
                "[plugins.\"x.y\".runtimes.runc]\ntype = \"a\"\nlist = [1, 2]\n",
                "[plugins.\"x.y\"]\ndefault = \"nvidia\"\n[plugins.\"x.y\".runtimes.nvidia]\ntype = \"b\"\n",
                "[plugins.\"x.y\".runtimes.runc]\nlist = [3]\n",
            ],
            "[plugins.\"x.y\"]\ndefault = \"nvidia\"\n[plugins.\"x.y\".runtimes.nvidia]\ntype = \"b\"\n\
             [plugins.\"x.y\".runtimes.runc]\ntype = \"a\"\nlist = [3]\n",
        );
    }
}
