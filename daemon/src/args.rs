//! The command line: containerd's flags, so that what starts containerd starts windlassd.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "windlassd",
    about = "A container daemon that speaks containerd's API",
    after_help = "Without a subcommand the daemon runs in the foreground. It needs no configuration file.",
    version = crate::VERSION,
    disable_version_flag = true,
    max_term_width = 100
)]
pub struct Args {
    #[command(flatten)]
    pub flags: Flags,
    /// Print the version
    #[arg(short = 'v', long, global = true, action = clap::ArgAction::Version)]
    version: (),
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Configuration file [default: /etc/windlass/config.toml where there is one]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Socket of the gRPC server; the ttrpc socket lies beside it
    #[arg(short, long, global = true, value_name = "SOCKET")]
    pub address: Option<PathBuf>,
    /// Directory for what lasts
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Directory for what a reboot may take
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// trace, debug, info, warn, error
    #[arg(short, long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print or check the configuration
    #[command(subcommand)]
    Config(Config),
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Config {
    /// The configuration in effect where no file says anything
    Default,
    /// The configuration in effect: files, imports, flags and defaults
    Dump,
    /// The configuration file in the newest version, without its imports
    Migrate,
    /// Check the configuration; everything wrong or unknown is named
    Check,
}

impl Flags {
    /// A flag with an empty value says nothing, as with containerd.
    pub fn without_empty(self) -> Self {
        let path = |p: Option<PathBuf>| p.filter(|p| !p.as_os_str().is_empty());
        Self {
            config: path(self.config),
            address: path(self.address),
            root: path(self.root),
            state: path(self.state),
            log_level: self.log_level.filter(|l| !l.is_empty()),
        }
    }

    /// The file to load: the one asked for, or the usual one if it is there.
    pub fn file(&self) -> Option<PathBuf> {
        let usual = PathBuf::from(crate::config::DEFAULT_FILE);
        self.config.clone().or_else(|| usual.exists().then_some(usual))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_containerds() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        let args = Args::try_parse_from([
            "windlassd",
            "-c",
            "/c",
            "-a",
            "/s",
            "--root",
            "/r",
            "--state",
            "/t",
            "-l",
            "debug",
        ])
        .unwrap();
        assert_eq!(args.flags.config, Some("/c".into()));
        assert_eq!(args.flags.log_level.as_deref(), Some("debug"));
        assert!(args.command.is_none());
        let args = Args::try_parse_from(["windlassd", "--config", "/c", "config", "dump"]).unwrap();
        assert!(matches!(args.command, Some(Command::Config(Config::Dump))));
    }
}
