//! `windlass`: containers and images from a terminal. Talks only through containerd's API: what it can do, any client can.
//!
//! One file per subcommand in [`cmd`]; [`client`] connects, [`output`] prints, [`transfer`] moves images and shows how
//! far they are, [`auth`] knows registry credentials, [`run`] holds what running a container takes (spec, users,
//! standard streams, terminal).
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Commands that run a process (`run`, `start -a`, `exec`, `attach`) end
//! with the process's own code, and with 125 where windlass failed, 126 where the command cannot be run and 127 where
//! it does not exist.

mod auth;
mod client;
mod cmd;
mod interrupt;
mod json;
mod names;
mod output;
mod run;
mod stream;
mod transfer;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

const AFTER_HELP: &str = "\
Examples:
  windlass run --rm -it busybox sh            a shell in a new container
  windlass run -d --name web nginx            in the background; then: windlass logs -f web
  windlass ps -a --format '{{.id}} {{.status}}'
  windlass -n k8s.io ps                       another namespace

Every command explains itself: windlass COMMAND --help";

/// Containers and images on a windlass (or containerd) daemon.
#[derive(Parser)]
#[command(
    name = "windlass",
    version,
    max_term_width = 100,
    after_help = AFTER_HELP,
    subcommand_value_name = "COMMAND",
    subcommand_help_heading = "Commands",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    global: client::Global,
    #[command(subcommand)]
    command: Command,
}

