//! Starting a program: one `fork`, from a small single-threaded process, and one `exec`.
//!
//! `std::process` is not used because it would wait on children by itself, and because programs here need a death
//! signal and descriptors at fixed numbers.

use std::env;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::pipe::{PipeFlags, pipe_with};

/// A program to run. Descriptors not named are closed in it (all of ours are close-on-exec).
pub struct Program<'a> {
    pub path: &'a Path,
    /// Arguments without the program's name.
    pub args: Vec<String>,
    /// The whole environment; `None` passes ours on.
    pub env: Option<Vec<String>>,
    /// Descriptors for 0, 1, 2 and on; `None` is `/dev/null`.
    pub fds: Vec<Option<BorrowedFd<'a>>>,
    /// Kill the program when the shim dies.
    pub bound: bool,
    pub dir: Option<&'a Path>,
}

/// Finds a program as a shell would: a name with a slash is taken as it is.
pub fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Starts the program and returns its pid. An error of `exec` is returned here, not as an exit status.
pub fn spawn(program: &Program<'_>) -> io::Result<u32> {
    let path = cstring(program.path.as_os_str())?;
    let mut argv = vec![path.clone()];
    for arg in &program.args {
        argv.push(cstring(OsStr::new(arg))?);
    }
    let envp: Vec<CString> = match &program.env {
        Some(env) => env.iter().map(|e| cstring(OsStr::new(e))).collect::<io::Result<_>>()?,
        None => env::vars_os()
            .map(|(name, value)| {
                cstring(OsStr::from_bytes(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
            })
            .collect::<io::Result<_>>()?,
    };
    let dir = program.dir.map(|dir| cstring(dir.as_os_str())).transpose()?;
    let null =
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, 0.into())?;
    let mut fds: Vec<i32> = Vec::with_capacity(program.fds.len().max(3));
    for index in 0..program.fds.len().max(3) {
        fds.push(program.fds.get(index).copied().flatten().map_or(null.as_raw_fd(), |fd| fd.as_raw_fd()));
    }
    let argv = pointers(&argv);
    let envp = pointers(&envp);
    let (report, failed) = pipe_with(PipeFlags::CLOEXEC)?;

    // SAFETY: the process has one thread, so the child may do what the parent may; it only makes system calls on
    // memory prepared above and then execs or exits.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: as above; every pointer stays valid, the child never returns from here.
        unsafe {
            let errno = child(&mut fds, dir.as_ref(), program.bound, &argv, &envp);
            let bytes = errno.to_ne_bytes();
            libc::write(failed.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
            libc::_exit(127);
        }
    }
    drop(failed);
    let mut errno = [0u8; 4];
    let mut read = rustix::io::read(&report, &mut errno);
    while read == Err(rustix::io::Errno::INTR) {
        read = rustix::io::read(&report, &mut errno);
    }
    match read? {
        0 => Ok(pid.unsigned_abs()),
        _ => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
    }
}

/// What the child does between `fork` and `exec`; returns the errno of what failed.
unsafe fn child(
    fds: &mut [i32],
    dir: Option<&CString>,
    bound: bool,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> i32 {
    // SAFETY: plain system calls on descriptors and strings that the caller keeps alive.
    unsafe {
        let count = fds.len() as i32;
        // First out of the way of the numbers to be filled, then down to them.
        for fd in fds.iter_mut() {
            if *fd < count {
                *fd = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, count);
            }
        }
        for (target, fd) in fds.iter().enumerate() {
            if libc::dup2(*fd, target as i32) < 0 {
                return *libc::__errno_location();
            }
        }
        if bound {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        if let Some(dir) = dir
            && libc::chdir(dir.as_ptr()) < 0
        {
            return *libc::__errno_location();
        }
        libc::execve(argv[0], argv.as_ptr(), envp.as_ptr());
        *libc::__errno_location()
    }
}

/// A file in memory for a program's output.
pub fn capture() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; the result is checked.
    let fd = unsafe { libc::memfd_create(c"output".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn cstring(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, WaitOptions, waitpid};

    use super::*;

    fn run(args: &[&str], out: &OwnedFd) -> i32 {
        use std::os::fd::AsFd;
        let path = find("sh").unwrap();
        let program = Program {
            path: &path,
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            env: Some(vec!["A=b".into()]),
            fds: vec![None, Some(out.as_fd()), None, Some(out.as_fd())],
            bound: true,
            dir: Some(Path::new("/")),
        };
        let pid = spawn(&program).unwrap();
        let (_, status) = waitpid(Pid::from_raw(pid as i32), WaitOptions::empty()).unwrap().unwrap();
        status.exit_status().unwrap()
    }

    #[test]
    fn descriptors_environment_and_directory_arrive() {
        let out = capture().unwrap();
        assert_eq!(run(&["-c", "echo $A; pwd >&3; exit 4"], &out), 4);
        let mut text = [0u8; 64];
        let length = rustix::io::pread(&out, &mut text, 0).unwrap();
        assert_eq!(&text[..length], b"b\n/\n");
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let program = Program {
            path: Path::new("/no/such"),
            args: vec![],
            env: None,
            fds: vec![],
            bound: false,
            dir: None,
        };
        assert_eq!(spawn(&program).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
