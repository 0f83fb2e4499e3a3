//! System call filters: compiled here, without libseccomp, and loaded by the process that they bind.

mod arch;
mod compile;

pub use compile::Insn;

use crate::error::{Context, Error, Result};
use crate::spec::Seccomp;
use crate::sys::check;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
const FLAG_LOG: u64 = 1 << 1;
const FLAG_SPEC_ALLOW: u64 = 1 << 2;
const FLAG_NEW_LISTENER: u64 = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// A filter that is ready to be loaded.
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<Insn>,
    flags: u64,
    /// Where notifications go: a unix socket's path and the data that goes along.
    pub listener: Option<(String, String)>,
}

impl Filter {
    pub fn compile(config: &Seccomp) -> Result<Option<Filter>> {
        let Some(program) = compile::compile(config)? else { return Ok(None) };
        let mut flags = 0;
        for flag in config.flags.iter().flatten() {
            flags |= match flag.as_str() {
                // Of no use before exec, which leaves one thread.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => FLAG_LOG,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FLAG_SPEC_ALLOW,
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => FLAG_WAIT_KILLABLE_RECV,
                other => return Err(Error::Spec(format!("seccomp flag {other} is not known"))),
            };
        }
        // Without a word about flags filters do not slow the program's speculation down, as runc has it.
        if config.flags.is_none() {
            flags |= FLAG_SPEC_ALLOW;
        }
        let notify = config.syscalls.iter().any(|rule| rule.action == "SCMP_ACT_NOTIFY");
        let listener = match (notify, config.listener_path.is_empty()) {
            (true, true) => return Err(Error::Spec("seccomp: SCMP_ACT_NOTIFY needs a listenerPath".into())),
            (true, false) => {
                flags |= FLAG_NEW_LISTENER;
                Some((config.listener_path.clone(), config.listener_metadata.clone()))
            }
            (false, _) => None,
        };
        if listener.is_none() {
            flags &= !FLAG_WAIT_KILLABLE_RECV;
        }
        Ok(Some(Filter { program, flags, listener }))
    }

    /// Binds the calling thread, for ever. The descriptor is that for notifications, where they were asked for.
    pub fn load(&self) -> Result<Option<OwnedFd>> {
        let program = libc::sock_fprog {
            len: self.program.len() as libc::c_ushort,
            filter: self.program.as_ptr().cast_mut().cast(),
        };
        // SAFETY: `program` points to `len` instructions whose layout is that of sock_filter; the kernel copies them.
        let result = check(unsafe {
            libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, self.flags as libc::c_uint, &program)
        })
        .op("load seccomp filter")?;
        if self.flags & FLAG_NEW_LISTENER == 0 {
            return Ok(None);
        }
        // SAFETY: with FLAG_NEW_LISTENER the kernel returns a new descriptor.
        Ok(Some(unsafe { OwnedFd::from_raw_fd(result as RawFd) }))
    }
}
