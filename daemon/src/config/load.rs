//! Reading a configuration: the file, what it imports, and the drop-in directory beside it.

use std::collections::{HashSet, VecDeque};
use std::path::{Component, Path, PathBuf};

use windlass_core::registry::Registration;

use super::document::{Document, directory, shown};
use super::{Error, Warning, merge, migrate, schema};

/// Most files that one configuration is made of.
const MAX_FILES: usize = 1000;

/// All files in one, of the newest version, checked.
#[derive(Debug, Default)]
pub struct Config {
    pub(super) document: Document,
    pub warnings: Vec<Warning>,
}

/// Loads `file`; `None` for defaults alone. Then its imports, breadth first, then `conf.d/*.toml` beside it in the order of
/// their names. Plugin tables are checked by the plugins of `registrations`.
pub fn load(file: Option<&Path>, registrations: &[&'static Registration]) -> Result<Config, Error> {
    let mut config = Config::default();
    if let Some(file) = file {
        let mut seen = HashSet::new();
        read_all(&mut config, VecDeque::from([file.to_owned()]), &mut seen)?;
        read_all(&mut config, glob(&directory(file).join("conf.d/*.toml")).into(), &mut seen)?;
    }
    check_uris(&config.document)?;
    check_listeners(&mut config)?;
    check_plugins(&mut config, registrations)?;
    Ok(config)
}

fn read_all(
    config: &mut Config,
    mut waiting: VecDeque<PathBuf>,
    seen: &mut HashSet<PathBuf>,
) -> Result<(), Error> {
    while let Some(file) = waiting.pop_front() {
        // Each file counts once, so a circle ends.
        if !seen.insert(file.clone()) {
            continue;
        }
        if seen.len() > MAX_FILES {
            return Err(Error::TooMany { file, limit: MAX_FILES });
        }
        let document = read_one(&file, &mut config.warnings)?;
        let imports = document.get(&["imports"]).and_then(toml::Value::as_array);
        for import in imports.into_iter().flatten().filter_map(toml::Value::as_str) {
            waiting.extend(resolve(&file, import));
        }
        merge::merge(&mut config.document, document);
    }
    Ok(())
}

/// Reads, checks and migrates one file.
pub(super) fn read_one(file: &Path, warnings: &mut Vec<Warning>) -> Result<Document, Error> {
    let mut document = Document::read(file)?;
    let whole = toml::Value::Table(document.table.clone());
    schema::check(&document, &whole, &schema::FILE, &mut Vec::new(), warnings)?;
    if migrate::version(&document) >= super::VERSION {
        warn_of_moved(&document, warnings);
    }
    warn_of_timeouts(&document, warnings);
    migrate::migrate(&mut document);
    Ok(document)
}

/// What stood at the top level up to version 3 is not read in a file of version 4.
fn warn_of_moved(document: &Document, warnings: &mut Vec<Warning>) {
    for (section, keys, uri) in [
        ("grpc", &[][..], super::SERVER_GRPC),
        ("ttrpc", &[], super::SERVER_TTRPC),
        ("metrics", &[], super::SERVER_METRICS),
        ("debug", &["address", "uid", "gid"], super::SERVER_DEBUG),
    ] {
        let Some(table) = document.get(&[section]).and_then(toml::Value::as_table) else { continue };
        for key in table.keys().filter(|key| keys.is_empty() || keys.contains(&key.as_str())) {
            let why = format!("ignored: in a file of version 4 it stands in [plugins.\"{uri}\"]");
            warnings.push(Warning::at(document, &[section.to_owned(), key.clone()], &why));
        }
    }
}

/// Limits that nothing here keeps.
fn warn_of_timeouts(document: &Document, warnings: &mut Vec<Warning>) {
    let given = document.get(&["timeouts"]).and_then(toml::Value::as_table);
    for name in given.into_iter().flat_map(toml::Table::keys) {
        if !schema::TIMEOUTS.contains(&name.as_str()) {
            let why = "there is no such limit here, ignored; those of shims are the keys of \
                       [plugins.\"io.containerd.shim.v1.manager\".timeouts]";
            warnings.push(Warning::at(document, &["timeouts".to_owned(), name.clone()], why));
        }
    }
}

/// The files behind an import of `parent`.
fn resolve(parent: &Path, import: &str) -> Vec<PathBuf> {
    let path = clean(&directory(parent).join(import));
    if import.contains(['*', '?']) { glob(&path) } else { vec![path] }
}

/// Without `.` and `..`, by name alone.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(cleaned.pop()),
            other => cleaned.push(other),
        }
    }
    cleaned
}