/// The table of commands: parser, help and dispatch come from here.
macro_rules! commands {
    ($($(#[$attr:meta])* $name:ident($module:ident)),* $(,)?) => {
        #[derive(Subcommand)]
        enum Command { $($(#[$attr])* $name(cmd::$module::Args)),* }

        impl Command {
            async fn run(self, global: client::Global) -> anyhow::Result<ExitCode> {
                match self { $(Self::$name(args) => cmd::$module::run(global, args).await),* }
            }
        }
    };
}

commands! {
    /// Create a container from an image and run it
    Run(run),
    /// Create a container without starting it
    Create(create),
    /// Start containers that were created or have ended
    Start(start),
    /// Run a command in a running container
    Exec(exec),
    /// Join a running container's input and output
    Attach(attach),
    /// List containers
    Ps(ps),
    /// Show the output of a detached container
    Logs(logs),
    /// Ask containers to end, then make them
    Stop(stop),
    /// Stop containers and start them again
    Restart(restart),
    /// Send a signal to containers
    Kill(kill),
    /// Wait until containers end and print their exit codes
    Wait(wait),
    /// Freeze the processes of containers
    Pause(pause),
    /// Let paused containers go on
    #[command(visible_alias = "unpause")]
    Resume(resume),
    /// List the processes of a container
    Top(top),
    /// Show what containers use, live
    Stats(stats),
    /// Remove containers
    Rm(rm),
    /// Show all about containers or images, as JSON
    Inspect(inspect),
    /// Copy files between a container and this machine
    Cp(cp),
    /// Fetch an image from a registry and unpack it
    Pull(pull),
    /// Send an image to a registry
    Push(push),
    /// List images
    #[command(visible_alias = "ls")]
    Images(images),
    /// Remove images
    Rmi(rmi),
    /// Give an image another name
    Tag(tag),
    /// Load images from an archive
    #[command(visible_alias = "load")]
    Import(import),
    /// Write images into an archive
    #[command(visible_alias = "save")]
    Export(export),
    /// Keep credentials for a registry
    Login(login),
    /// Forget a registry's credentials
    Logout(logout),
    /// Namespaces
    #[command(visible_alias = "namespace")]
    Ns(ns),
    /// Blobs of images, by digest
    Content(content),
    /// File systems of images and containers
    #[command(visible_alias = "snapshot")]
    Snapshots(snapshots),
    /// What protects content and snapshots from collection
    Leases(leases),
    /// Show what happens, as it happens
    Events(events),
    /// Plugins of the daemon
    Plugins(plugins),
    /// Show the versions of client and daemon
    Version(version),
    /// Show daemon and machine at a glance
    Info(info),
    /// Show the settings of this command line, and where they come from
    Config(config),
    /// Print a shell's completion script
    Completion(completion),
    /// Write manual pages into a directory
    #[command(hide = true)]
    Man(man),
}

/// The command line as a tree, for completion scripts and manual pages.
pub fn tree() -> clap::Command {
    Cli::command()
}

/// Parses the arguments; ends the process where they are wrong or ask for help.
fn parse() -> Result<Cli, ExitCode> {
    let matches = Cli::command().try_get_matches();
    let parsed = matches.and_then(|matches| {
        let mut cli = Cli::from_arg_matches(&matches)?;
        cli.global.note_sources(&matches);
        Ok(cli)
    });
    parsed.map_err(|error| {
        // A terminal that has gone is nobody to tell.
        let _ = error.print();
        let code = u8::try_from(error.exit_code()).unwrap_or(2);
        // Where the exit code is a container's, wrong usage must not look like one.
        let runs = std::env::args().skip(1).any(|a| matches!(a.as_str(), "run" | "exec"));
        ExitCode::from(if code != 0 && runs { output::FAILED } else { code })
    })
}

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::warn(&format!("start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(cli.command.run(cli.global)) {
        Ok(code) => code,
        Err(error) => output::fail(&error),
    };
    // Reads of standard input cannot be cancelled: leave without waiting for them.
    runtime.shutdown_background();
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    /// clap's own check is left out of release builds.
    fn check(command: &clap::Command, path: &str) {
        let mut seen = std::collections::BTreeSet::new();
        for arg in command.get_arguments() {
            let mut names: Vec<_> = arg.get_short().map(|s| format!("-{s}")).into_iter().collect();
            names.extend(arg.get_long().map(|l| format!("--{l}")));
            names.extend(arg.get_all_aliases().into_iter().flatten().map(|l| format!("--{l}")));
            names.push(arg.get_id().to_string());
            for name in names {
                assert!(seen.insert(name.clone()), "{path}: {name} stands twice");
            }
        }
        for below in command.get_subcommands() {
            check(below, &format!("{path} {}", below.get_name()));
        }
    }

    #[test]
    fn the_tree_is_sound() {
        let mut tree = tree();
        tree.build();
        check(&tree, "windlass");
    }

    #[test]
    fn every_command_explains_itself() {
        for command in tree().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for arg in command.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version"))
            {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
            }
            for below in command.get_subcommands() {
                assert!(
                    below.get_about().is_some(),
                    "{} {} has no help",
                    command.get_name(),
                    below.get_name()
                );
            }
        }
    }

    #[test]
    fn lines_that_people_type_are_understood() {
        for line in [
            "windlass -a /x/y.sock -n k8s.io ps -a",
            "windlass ps -aq --address /x --namespace y --format json",
            "windlass run --rm -it busybox sh -c x --rm",
            "windlass run -d --name web -e A=b -e C --env-file f -v /a:/b:ro --mount type=bind,src=/a,dst=/b nginx",
            "windlass run -itm 64m --cpus 1.5 --pids-limit 9 --cap-add ALL --security-opt seccomp=x i",
            "windlass run --network host --pid host --ipc host --uts host --tmpfs /t:size=1m --ulimit nofile=1:2 i",
            "windlass create -i -t --platform linux/arm64 --pull always --label a=b --label-file f --cidfile c i",
            "windlass start -ai x",
            "windlass exec -itu root -w / -e A=1 x sh",
            "windlass attach --detach-keys ctrl-a,d x",
            "windlass logs -f --tail 5 x",
            "windlass kill -s HUP x y",
            "windlass stop -t 5 x",
            "windlass rm -f x",
            "windlass rm --force --all --all-namespaces",
            "windlass version --wait 10s",
            "windlass stats --no-stream",
            "windlass pull --user a:b --plain-http --all-platforms 127.0.0.1:5000/x",
            "windlass push a b",
            "windlass import -",
            "windlass export -o x.tar a b",
            "windlass ns label x a=b c=",
            "windlass content ls",
            "windlass snapshots tree",
            "windlass leases create --expires 1h",
            "windlass events --filter topic==/tasks/exit",
            "windlass completion bash",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
        for line in ["windlass", "windlass nope", "windlass ps --format x", "windlass run", "windlass stop"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn options_for_the_daemon_may_stand_anywhere() {
        for line in
            ["windlass -a /x version", "windlass --address /x version", "windlass version --address /x"]
        {
            assert_eq!(parse(line).unwrap().global.address(), std::path::Path::new("/x"), "{line}");
        }
        for line in ["windlass -n x ps", "windlass ps --namespace x", "windlass ps -n x"] {
            assert_eq!(parse(line).unwrap().global.namespace, "x", "{line}");
        }
    }
}
