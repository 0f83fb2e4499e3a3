//! Finding the program and becoming it.

use crate::error::{Context, Error, Result};
use crate::sys::{check, cstr, errno, file};
use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// As much of `/etc/passwd` as is looked through.
const MAX_PASSWD: usize = 4 << 20;
/// The kernel follows scripts whose interpreters are scripts this far.
const MAX_INTERPRETERS: usize = 6;

fn is_executable(path: &Path) -> std::io::Result<()> {
    let stat = file::fstatat(file::cwd(), path, 0)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(std::io::Error::from_raw_os_error(libc::EISDIR));
    }
    let name = cstr(path)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let allowed = check(unsafe {
        libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, name.as_ptr(), libc::X_OK, libc::AT_EACCESS)
    });
    match allowed {
        Err(e) if errno(&e) == libc::ENOSYS && stat.st_mode & 0o111 != 0 => Ok(()),
        other => other.map(drop),
    }
}

/// Finds `name` as a shell would. The messages are those that users of runc know and search for.
pub fn find(name: &str, env: &[String]) -> Result<PathBuf> {
    let failed = |text: String, errno| Err(Error::Program { message: text, errno });
    if name.contains('/') {
        return match is_executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(e) if errno(&e) == libc::EISDIR => {
                failed(format!("exec: {name:?}: is a directory"), libc::EISDIR)
            }
            Err(e) if errno(&e) == libc::EACCES => {
                failed(format!("exec: {name:?}: permission denied"), libc::EACCES)
            }
            Err(e) => {
                let reason = crate::error::describe(&e);
                failed(format!("exec: {name:?}: stat {name}: {reason}"), errno(&e))
            }
        };
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    for dir in path.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        if is_executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    failed(format!("exec: {name:?}: executable file not found in $PATH"), libc::ENOENT)
}

/// The environment with HOME, which comes from the container's own `/etc/passwd` when it is not given.
pub fn with_home(env: &[String], uid: u32) -> Vec<OsString> {
    let mut env: Vec<OsString> = env.iter().map(OsString::from).collect();
    if !env.iter().any(|e| e.as_bytes().starts_with(b"HOME=") && e.len() > 5) {
        env.retain(|e| !e.as_bytes().starts_with(b"HOME="));
        let mut home = b"HOME=".to_vec();
        home.extend(home_of(uid).unwrap_or_else(|| b"/".to_vec()));
        env.push(OsString::from_vec(home));
    }
    env
}

/// Looks only at a regular file and only at so much of it: the image may have put anything there.
fn home_of(uid: u32) -> Option<Vec<u8>> {
    let fd = file::open("/etc/passwd", libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0).ok()?;
    if file::fstat(&fd).ok()?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return None;
    }
    let text = file::read_all(&fd, MAX_PASSWD).ok()?;
    let uid = uid.to_string();
    text.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let home = (fields.nth(2)? == uid.as_bytes()).then(|| fields.nth(2)).flatten()?;
        (!home.is_empty() && !home.contains(&0)).then(|| home.to_vec())
    })
}

/// A program that is our own executable would hand the container a way to it (`/proc/self/exe` of the new
/// process); no image has a reason to.
pub fn refuse_own_executable(proc: &impl std::os::fd::AsFd, program: &Path) -> Result<()> {
    let Ok(own) = file::fstatat(proc, "self/exe", 0) else { return Ok(()) };
    let mut path = program.to_path_buf();
    for _ in 0..MAX_INTERPRETERS {
        let Ok(wanted) = file::fstatat(file::cwd(), &path, 0) else { return Ok(()) };
        if (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino) {
            return Err(Error::Unsupported(format!("{} is the runtime itself", program.display())));
        }
        match interpreter(&path) {
            Some(next) => path = next,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// What the first line of a script names.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let fd = file::open(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0).ok()?;
    let mut buffer = [0u8; 256];
    let n = file::read(&fd, &mut buffer).ok()?;
    let line = buffer[..n].strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let name = line.trim_ascii_start().split(|b| matches!(b, b' ' | b'\t' | 0)).next()?;
    (!name.is_empty()).then(|| PathBuf::from(OsString::from_vec(name.to_vec())))
}

/// Becomes the program; returns only with the reason why not.
pub fn exec(program: &Path, args: &[String], env: Vec<OsString>) -> Error {
    let build = || -> std::io::Result<(CString, Vec<CString>, Vec<CString>)> {
        let args = args.iter().map(cstr).collect::<std::io::Result<_>>()?;
        let env = env.iter().map(cstr).collect::<std::io::Result<_>>()?;
        Ok((cstr(program)?, args, env))
    };
    let (path, args, env) = match build() {
        Ok(built) => built,
        Err(source) => return Error::Path { op: "exec", path: program.to_path_buf(), source },
    };
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const libc::c_char>>()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    // SAFETY: path, argv and envp are NUL-terminated strings and null-terminated arrays that live until exec.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    let source = std::io::Error::last_os_error();
    Error::Path { op: "exec", path: program.to_path_buf(), source }
}

/// Goes to the working directory and makes sure that it is one of the container.
pub fn enter_cwd(cwd: &str) -> Result<()> {
    crate::sys::mount::chdir(cwd).at("chdir to cwd", cwd)?;
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is valid for writing its whole length.
    let result = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) });
    match result {
        // The kernel puts "(unreachable)" before a directory that is not below the root.
        Ok(_) if buffer[0] == b'/' => Ok(()),
        Ok(_) => Err(Error::Unsupported(
            "current working directory is outside of container mount namespace root -- possible container breakout detected"
                .into(),
        )),
        Err(source) => Err(Error::Path { op: "resolve cwd", path: cwd.into(), source }),
    }
}

/// Standard streams that are not a terminal belong to the container's user, so that he may open them again by
/// `/dev/stdout`.
pub fn own_stdio(uid: u32) -> Result<()> {
    for fd in 0..3 {
        // SAFETY: the three descriptors are open for the whole of this call: they were put there by us.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        let stat = file::fstat(fd).op("stat stdio")?;
        let null = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3);
        if stat.st_uid == uid || null {
            continue;
        }
        match file::fchown(fd, uid, stat.st_gid) {
            // Not ours to give away, on a read-only file system, or of an owner that the user namespace does not know.
            Err(e) if matches!(errno(&e), libc::EINVAL | libc::EPERM | libc::EROFS | libc::EBADF) => {}
            other => other.op("chown stdio")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, path: &str) -> String {
        find(name, &[format!("PATH={path}")]).unwrap_err().to_string()
    }

    #[test]
    fn messages_are_those_of_runc() {
        assert_eq!(message("nothing", "/bin"), r#"exec: "nothing": executable file not found in $PATH"#);
        assert_eq!(message("/nothing", ""), r#"exec: "/nothing": stat /nothing: no such file or directory"#);
        assert_eq!(message("/etc", ""), r#"exec: "/etc": is a directory"#);
        assert_eq!(message("/etc/passwd", ""), r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(find("sh", &["PATH=/nowhere:/bin".into()]).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn home_is_looked_up_unless_given() {
        assert_eq!(with_home(&["HOME=/x".into()], 0), ["HOME=/x"]);
        assert_eq!(with_home(&[], 0), ["HOME=/root"]);
        assert_eq!(with_home(&["HOME=".into()], 4_000_000), ["HOME=/"]);
    }
}