/// Files that match, sorted; `*` and `?` stand for parts of one name.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let name = part.as_os_str().to_string_lossy().into_owned();
        if !name.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(&name));
            continue;
        }
        let mut next = Vec::new();
        for dir in found {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
            // As shells have it: a hidden file has to be named.
            let matching =
                names.filter(|n| matches(&name, n) && (name.starts_with('.') || !n.starts_with('.')));
            next.extend(matching.map(|n| dir.join(n)));
        }
        found = next;
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

fn matches(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // `reach[i]`: the pattern so far can take the first i letters.
    let mut reach = vec![false; n.len() + 1];
    reach[0] = true;
    for want in p {
        let mut next = vec![false; n.len() + 1];
        for i in 0..=n.len() {
            next[i] = match want {
                '*' => reach[i] || (i > 0 && next[i - 1]),
                '?' => i > 0 && reach[i - 1],
                letter => i > 0 && reach[i - 1] && n[i - 1] == letter,
            };
        }
        reach = next;
    }
    reach[n.len()]
}

fn check_uris(document: &Document) -> Result<(), Error> {
    for list in ["disabled_plugins", "required_plugins"] {
        let uris = document.get(&[list]).and_then(toml::Value::as_array);
        let mut names = uris.into_iter().flatten().filter_map(toml::Value::as_str);
        if let Some(uri) = names.find(|uri| !uri.contains('.')) {
            let path = [list.to_owned()];
            let why = format!("{uri:?} is no plugin URI: write io.containerd.<type>.<version>.<id>");
            return Err(Error::Value { place: document.place(&path).cloned(), key: shown(&path), why });
        }
    }
    Ok(())
}

/// The daemon's own plugins have fixed keys.
fn check_listeners(config: &mut Config) -> Result<(), Error> {
    for (uri, shape) in schema::SERVERS {
        let Some(value) = config.document.get(&["plugins", uri]) else { continue };
        let mut path = vec!["plugins".to_owned(), (*uri).to_owned()];
        schema::check(&config.document, value, shape, &mut path, &mut config.warnings)?;
    }
    for (key, why) in [
        (
            "proxy_plugins",
            "plugins in other processes are not supported by this build; these are not started",
        ),
        ("plugin_dir", "plugins are never loaded from files, ignored"),
    ] {
        let nothing =
            |v: &toml::Value| v.as_table().is_some_and(toml::Table::is_empty) || v.as_str() == Some("");
        if config.document.get(&[key]).is_some_and(|v| !nothing(v)) {
            config.warnings.push(Warning::at(&config.document, &[key.to_owned()], why));
        }
    }
    Ok(())
}

