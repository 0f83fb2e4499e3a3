//! Configurations as text: `config default`, `dump` and `migrate`.

use std::path::Path;

use toml::{Table, Value};
use windlass_core::registry::Registration;

use super::{Config, Error, Settings, VERSION, load};
use crate::args::Flags;

/// The configuration that is in effect where no file says anything.
pub fn defaults(registrations: &[&'static Registration]) -> Result<Table, Error> {
    let config = load::load(None, registrations)?;
    config.dump(&Flags::default(), registrations)
}

/// One file in the newest version, its imports left alone; what it does not say is not added.
pub fn migrated(file: &Path) -> Result<Table, Error> {
    Ok(load::read_one(file, &mut Vec::new())?.table)
}

impl Config {
    /// Everything in effect: files, flags and the defaults of the daemon and of each plugin.
    pub fn dump(&self, flags: &Flags, registrations: &[&'static Registration]) -> Result<Table, Error> {
        let settings = Settings::new(self, flags)?;
        let mut table = self.document.table.clone();
        let text = |path: &Path| Value::String(path.display().to_string());
        table.insert("version".into(), Value::Integer(VERSION));
        table.insert("root".into(), text(&settings.root));
        table.insert("state".into(), text(&settings.state));
        for list in ["disabled_plugins", "required_plugins", "imports"] {
            table.entry(list).or_insert_with(|| Value::Array(Vec::new()));
        }
        table.entry("oom_score").or_insert(Value::Integer(0));
        for key in ["timeouts", "stream_processors", "debug", "plugins"] {
            table.entry(key).or_insert_with(|| Value::Table(Table::new()));
        }
        if let Some(debug) = table.get_mut("debug").and_then(Value::as_table_mut) {
            let level = if settings.level.is_empty() { "info" } else { &settings.level };
            debug.insert("level".into(), level.into());
            debug.entry("format").or_insert("text".into());
        }
        if let Some(plugins) = table.get_mut("plugins").and_then(Value::as_table_mut) {
            for registration in registrations {
                fill(plugins, &registration.uri(), (registration.defaults)());
            }
            for (uri, endpoint) in
                [(super::SERVER_GRPC, &settings.grpc), (super::SERVER_TTRPC, &settings.ttrpc)]
            {
                let mut values = Table::from_iter([("address".to_owned(), text(&endpoint.path))]);
                for (key, id) in [("uid", endpoint.uid), ("gid", endpoint.gid)] {
                    values.extend(id.map(|id| (key.to_owned(), Value::Integer(id.into()))));
                }
                if let Some(old) = plugins.get_mut(uri).and_then(Value::as_table_mut) {
                    old.extend(values);
                } else {
                    plugins.insert(uri.to_owned(), Value::Table(values));
                }
            }
        }
        Ok(table)
    }
}

/// Adds what a plugin's table does not say; a plugin without keys gets no table.
fn fill(plugins: &mut Table, uri: &str, defaults: Table) {
    if defaults.is_empty() {
        return;
    }
    let table = plugins.entry(uri.to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Some(table) = table.as_table_mut() {
        for (key, value) in defaults {
            table.entry(key).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, toml::to_string_pretty(&defaults(&[]).unwrap()).unwrap()).unwrap();
        let config = load::load(Some(&file), &[]).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!(config.dump(&Flags::default(), &[]).unwrap(), defaults(&[]).unwrap());
    }

    #[test]
    fn migrated_files_say_no_more_than_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "version = 2\nroot = \"/r\"\nimports = [\"x.toml\"]\n").unwrap();
        let want: Table = "version = 4\nroot = \"/r\"\nimports = [\"x.toml\"]\n".parse().unwrap();
        assert_eq!(migrated(&file).unwrap(), want);
    }
}
