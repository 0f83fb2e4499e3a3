//! Log lines for the daemon: logrus' text form on descriptor 2, which is the bundle's `log` fifo while the shim serves.
//!
//! The fifo is held open for reading and writing and never blocks: while the daemon is away lines fill the pipe, and
//! what does not fit is lost. A log must never hold up a container.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::fd::AsFd;

static DEBUG: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Debug,
    Warning,
    Error,
}

pub fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

pub fn write(level: Level, message: fmt::Arguments<'_>) {
    if level == Level::Debug && !DEBUG.load(Ordering::Relaxed) {
        return;
    }
    let name = match level {
        Level::Debug => "debug",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    let line = format!(
        "time=\"{}\" level={name} msg={:?} runtime=io.containerd.runc.v2\n",
        crate::time::rfc3339(SystemTime::now()),
        message.to_string()
    );
    // A full pipe loses the line; there is nobody else to tell.
    let _ = rustix::io::write(rustix::stdio::stderr().as_fd(), line.as_bytes());
}

macro_rules! debug { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, format_args!($($arg)*)) } }
macro_rules! warning { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warning, format_args!($($arg)*)) } }
macro_rules! error { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($arg)*)) } }
pub(crate) use {debug, error, warning};
