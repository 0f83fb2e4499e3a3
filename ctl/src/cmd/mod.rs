//! One file per subcommand: its arguments and what it does.

pub mod images;
pub mod import;
pub mod ps;
pub mod pull;
pub mod rm;
pub mod run;
pub mod version;
