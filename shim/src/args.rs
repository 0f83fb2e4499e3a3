//! The command line, as Go's `flag` package reads it: `-name value`, `-name=value`, one dash or two, flags before the
//! subcommand.

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Args {
    pub debug: bool,
    pub version: bool,
    pub info: bool,
    pub namespace: String,
    pub id: String,
    pub socket: String,
    pub debug_socket: String,
    pub bundle: String,
    pub address: String,
    pub publish_binary: String,
    /// `start`, `delete` or empty.
    pub action: String,
}

impl Args {
    /// Reads arguments without the program's name. The error is for the user.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Args, String> {
        let mut out = Args::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(name) =
                arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|n| !n.is_empty())
            else {
                out.action = if arg == "--" { args.next().unwrap_or_default() } else { arg };
                break;
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            if let Some(flag) = out.switch(name) {
                *flag = match value.as_deref() {
                    None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
                    Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
                    Some(other) => return Err(format!("invalid boolean value {other:?} for -{name}")),
                };
                continue;
            }
            let Some(slot) = out.text(name) else {
                return Err(format!("flag provided but not defined: -{name}"));
            };
            *slot = match value.or_else(|| args.next()) {
                Some(value) => value,
                None => return Err(format!("flag needs an argument: -{name}")),
            };
        }
        Ok(out)
    }

    fn switch(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "debug" => &mut self.debug,
            "v" | "version" => &mut self.version,
            "info" => &mut self.info,
            _ => return None,
        })
    }

    fn text(&mut self, name: &str) -> Option<&mut String> {
        Some(match name {
            "namespace" => &mut self.namespace,
            "id" => &mut self.id,
            "socket" => &mut self.socket,
            "debug-socket" => &mut self.debug_socket,
            "bundle" => &mut self.bundle,
            "address" => &mut self.address,
            "publish-binary" => &mut self.publish_binary,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn the_daemons_command_line() {
        let args = parse("-namespace ns -address /run/c.sock -publish-binary /bin/containerd -id a --bundle=/b -debug start").unwrap();
        assert_eq!(args.namespace, "ns");
        assert_eq!(args.bundle, "/b");
        assert_eq!(args.action, "start");
        assert!(args.debug && !args.info);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("-nope start").unwrap_err(), "flag provided but not defined: -nope");
        assert_eq!(parse("-id").unwrap_err(), "flag needs an argument: -id");
        assert!(parse("-debug=maybe").unwrap_err().contains("maybe"));
        assert!(!parse("-debug=false start").unwrap().debug);
    }
}
