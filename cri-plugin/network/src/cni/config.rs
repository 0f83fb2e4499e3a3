//! Network configurations: what an administrator wrote, checked, and what is made of it for one plugin.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::version::Version;

/// A network: plugins that are run one after the other.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    pub name: String,
    /// The highest version that both the configuration and this crate know.
    pub version: Version,
    pub disable_check: bool,
    pub disable_gc: bool,
    /// Plugins from files beside this one do not count.
    pub only_inlined: bool,
    pub plugins: Vec<PluginConfig>,
    /// The configuration as a list, for the cache.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// The name of its binary.
    pub kind: String,
    /// The capabilities that it declares.
    pub capabilities: Vec<String>,
    pub conf: Map<String, Value>,
}

/// What was found wrong, in words.
type Parsed<T> = Result<T, String>;

impl NetworkConfig {
    /// Reads a list (`.conflist`). It may still be without plugins, which then have to come from files of their own.
    pub fn list(bytes: &[u8]) -> Parsed<Self> {
        let map = object(bytes)?;
        let plugins = match map.get("plugins") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(plugins)) if plugins.is_empty() => return Err("no plugins in list".into()),
            Some(Value::Array(plugins)) => {
                let each = plugins.iter().enumerate().map(|(i, plugin)| {
                    match plugin {
                        Value::Object(conf) => PluginConfig::new(conf.clone()),
                        _ => Err("it is not an object".into()),
                    }
                    .map_err(|why: String| format!("plugin {i}: {why}"))
                });
                each.collect::<Parsed<_>>()?
            }
            Some(_) => return Err("`plugins` is not a list".into()),
        };
        let only_inlined = flag(&map, "loadOnlyInlinedPlugins")?;
        if plugins.is_empty() && only_inlined {
            return Err("`loadOnlyInlinedPlugins` is true, and no `plugins` key".into());
        }
        Ok(Self {
            name: name(&map)?,
            version: version(&map)?,
            disable_check: flag(&map, "disableCheck")?,
            disable_gc: flag(&map, "disableGC")?,
            only_inlined,
            plugins,
            bytes: bytes.to_vec(),
        })
    }

    /// Reads the form of old that has one plugin and no list (`.conf`, `.json`).
    pub fn single(bytes: &[u8]) -> Parsed<Self> {
        let map = object(bytes)?;
        if map.contains_key("plugins") && !map.contains_key("type") {
            return Err("network type not found: a list of plugins belongs in a .conflist file".into());
        }
        let (name, version) = (name(&map)?, version(&map)?);
        let mut config = Self {
            name,
            version,
            disable_check: false,
            disable_gc: false,
            only_inlined: true,
            plugins: vec![PluginConfig::new(map)?],
            bytes: Vec::new(),
        };
        config.bytes = config.as_list();
        Ok(config)
    }

    /// Reads whichever of the two forms it is, as a cache has both.
    pub fn any(bytes: &[u8]) -> Parsed<Self> {
        let config =
            if object(bytes)?.contains_key("plugins") { Self::list(bytes) } else { Self::single(bytes) }?;
        if config.plugins.is_empty() { Err("no plugins in list".into()) } else { Ok(config) }
    }

    /// Adds plugins that have files of their own. A cached configuration must have them all.
    pub fn append(&mut self, plugins: Vec<PluginConfig>) {
        if !plugins.is_empty() {
            self.plugins.extend(plugins);
            self.bytes = self.as_list();
        }
    }

    fn as_list(&self) -> Vec<u8> {
        let mut map = Map::new();
        map.insert("cniVersion".into(), self.version.as_str().into());
        map.insert("name".into(), self.name.clone().into());
        for (key, value) in [("disableCheck", self.disable_check), ("disableGC", self.disable_gc)] {
            if value {
                map.insert(key.into(), true.into());
            }
        }
        let plugins = self.plugins.iter().map(|plugin| Value::Object(plugin.conf.clone()));
        map.insert("plugins".into(), plugins.collect());
        Value::Object(map).to_string().into_bytes()
    }
}

impl PluginConfig {
    pub fn new(conf: Map<String, Value>) -> Parsed<Self> {
        let kind = match conf.get("type") {
            Some(Value::String(kind)) if !kind.is_empty() => kind.clone(),
            _ => return Err("missing `type`".into()),
        };
        // It becomes part of a path.
        if kind.len() > 255 || matches!(kind.as_str(), "." | "..") || kind.contains(['/', '\\', '\0']) {
            return Err(format!("type {kind:?} is not a file name"));
        }
        let capabilities = match conf.get("capabilities") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(map)) => {
                map.iter().filter(|(_, on)| **on == Value::Bool(true)).map(|(name, _)| name.clone()).collect()
            }
            Some(_) => return Err("`capabilities` is not an object".into()),
        };
        Ok(Self { kind, capabilities, conf })
    }

    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        Self::new(object(bytes)?)
    }

    /// What the plugin reads: its configuration with the network's name and version and `more`, the keys of one call. Of
    /// `capability_args`, those that it declares.
    pub fn request(
        &self,
        network: &NetworkConfig,
        more: &[(&str, &Value)],
        capability_args: &Map<String, Value>,
    ) -> Vec<u8> {
        let (name, version) = (Value::from(network.name.as_str()), Value::from(network.version.as_str()));
        let mut request: BTreeMap<&str, &Value> = self.conf.iter().map(|(k, v)| (k.as_str(), v)).collect();
        request.insert("name", &name);
        request.insert("cniVersion", &version);
        request.extend(more.iter().copied());
        let declared = |name: &String| Some((name.clone(), capability_args.get(name)?.clone()));
        let runtime: Map<_, _> = self.capabilities.iter().filter_map(declared).collect();
        let runtime = Value::Object(runtime);
        if runtime.as_object().is_some_and(|map| !map.is_empty()) {
            request.insert("runtimeConfig", &runtime);
        }
        serde_json::to_vec(&request).expect("JSON that was read can be written")
    }
}