fn check_plugins(config: &mut Config, registrations: &[&'static Registration]) -> Result<(), Error> {
    let tables =
        config.document.get(&["plugins"]).and_then(toml::Value::as_table).cloned().unwrap_or_default();
    for (uri, table) in tables {
        let path = |key: &str| -> Vec<String> {
            let below = key.split('.').filter(|k| !k.is_empty()).map(str::to_owned);
            ["plugins".to_owned(), uri.clone()].into_iter().chain(below).collect()
        };
        if schema::SERVERS.iter().any(|(server, _)| *server == uri) {
            continue;
        }
        let Some(registration) = registrations.iter().find(|r| r.uri() == uri) else {
            config.warnings.push(Warning::at(
                &config.document,
                &path(""),
                "this build has no such plugin, ignored",
            ));
            continue;
        };
        let table = table.as_table().cloned().unwrap_or_default();
        match (registration.check)(&table) {
            Ok(unknown) => {
                for key in unknown {
                    config.warnings.push(Warning::unknown(&config.document, &path(&key)));
                }
            }
            Err(error) => {
                let said = error.chain();
                // The message of a value of a wrong type ends with "in `key.below`".
                let quoted =
                    said.rsplit_once("in `").and_then(|(_, rest)| rest.split_once('`')).map(|(key, _)| key);
                // Others name the key somewhere in what they say.
                let word = || {
                    said.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                        .find(|w| table.contains_key(*w))
                };
                let key = quoted.or_else(word).unwrap_or_default();
                let path = path(key);
                let why = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
                let place = config.document.place(&path).cloned();
                return Err(Error::Value { place, key: shown(&path), why });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn loaded(dir: &tempfile::TempDir) -> Result<Config, Error> {
        load(Some(&dir.path().join("config.toml")), &[])
    }

    #[test]
    fn imports_and_drop_ins_are_merged_in_order() {
        let dir = dir(&[
            (
                "config.toml",
                "version = 3\nimports = [\"more/*.toml\", \"./one.toml\"]\nroot = \"/main\"\noom_score = 1\n",
            ),
            ("more/b.toml", "version = 2\nstate = \"/b\"\nimports = [\"../config.toml\"]\n"),
            ("more/a.toml", "version = 3\nstate = \"/a\"\n"),
            ("more/.hidden.toml", "nonsense"),
            ("one.toml", "version = 4\noom_score = 2\n"),
            ("conf.d/z.toml", "version = 3\n[grpc]\naddress = \"/z.sock\"\n"),
            ("conf.d/a.txt", "nonsense"),
        ]);
        let config = loaded(&dir).unwrap();
        let text = |path: &[&str]| config.document.get(path).unwrap().as_str().unwrap();
        assert_eq!((text(&["root"]), text(&["state"])), ("/main", "/b"));
        assert_eq!(config.document.get(&["oom_score"]).unwrap().as_integer(), Some(2));
        assert_eq!(text(&["plugins", super::super::SERVER_GRPC, "address"]), "/z.sock");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn a_missing_import_is_an_error() {
        let dir = dir(&[("config.toml", "version = 3\nimports = [\"none.toml\"]\n")]);
        assert!(loaded(&dir).unwrap_err().to_string().contains("none.toml"));
    }

    #[test]
    fn unknown_keys_are_named_with_their_line() {
        let dir = dir(&[(
            "config.toml",
            "version = 3\nroot = \"/r\"\nrooot = \"/x\"\n[grpc]\n  adress = \"/y\"\n[plugins.\"io.x.v1.none\"]\n  a = 1\n",
        )]);
        let lines: Vec<String> = loaded(&dir).unwrap().warnings.iter().map(ToString::to_string).collect();
        let file = dir.path().join("config.toml");
        let file = file.display();
        assert!(lines.contains(&format!("{file}:3: rooot: unknown key, ignored")), "{lines:?}");
        assert!(lines.contains(&format!("{file}:5: grpc.adress: unknown key, ignored")), "{lines:?}");
        assert!(
            lines.iter().any(|l| l.starts_with(&format!("{file}:6: plugins.\"io.x.v1.none\": "))),
            "{lines:?}"
        );
    }

    #[test]
    fn what_is_known_and_has_no_effect_is_named() {
        let dir = dir(&[(
            "config.toml",
            "version = 4\n[grpc]\naddress = \"/g\"\n[ttrpc]\nuid = 1\n[metrics]\naddress = \"x\"\n\
             [debug]\nlevel = \"info\"\naddress = \"/d\"\n\
             [timeouts]\n\"io.containerd.timeout.shim.load\" = \"9s\"\n\"io.containerd.timeout.bolt.open\" = \"1s\"\n",
        )]);
        let lines: Vec<String> = loaded(&dir).unwrap().warnings.iter().map(ToString::to_string).collect();
        let file = dir.path().join("config.toml");
        let mut named: Vec<_> = lines
            .iter()
            .map(|line| line.strip_prefix(&format!("{}:", file.display())).unwrap_or(line))
            .map(|line| line.split(": ").nth(1).unwrap_or_default())
            .collect();
        named.sort_unstable();
        let expected = [
            "debug.address",
            "grpc.address",
            "metrics.address",
            "timeouts.\"io.containerd.timeout.bolt.open\"",
            "ttrpc.uid",
        ];
        assert_eq!(named, expected, "{lines:?}");
        assert!(
            lines.iter().any(|line| line.contains("grpc.address: ignored") && line.contains("[plugins."))
        );
    }

    #[test]
    fn wrong_values_are_refused_with_file_line_and_key() {
        for (text, want) in [
            ("version = 9\n", ":1: version: 9 is not between 0 and 4"),
            ("version = 3\nroot = 5\n", ":2: root: a path is expected, not a whole number"),
            ("version = 3\nroot = \"rel\"\n", ":2: root: \"rel\" is not an absolute path"),
            ("version = 3\n[debug]\nlevel = \"loud\"\n", ":3: debug.level: \"loud\" is none of trace, "),
            (
                "version = 3\n[timeouts]\n\"a.b\" = \"soon\"\n",
                ":3: timeouts.\"a.b\": \"soon\" is not a duration",
            ),
            ("version = 3\n[grpc]\nuid = -1\n", ":3: grpc.uid: -1 is not between"),
            ("version = 3\ndisabled_plugins = [\"cri\"]\n", ":2: disabled_plugins: \"cri\" is no plugin URI"),
            (
                "version = 4\n[plugins.\"io.containerd.server.v1.grpc\"]\naddress = 1\n",
                ":3: plugins.\"io.containerd.server",
            ),
            ("version = 3\n[plugins]\nx = 1\n", ":3: plugins.x: a table is expected"),
        ] {
            let dir = dir(&[("config.toml", text)]);
            let said = loaded(&dir).unwrap_err().to_string();
            assert!(said.contains(want), "{text:?} said {said}");
        }
    }

    #[test]
    fn names_match_patterns() {
        for (pattern, name, want) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.tom", false),
            ("a?c*", "abcd", true),
            ("a*b*c", "axxbc", true),
            ("a?", "a", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
