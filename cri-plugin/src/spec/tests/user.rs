//! Who a process is, by the files of images that mean harm.

use super::*;
use crate::spec::rootfs::{Empty, Tree};
use crate::spec::tests::tree;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::os::unix::fs::symlink;

const PASSWD: &str = "\
# a comment
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www:/var/www:/bin/false
user:x:1000:1000::/home/user:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
broken:x:zero:0::/:/bin/sh
huge:x:4294967296:0::/:/bin/sh
grouphuge:x:1001:4294967296::/:/bin/sh
short:x
2147483648:x:0:0::/:/bin/sh
";
const GROUP: &str = "\
root:x:0:root
www-data:x:33:
wheel:x:10:root,user
user:x:1000:user
extra:x:50000:other, user ,third
bad:x:nope:user
huge:x:4294967296:user
";

fn rootfs(passwd: &str, group: &str) -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
    std::fs::write(dir.path().join("etc/group"), group).unwrap();
    let tree = tree(dir.path());
    (dir, tree)
}

fn image(user: &str) -> Option<(u32, u32, Vec<u32>)> {
    let (_dir, root) = rootfs(PASSWD, GROUP);
    let found = resolve(&Asked::default(), user, &root).ok()?;
    Some((found.uid, found.gid, found.groups))
}

#[test]
fn users_of_images() {
    for (user, expected) in [
        ("", Some((0, 0, vec![0, 10]))),
        ("0", Some((0, 0, vec![0, 10]))),
        ("root", Some((0, 0, vec![0, 10]))),
        ("1000", Some((1000, 1000, vec![10, 1000, 50000]))),
        ("user", Some((1000, 1000, vec![10, 1000, 50000]))),
        ("user:www-data", Some((1000, 33, vec![10, 33, 50000]))),
        ("1000:7", Some((1000, 7, vec![7, 10, 50000]))),
        ("77", Some((77, 0, vec![0]))),
        ("77:78", Some((77, 78, vec![78]))),
        ("77:wheel", Some((77, 10, vec![10]))),
        ("2147483647", Some((2147483647, 0, vec![0]))),
        // Larger ones are refused, also where a line is named so.
        ("2147483648", None),
        ("4294967296", None),
        ("18446744073709551616", None),
        ("-1", None),
        ("1000:2147483648", None),
        ("nosuch", None),
        ("user:nosuch", None),
        ("user:huge", None),
        ("broken", None),
        ("huge", None),
        ("grouphuge", None),
        ("1001", None),
        ("short", None),
        ("a:b:c", None),
        ("user:", None),
        (":33", None),
        ("us\ner", None),
    ] {
        assert_eq!(image(user), expected, "{user:?}");
    }
}

#[test]
fn requests_go_before_images() {
    let (_dir, root) = rootfs(PASSWD, GROUP);
    let base = Asked { supplemental: &[5, 10], ..Asked::default() };
    for (asked, expected) in [
        (Asked { uid: Some(1000), ..base }, Some((1000, 1000, vec![5, 10, 1000, 50000]))),
        (Asked { uid: Some(1000), strict: true, ..base }, Some((1000, 1000, vec![5, 10, 1000]))),
        (Asked { uid: Some(1000), gid: Some(9), strict: true, ..base }, Some((1000, 9, vec![5, 9, 10]))),
        (Asked { username: "user", ..base }, Some((1000, 1000, vec![5, 10, 1000, 50000]))),
        (Asked { username: "user", uid: Some(7), ..base }, Some((1000, 1000, vec![5, 10, 1000, 50000]))),
        (Asked { strict: true, ..base }, Some((33, 33, vec![5, 10, 33]))),
        (Asked { gid: Some(9), ..base }, None),
        (Asked { uid: Some(-1), ..base }, None),
        (Asked { uid: Some(1 << 31), ..base }, None),
        (Asked { uid: Some(1 << 32), ..base }, None),
        (Asked { supplemental: &[1 << 32], ..base }, None),
        (Asked { supplemental: &[-1], ..base }, None),
    ] {
        let found = resolve(&asked, "www-data", &root).ok().map(|u| (u.uid, u.gid, u.groups));
        assert_eq!(found, expected, "{asked:?}");
    }
    let strict = Asked { strict: true, ..Asked::default() };
    assert_eq!(resolve(&strict, "", &root).unwrap().groups, [0]);
    assert!(super::strict(2).is_err());
}

#[test]
fn without_files_numbers_are_enough() {
    let of = |user| resolve(&Asked::default(), user, &Empty).ok().map(|u| (u.uid, u.gid, u.groups));
    assert_eq!(of(""), Some((0, 0, vec![0])));
    assert_eq!(of("5"), Some((5, 0, vec![0])));
    assert_eq!(of("5:6"), Some((5, 6, vec![6])));
    assert_eq!(of("root"), None);
    assert_eq!(of("5:wheel"), None);
}

#[test]
fn hostile_files_neither_hang_nor_lead_out() {
    let asked = Asked { uid: Some(1000), ..Asked::default() };
    let run = |root: &Tree| resolve(&asked, "", root).map(|u| (u.uid, u.gid));

    let (dir, root) = rootfs("", "");
    let passwd = dir.path().join("etc/passwd");
    std::fs::remove_file(&passwd).unwrap();
    mknodat(CWD, &passwd, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = windlass_core::Error::from(run(&root).unwrap_err());
    assert!(
        error.is(windlass_core::Class::InvalidArgument),
        "a FIFO is refused, and not waited for: {error}"
    );

    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("passwd"), "evil:x:1000:0::/:/bin/sh\n").unwrap();
    std::fs::remove_file(&passwd).unwrap();
    symlink(outside.path().join("passwd"), &passwd).unwrap();
    assert_eq!(run(&root).unwrap(), (1000, 0), "a link that leads out leads nowhere");

    std::fs::remove_file(&passwd).unwrap();
    std::fs::create_dir(dir.path().join("usr")).unwrap();
    std::fs::write(dir.path().join("usr/passwd"), "u:x:1000:1234::/:/bin/sh\n").unwrap();
    symlink("/usr/passwd", &passwd).unwrap();
    assert_eq!(run(&root).unwrap(), (1000, 1234), "a link within is followed");

    std::fs::remove_file(&passwd).unwrap();
    let file = std::fs::File::create(&passwd).unwrap();
    file.set_len(8 << 30).unwrap();
    let refused = |root: &Tree| windlass_core::Error::from(run(root).unwrap_err());
    let error = refused(&root);
    assert!(error.message().contains("/etc/passwd of the image is too large"), "eight gigabytes: {error}");
    assert!(error.is(windlass_core::Class::FailedPrecondition), "{error:?}");

    std::fs::write(&passwd, "x:y:z:1:".repeat(100_000)).unwrap();
    assert!(run(&root).is_err(), "a line has an end");

    let many = "u:x:1:1::/:/bin/sh\n".repeat((11 << 20) / 19);
    std::fs::write(&passwd, many).unwrap();
    assert!(run(&root).is_err(), "so has a file");

    std::fs::write(&passwd, "user:x:1000:1000::/home\nroot2:x:0:0::/:/bin/sh\n").unwrap();
    assert_eq!(run(&root).unwrap(), (1000, 1000), "a newline ends a line, whoever put it there");
    std::fs::write(&passwd, b"\xff\xfe:x:1000:1::/:\n\0\0\n").unwrap();
    assert_eq!(run(&root).unwrap(), (1000, 1), "names are bytes");
}