/// The pattern that CNI has for names of networks and ids of containers.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.len() <= 200
        && name.bytes().all(plain)
}

fn object(bytes: &[u8]) -> Parsed<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|e| format!("error parsing configuration: {e}"))
}

fn name(map: &Map<String, Value>) -> Parsed<String> {
    match map.get("name") {
        Some(Value::String(name)) if is_name(name) => Ok(name.clone()),
        Some(Value::String(name)) => Err(format!("invalid characters found in network name {name:?}")),
        Some(_) => Err("`name` is not a string".into()),
        None => Err("no name".into()),
    }
}

/// The highest version of `cniVersions` and `cniVersion` that is known here.
fn version(map: &Map<String, Value>) -> Parsed<Version> {
    let one = match map.get("cniVersion") {
        None => None,
        Some(Value::String(version)) => Some(version.as_str()),
        Some(_) => return Err("`cniVersion` is not a string".into()),
    };
    let more = match map.get("cniVersions") {
        None => &[][..],
        Some(Value::Array(versions)) => versions,
        Some(_) => return Err("`cniVersions` is not a list".into()),
    };
    let mut all: Vec<&str> = one.into_iter().collect();
    for version in more {
        all.push(version.as_str().ok_or("`cniVersions` has an entry that is not a string")?);
    }
    if all.is_empty() {
        return Ok(Version::V010);
    }
    let known = all.iter().filter_map(|version| Version::parse(version)).max();
    known.ok_or_else(|| {
        format!("CNI {} is not supported: {} is the newest known", all.join(", "), Version::V110)
    })
}

/// A switch, which may also be written as a string.
fn flag(map: &Map<String, Value>, key: &str) -> Parsed<bool> {
    match map.get(key) {
        None => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(on)) if on.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(on)) if on.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(format!("`{key}` is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"0.4.0","cniVersions":["0.3.1","1.0.0","9.0.0"],"name":"n","disableCheck":"true",
        "plugins":[{"type":"bridge","x":1},{"type":"portmap","capabilities":{"portMappings":true,"mac":false}}]}"#;

    #[test]
    fn a_list_is_read() {
        let list = NetworkConfig::list(LIST.as_bytes()).unwrap();
        assert_eq!((list.name.as_str(), list.version), ("n", Version::V100));
        assert!(list.disable_check && !list.disable_gc && !list.only_inlined);
        assert_eq!(list.plugins[1].capabilities, ["portMappings"]);
        assert_eq!(list.bytes, LIST.as_bytes());
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let one =
            NetworkConfig::single(br#"{"cniVersion":"0.3.1","name":"n","type":"bridge","x":{"y":[1]}}"#)
                .unwrap();
        let again = NetworkConfig::any(&one.bytes).unwrap();
        assert_eq!((again.name, again.version), (one.name, Version::V031));
        assert_eq!(again.plugins[0].conf, one.plugins[0].conf);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"plugins":[{"type":"a"}]}"#,
            r#"{"name":"","plugins":[{"type":"a"}]}"#,
            r#"{"name":"../x","plugins":[{"type":"a"}]}"#,
            r#"{"name":"n","plugins":[]}"#,
            r#"{"name":"n","plugins":{}}"#,
            r#"{"name":"n","plugins":[{"type":"../a"}]}"#,
            r#"{"name":"n","plugins":[{"type":".."}]}"#,
            r#"{"name":"n","plugins":[{}]}"#,
            r#"{"name":"n","plugins":[1]}"#,
            r#"{"name":"n","loadOnlyInlinedPlugins":true}"#,
            r#"{"name":"n","disableGC":"maybe","plugins":[{"type":"a"}]}"#,
            r#"{"name":"n","cniVersion":"2.0.0","plugins":[{"type":"a"}]}"#,
            r#"{"name":"n","cniVersion":1,"plugins":[{"type":"a"}]}"#,
            r#"{"name":"n","cniVersions":["x"],"plugins":[{"type":"a"}]}"#,
            r#"{"name":"n","plugins":[{"type":"a","capabilities":[]}]}"#,
        ] {
            assert!(NetworkConfig::list(text.as_bytes()).is_err(), "{text}");
        }
        assert!(NetworkConfig::single(LIST.as_bytes()).is_err());
    }

    #[test]
    fn a_request_has_what_was_declared() {
        let list = NetworkConfig::list(LIST.as_bytes()).unwrap();
        let args: Map<_, _> =
            [("portMappings".into(), 1.into()), ("mac".into(), 2.into())].into_iter().collect();
        let read = |plugin: &PluginConfig, more: &[(&str, &Value)]| -> Value {
            serde_json::from_slice(&plugin.request(&list, more, &args)).unwrap()
        };
        let result = serde_json::json!({"ips": []});
        let bridge = read(&list.plugins[0], &[]);
        assert_eq!(bridge, serde_json::json!({"type": "bridge", "x": 1, "name": "n", "cniVersion": "1.0.0"}));
        let portmap = read(&list.plugins[1], &[("prevResult", &result)]);
        assert_eq!(portmap["runtimeConfig"], serde_json::json!({"portMappings": 1}));
        assert_eq!(portmap["prevResult"], result);
    }
}
