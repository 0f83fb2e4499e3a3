//! What a container runs: arguments, environment, working directory; and what is run in it later.

use serde_json::{Value, json};
use windlass_api::cri;

use super::error::{Result, invalid};
use super::image::Config;
use super::json::{object, strings};

pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TERM: &str = "TERM=xterm";

/// Docker's rules: a command replaces entry point and arguments of the image, arguments only its arguments.
pub fn args(config: &cri::ContainerConfig, image: &Config) -> Result<Vec<String>> {
    let (mut command, mut args) = (config.command.clone(), config.args.clone());
    if command.is_empty() {
        if args.is_empty() {
            args.clone_from(&image.cmd);
        }
        if image.entrypoint != [""] {
            command.clone_from(&image.entrypoint);
        }
    }
    command.append(&mut args);
    check_args(&command)?;
    Ok(command)
}

fn check_args(args: &[String]) -> Result<()> {
    match args.first().map(String::as_str) {
        None => return invalid("no command specified, neither by the container nor by its image"),
        Some("") => return invalid("the command's name is empty"),
        Some(_) => {}
    }
    without_nul("command", args)
}

fn without_nul(what: &str, list: &[String]) -> Result<()> {
    match list.iter().find(|s| s.contains('\0')) {
        Some(s) => invalid(format!("{what} {s:?} contains NUL")),
        None => Ok(()),
    }
}

/// Sets variables, later ones over earlier ones, each name once. One without `=` takes that name out.
pub fn set_env(env: &mut Vec<String>, overrides: impl IntoIterator<Item = String>) {
    for variable in overrides {
        let name = name(&variable).to_owned();
        let found = env.iter().position(|e| self::name(e) == name);
        match (found, variable.contains('=')) {
            (Some(at), true) => env[at] = variable,
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(variable),
            (None, false) => {}
        }
    }
}

fn name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

/// The environment: what the base has, then the terminal's and the host's name, then the image's, then the request's.
pub fn env(
    base: Vec<String>,
    config: &cri::ContainerConfig,
    image: &Config,
    host: &str,
) -> Result<Vec<String>> {
    let mut env = base;
    if !env.iter().any(|e| name(e) == "PATH") {
        env.push(PATH.to_owned());
    }
    if config.tty {
        set_env(&mut env, [TERM.to_owned()]);
    }
    set_env(&mut env, [format!("HOSTNAME={host}")]);
    set_env(&mut env, image.env.iter().cloned());
    for pair in &config.envs {
        if pair.key.is_empty() || pair.key.contains('=') {
            return invalid(format!("{:?} is not the name of an environment variable", pair.key));
        }
    }
    set_env(&mut env, config.envs.iter().map(|pair| format!("{}={}", pair.key, pair.value)));
    without_nul("environment variable", &env)?;
    Ok(env)
}

/// The working directory, absolute. `..` is the runtime's business: it resolves within the root.
pub fn cwd(asked: &str, image: &str) -> Result<String> {
    let path = if asked.is_empty() { image } else { asked };
    if path.contains('\0') {
        return invalid(format!("working directory {path:?} contains NUL"));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// The process of an exec: that of the container with another command.
pub fn exec(process: &Value, cmd: &[String], tty: bool) -> Value {
    let mut process = process.clone();
    let mut env = strings(&process, "/env");
    if tty {
        set_env(&mut env, [TERM.to_owned()]);
    }
    let fields = object(&mut process, &[]);
    fields.remove("commandLine");
    fields.remove("consoleSize");
    fields.insert("terminal".into(), tty.into());
    fields.insert("args".into(), json!(cmd));
    fields.insert("env".into(), json!(env));
    process
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| w.to_string()).collect()
    }

    #[test]
    fn command_and_arguments_follow_dockers_rules() {
        for (entrypoint, cmd, command, arguments, expected) in [
            (&["e"][..], &["c"][..], &[][..], &[][..], Some(&["e", "c"][..])),
            (&["e"], &["c"], &[], &["a"], Some(&["e", "a"])),
            (&["e"], &["c"], &["x"], &[], Some(&["x"])),
            (&["e"], &["c"], &["x"], &["a"], Some(&["x", "a"])),
            (&[""], &["c"], &[], &[], Some(&["c"])),
            (&[], &["c", "d"], &[], &[], Some(&["c", "d"])),
            (&[], &[], &[], &["a"], Some(&["a"])),
            (&[], &[], &[], &[], None),
            (&[""], &[], &[], &[], None),
            (&[], &[], &[""], &[], None),
            (&[], &[], &["x\0"], &[], None),
        ] {
            let image = Config { entrypoint: list(entrypoint), cmd: list(cmd), ..Config::default() };
            let config =
                cri::ContainerConfig { command: list(command), args: list(arguments), ..Default::default() };
            let found = args(&config, &image).ok();
            assert_eq!(found, expected.map(list), "{entrypoint:?} {cmd:?} {command:?} {arguments:?}");
        }
    }

    fn config(tty: bool, pairs: &[(&str, &str)]) -> cri::ContainerConfig {
        let pair =
            |(key, value): &(&str, &str)| cri::KeyValue { key: key.to_string(), value: value.to_string() };
        cri::ContainerConfig { tty, envs: pairs.iter().map(pair).collect(), ..Default::default() }
    }

    #[test]
    fn the_environment_is_layered_and_has_each_name_once() {
        let image = Config { env: list(&["A=image", "B=image", "PATH=/p", "NOTHING"]), ..Config::default() };
        let env = |base: &[&str], config| env(list(base), &config, &image, "h").unwrap();
        assert_eq!(
            env(&[], config(true, &[("A", "pod"), ("C", "x=y\nz"), ("A", "last")])),
            ["PATH=/p", "TERM=xterm", "HOSTNAME=h", "A=last", "B=image", "C=x=y\nz"]
        );
        assert_eq!(
            env(&["Z=1", "B=base"], config(false, &[("HOSTNAME", "mine")])),
            ["Z=1", "B=image", "PATH=/p", "HOSTNAME=mine", "A=image"]
        );
    }

    #[test]
    fn wrong_variables_are_refused() {
        for pairs in [[("", "x")], [("A=B", "x")], [("A", "x\0")]] {
            assert!(env(Vec::new(), &config(false, &pairs), &Config::default(), "h").is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn working_directories_are_absolute() {
        for (asked, image, expected) in [
            ("", "", "/"),
            ("", "/i", "/i"),
            ("/a", "/i", "/a"),
            ("", "rel/x", "/rel/x"),
            ("/a/../..", "", "/a/../.."),
        ] {
            assert_eq!(cwd(asked, image).unwrap(), expected);
        }
        assert!(cwd("/a\0", "").is_err());
    }

    #[test]
    fn an_exec_is_the_containers_process_with_another_command() {
        let process = json!({"terminal": false, "args": ["a"], "env": ["A=1"], "cwd": "/w", "commandLine": "x",
            "user": {"uid": 7, "umask": 18}, "capabilities": {"bounding": ["CAP_KILL"]}, "unknown": 1});
        let process = exec(&process, &list(&["sh", "-c"]), true);
        assert_eq!(
            process,
            json!({"terminal": true, "args": ["sh", "-c"], "env": ["A=1", "TERM=xterm"], "cwd": "/w",
                "user": {"uid": 7, "umask": 18}, "capabilities": {"bounding": ["CAP_KILL"]}, "unknown": 1})
        );
        assert_eq!(exec(&process, &[], false)["terminal"], false);
    }
}
