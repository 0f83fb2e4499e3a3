//! A terminal of the container's own: made from its devpts, so that `ttyname` and job control work inside.

use crate::error::{Context, Error, Result};
use crate::rootfs::{Kind, Root};
use crate::spec::ConsoleSize;
use crate::sys::{check, file, mount};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
const TIOCSPTLCK: libc::c_ulong = 0x4004_5431;
const TIOCGPTPEER: libc::c_ulong = 0x5441;

pub struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

impl Terminal {
    /// Opens a pair. The image could have put anything at `/dev/ptmx`: both ends are looked at before they are used.
    pub fn open(size: Option<ConsoleSize>) -> Result<Terminal> {
        let path = "/dev/ptmx";
        let master = file::open(path, libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK, 0)
            .at("open terminal", path)?;
        let stat = file::fstat(&master).at("stat", path)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(5, 2) {
            return Err(Error::Unsupported(format!(
                "{path} in the container is not the terminal multiplexer"
            )));
        }
        // SAFETY: F_SETFL takes an integer; O_NONBLOCK was only for opening.
        check(unsafe { libc::fcntl(master.as_raw_fd(), libc::F_SETFL, libc::O_RDWR).into() })
            .at("set up", path)?;
        let unlock: libc::c_int = 0;
        // SAFETY: TIOCSPTLCK reads one int.
        check(unsafe { libc::ioctl(master.as_raw_fd(), TIOCSPTLCK as _, &unlock).into() })
            .op("unlock terminal")?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: TIOCGPTPEER takes open flags as an integer and returns a new descriptor.
        let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER as _, flags).into() })
            .op("open terminal's other end")?;
        // SAFETY: the kernel has just given us this descriptor.
        let slave = unsafe { OwnedFd::from_raw_fd(slave as RawFd) };
        if file::fs_magic(&slave).op("stat terminal")? != DEVPTS_SUPER_MAGIC {
            return Err(Error::Unsupported("the container's terminal is not on a devpts file system".into()));
        }
        if let Some(size) = size {
            let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
            // SAFETY: TIOCSWINSZ reads one winsize.
            check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size).into() })
                .op("set console size")?;
        }
        Ok(Terminal { master, slave })
    }

    /// Makes the other end `/dev/console`.
    pub fn mount_console(&self) -> Result<()> {
        let root = Root::open("/".as_ref())?;
        let target = root.ensure("/dev/console", Kind::File)?;
        let tree = mount::clone_tree(&self.slave, "", false).at("clone", "/dev/console")?;
        mount::attach(tree, target).at("mount", "/dev/console")
    }

    /// Makes the other end the three standard streams and the controlling terminal of this session.
    pub fn take(self, uid: u32) -> Result<OwnedFd> {
        let stat = file::fstat(&self.slave).op("stat terminal")?;
        if stat.st_uid != uid {
            file::fchown(&self.slave, uid, stat.st_gid).op("chown terminal")?;
        }
        for target in 0..3 {
            file::dup_onto(&self.slave, target).op("set up stdio")?;
        }
        // SAFETY: TIOCSCTTY takes an integer.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0).into() }).op("set controlling terminal")?;
        Ok(self.master)
    }
}
