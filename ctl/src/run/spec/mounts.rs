//! Mounts: containerd's defaults, volumes, temporary file systems.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::Options;
use super::namespaces::Choice;

fn mount(destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": kind, "options": options})
}

fn bind(source: &Path, destination: &str, options: &[String]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// A path in the container.
fn destination(what: &str, path: &str) -> Result<()> {
    ensure!(
        path.starts_with('/') && path != "/",
        "{what}: the destination must be an absolute path other than /"
    );
    Ok(())
}

/// A path of this machine that is there.
fn source(what: &str, path: &str) -> Result<std::path::PathBuf> {
    let path = std::path::absolute(path).with_context(|| what.to_owned())?;
    ensure!(
        path.exists(),
        "{what}: {} does not exist on this machine (named volumes are not known here)",
        path.display()
    );
    Ok(path)
}

/// Options of a bind mount; recursive unless said otherwise.
fn bind_options<'a>(what: &str, words: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut options = vec!["rbind".to_owned()];
    for word in words.filter(|w| !w.is_empty()) {
        match word {
            "ro" | "readonly" => options.push("ro".into()),
            "rw" | "rro" | "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" | "nosuid"
            | "nodev" | "noexec" | "noatime" => options.push(word.into()),
            "bind" | "rbind" => options[0] = word.into(),
            // Labels of SELinux: nothing to do without it.
            "z" | "Z" => {}
            _ => bail!("{what}: no option is called {word:?}"),
        }
    }
    if !options.iter().any(|o| o.ends_with("shared") || o.ends_with("slave") || o.ends_with("private")) {
        options.push("rprivate".into());
    }
    Ok(options)
}

/// `-v SOURCE:DESTINATION[:OPTIONS]`.
fn volume(text: &str) -> Result<Value> {
    let what = format!("volume {text:?}");
    let parts: Vec<_> = text.split(':').collect();
    let (from, to, options) = match parts.as_slice() {
        [from, to] => (from, to, ""),
        [from, to, options] => (from, to, *options),
        _ => bail!("{what} is not SOURCE:DESTINATION[:OPTIONS]"),
    };
    destination(&what, to)?;
    Ok(bind(&source(&what, from)?, to, &bind_options(&what, options.split(','))?))
}

/// `--mount type=bind,src=…,dst=…,ro`.
fn long(text: &str) -> Result<Value> {
    let what = format!("mount {text:?}");
    let (mut kind, mut from, mut to, mut words, mut size) = ("bind", None, None, Vec::new(), None);
    for part in text.split(',') {
        match part.split_once('=').unwrap_or((part, "")) {
            ("type", value) => kind = value,
            ("src" | "source", value) => from = Some(value),
            ("dst" | "destination" | "target", value) => to = Some(value),
            ("options", value) => words.extend(value.split(':')),
            ("bind-propagation" | "propagation", value) => words.push(value),
            ("tmpfs-size" | "size", value) => size = Some(format!("size={value}")),
            ("tmpfs-mode" | "mode", value) => words.push(value),
            ("readonly" | "ro", "false" | "0") => {}
            ("readonly" | "ro", _) => words.push("ro"),
            (_, "") => words.push(part),
            (key, _) => bail!("{what}: no key is called {key:?}"),
        }
    }
    let to = to.with_context(|| format!("{what} has no dst"))?;
    destination(&what, to)?;
    match kind {
        "bind" => {
            let from = from.with_context(|| format!("{what} has no src"))?;
            Ok(bind(&source(&what, from)?, to, &bind_options(&what, words.into_iter())?))
        }
        "tmpfs" => {
            let words = words.into_iter().map(|w| {
                if w.bytes().all(|b| b.is_ascii_digit()) { format!("mode={w}") } else { w.to_owned() }
            });
            let options: Vec<_> = words.chain(size).collect();
            Ok(tmpfs_at(to, &options))
        }
        _ => bail!("{what}: type is bind or tmpfs"),
    }
}

fn tmpfs_at(destination: &str, options: &[String]) -> Value {
    let mut all = vec!["nosuid".to_owned(), "nodev".to_owned()];
    if !options.iter().any(|o| o == "exec") {
        all.push("noexec".into());
    }
    all.extend(options.iter().filter(|o| !o.is_empty()).cloned());
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": all})
}

/// `--tmpfs /path[:options]`.
fn tmpfs(text: &str) -> Result<Value> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    destination(&format!("tmpfs {text:?}"), path)?;
    let options: Vec<_> = options.split(',').map(str::to_owned).collect();
    Ok(tmpfs_at(path, &options))
}

/// All mounts: the defaults, then the person's, which cover those at the same place.
pub fn all(options: &Options, host_net: bool) -> Result<Vec<Value>> {
    let shm = format!("size={}", options.shm_size.map_or_else(|| "65536k".to_owned(), |s| s.to_string()));
    let sys = if options.privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    let rbind = ["rbind".to_owned(), "nosuid".to_owned(), "noexec".to_owned(), "nodev".to_owned()];
    if options.ipc == Choice::Host && Path::new("/dev/mqueue").exists() && options.shm_size.is_none() {
        all.push(bind(Path::new("/dev/shm"), "/dev/shm", &rbind));
        all.push(bind(Path::new("/dev/mqueue"), "/dev/mqueue", &rbind));
    } else {
        all.push(mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &shm]));
        all.push(mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    }
    all.push(mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]));
    all.push(mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]));
    if host_net {
        for file in ["/etc/hosts", "/etc/resolv.conf"].into_iter().filter(|f| Path::new(f).exists()) {
            all.push(bind(Path::new(file), file, &["rbind".into(), "ro".into()]));
        }
    }
    let mut given = Vec::new();
    for text in &options.volume {
        given.push(volume(text)?);
    }
    for text in &options.mount {
        given.push(long(text)?);
    }
    for text in &options.tmpfs {
        given.push(tmpfs(text)?);
    }
    all.retain(|m| !given.iter().any(|g| g["destination"] == m["destination"]));
    all.append(&mut given);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_parse() {
        let got = volume("/tmp:/b:ro").unwrap();
        assert_eq!(got["options"], json!(["rbind", "ro", "rprivate"]));
        assert_eq!(volume("/tmp:/b:rshared,nodev").unwrap()["options"], json!(["rbind", "rshared", "nodev"]));
        for bad in ["/tmp", "/tmp:b", "/tmp:/b:nope", "name:/b", "/tmp:/", "a:b:c:d"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_mounts_parse() {
        let got = long("type=bind,src=/tmp,dst=/b,ro").unwrap();
        assert_eq!((&got["source"], &got["options"]), (&json!("/tmp"), &json!(["rbind", "ro", "rprivate"])));
        let got = long("type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1777").unwrap();
        assert_eq!(got["options"], json!(["nosuid", "nodev", "noexec", "mode=1777", "size=64m"]));
        for bad in
            ["type=bind,src=/tmp", "type=x,src=/tmp,dst=/b", "type=bind,dst=/b,src=/no/such", "dst=/b,what=1"]
        {
            assert!(long(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_given_covers_the_default() {
        let options =
            Options { tmpfs: vec!["/run:size=1m,exec".into()], shm_size: Some(5), ..Options::default() };
        let all = all(&options, false).unwrap();
        let at = |path: &str| all.iter().filter(|m| m["destination"] == path).collect::<Vec<_>>();
        assert_eq!(at("/run").len(), 1);
        assert!(at("/run")[0]["options"].to_string().contains("size=1m"));
        assert!(at("/dev/shm")[0]["options"].to_string().contains("size=5"));
    }
}
