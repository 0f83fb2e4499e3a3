//! A layer made of two trees, applied to the first, gives the second.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use windlass_core::mount::{self, Mount};
use windlass_core::tree;

use super::*;
use crate::apply::{Target, apply};
use crate::decompress::Limit;
use crate::media::Compression;

fn bind(path: &Path) -> Mount {
    let options = vec!["rbind".into(), "rw".into()];
    Mount { kind: "bind".into(), source: path.to_str().unwrap().into(), target: String::new(), options }
}

fn overlay(upper: &Path, work: &Path, lower: &Path) -> Mount {
    let options = vec![
        format!("workdir={}", work.display()),
        format!("upperdir={}", upper.display()),
        format!("lowerdir={}", lower.display()),
        "index=off".into(),
    ];
    Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }
}

/// What can be told of one file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    what: String,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    xattr: Option<Vec<u8>>,
    /// The first name of the same file.
    twin: PathBuf,
}

fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut first = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let what = if kind.is_file() {
            format!("file {}", String::from_utf8_lossy(&std::fs::read(&path).unwrap()))
        } else if kind.is_symlink() {
            format!("link {}", path.read_link().unwrap().display())
        } else if kind.is_dir() {
            "directory".into()
        } else if kind.is_fifo() {
            "fifo".into()
        } else {
            format!("device {}", meta.rdev())
        };
        let mut value = [0; 32];
        let xattr =
            rustix::fs::lgetxattr(&path, c"user.test", &mut value[..]).ok().map(|len| value[..len].to_vec());
        let twin = if kind.is_dir() {
            name.clone()
        } else {
            first.entry(meta.ino()).or_insert(name.clone()).clone()
        };
        // The times of directories change with what the test itself does.
        let mtime = if kind.is_dir() { 0 } else { meta.mtime() };
        let owner = (meta.uid(), meta.gid());
        all.insert(name, Seen { what, mode: meta.mode(), owner, mtime, xattr, twin });
    }
    all
}

/// One thing done to a tree; what does not work there is left.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, u8, i64),
    Mkdir(usize),
    Symlink(usize, usize),
    Link(usize, usize),
    Remove(usize),
    Chmod(usize, u32),
    Chown(usize, u32),
    Xattr(usize, u8),
    Fifo(usize),
    Rename(usize, usize),
}

const PATHS: [&str; 10] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a", "a/a"];

fn step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    prop_oneof![
        4 => (path(), any::<u8>(), 1..5i64).prop_map(|(p, c, t)| Step::Write(p, c, t)),
        3 => path().prop_map(Step::Mkdir),
        1 => (path(), path()).prop_map(|(p, t)| Step::Symlink(p, t)),
        2 => (path(), path()).prop_map(|(p, t)| Step::Link(p, t)),
        2 => path().prop_map(Step::Remove),
        1 => (path(), prop_oneof![Just(0o700u32), Just(0o755), Just(0o1777), Just(0o2775), Just(0o4711)]).prop_map(|(p, m)| Step::Chmod(p, m)),
        1 => (path(), 0..3u32).prop_map(|(p, u)| Step::Chown(p, u)),
        1 => (path(), any::<u8>()).prop_map(|(p, v)| Step::Xattr(p, v)),
        1 => path().prop_map(Step::Fifo),
        1 => (path(), path()).prop_map(|(p, t)| Step::Rename(p, t)),
    ]
}

impl Step {
    fn run(&self, root: &Path) {
        let at = |n: &usize| root.join(PATHS[*n]);
        match self {
            Self::Write(p, content, time) => {
                if let Ok(meta) = at(p).symlink_metadata()
                    && !meta.is_file()
                {
                    return;
                }
                if std::fs::write(at(p), [*content; 3]).is_ok() {
                    let file = std::fs::File::options().write(true).open(at(p)).unwrap();
                    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(*time as u64))
                        .unwrap();
                }
            }
            Self::Mkdir(p) => drop(std::fs::create_dir(at(p))),
            Self::Symlink(p, t) => drop(symlink(PATHS[*t], at(p))),
            Self::Link(p, t) => drop(std::fs::hard_link(at(t), at(p))),
            Self::Remove(p) => drop(tree::remove_path(&at(p))),
            Self::Chmod(p, mode) => {
                if at(p).symlink_metadata().is_ok_and(|m| !m.is_symlink()) {
                    std::fs::set_permissions(at(p), std::fs::Permissions::from_mode(*mode)).unwrap();
                }
            }
            Self::Chown(p, id) => drop(std::os::unix::fs::lchown(at(p), Some(*id), Some(*id))),
            Self::Xattr(p, value) => {
                if at(p).symlink_metadata().is_ok_and(|m| m.is_file() || m.is_dir()) {
                    let _ = rustix::fs::lsetxattr(
                        at(p),
                        c"user.test",
                        &[*value],
                        rustix::fs::XattrFlags::empty(),
                    );
                }
            }
            Self::Fifo(p) => {
                let _ = rustix::fs::mknodat(
                    rustix::fs::CWD,
                    at(p),
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::from_raw_mode(0o640),
                    0,
                );
            }
            Self::Rename(p, t) => drop(std::fs::rename(at(p), at(t))),
        }
    }
}

/// Without which names are one file: a copy-up by overlayfs parts them and changes nothing else that could be seen.
fn seen_apart(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let each = seen(root).into_iter().map(|(name, seen)| (name.clone(), Seen { twin: name, ..seen }));
    each.collect()
}

/// Makes times whole, as a layer has them.
fn settle(root: &Path) {
    for (name, seen) in seen(root) {
        if !seen.what.starts_with("directory") {
            let time = rustix::fs::Timespec { tv_sec: seen.mtime, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            let at = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, root.join(name), &times, at).unwrap();
        }
    }
}

fn made(lower: &[Mount], upper: &[Mount], packing: Packing) -> Vec<u8> {
    let mut out = Vec::new();
    let applied = Trees::open(lower, upper).unwrap().write(packing, None, &mut out).unwrap();
    if packing == Packing::None {
        assert_eq!(applied.diff_id, windlass_core::Digest::of(&out));
    }
    out
}

fn applied(layer: &[u8], mounts: &[Mount]) {
    apply(&mut &layer[..], Compression::Detect, Limit::default(), &Target::open(mounts).unwrap()).unwrap();
}

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_layer_of_two_trees_turns_one_into_the_other(
        base in prop::collection::vec(step(), 0..25),
        change in prop::collection::vec(step(), 0..15),
    ) {
        let bed = Bed::new();
        let (lower, upper, copy) = (bed.make("lower"), bed.make("upper"), bed.make("copy"));
        for (tree, steps) in [(&lower, &base), (&copy, &base), (&upper, &base), (&upper, &change)] {
            steps.iter().for_each(|s| s.run(tree));
        }
        [&lower, &upper, &copy].into_iter().for_each(|t| settle(t));
        let layer = made(&[bind(&lower)], &[bind(&upper)], Packing::Gzip);
        applied(&layer, &[bind(&copy)]);
        prop_assert_eq!(seen(&copy), seen(&upper));
    }

    #[test]
    fn a_layer_of_an_overlay_gives_what_the_overlay_shows(
        base in prop::collection::vec(step(), 0..25),
        change in prop::collection::vec(step(), 0..15),
    ) {
        let bed = Bed::new();
        let lower = bed.make("lower");
        let (upper, work) = (bed.make("upper"), bed.make("work"));
        let (upper2, work2) = (bed.make("upper2"), bed.make("work2"));
        base.iter().for_each(|s| s.run(&lower));
        settle(&lower);
        let first = overlay(&upper, &work, &lower);
        let shown = mount::temp(std::slice::from_ref(&first)).unwrap();
        change.iter().for_each(|s| s.run(shown.path()));
        settle(shown.path());
        let want = seen_apart(shown.path());
        drop(shown);
        prop_assert!(upper_directory(&[bind(&lower)], std::slice::from_ref(&first)).is_some());
        let quick = made(&[bind(&lower)], std::slice::from_ref(&first), Packing::None);
        let slow = {
            let whole = mount::temp(std::slice::from_ref(&first)).unwrap();
            made(&[bind(&lower)], &[bind(whole.path())], Packing::None)
        };
        for layer in [quick, slow] {
            for directory in [&upper2, &work2] {
                tree::remove_path(directory).unwrap();
                std::fs::create_dir(directory).unwrap();
            }
            let second = overlay(&upper2, &work2, &lower);
            applied(&layer, std::slice::from_ref(&second));
            let shown = mount::temp(&[second]).unwrap();
            prop_assert_eq!(&seen_apart(shown.path()), &want);
        }
    }
}

#[test]
fn all_packings_hold_the_same_and_times_are_bounded() {
    let bed = Bed::new();
    let (upper, out) = (bed.make("upper"), bed.make("out"));
    std::fs::write(upper.join("f"), vec![b'x'; 1 << 20]).unwrap();
    for packing in [Packing::None, Packing::Gzip, Packing::Zstd] {
        applied(&made(&[], &[bind(&upper)], packing), &[bind(&out)]);
        assert_eq!(std::fs::read(out.join("f")).unwrap().len(), 1 << 20);
    }
    let mut layer = Vec::new();
    let epoch = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
    Trees::open(&[], &[bind(&upper)]).unwrap().write(Packing::None, Some(epoch), &mut layer).unwrap();
    applied(&layer, &[bind(&out)]);
    assert_eq!(out.join("f").metadata().unwrap().mtime(), 1000);
}

#[test]
fn sockets_are_left_out_and_the_same_trees_make_an_empty_layer() {
    let bed = Bed::new();
    let upper = bed.make("upper");
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    assert!(made(&[], &[bind(&upper)], Packing::None).iter().all(|b| *b == 0));
    std::fs::create_dir(upper.join("d")).unwrap();
    std::fs::write(upper.join("d/f"), "f").unwrap();
    assert!(made(&[bind(&upper)], &[bind(&upper)], Packing::None).iter().all(|b| *b == 0));
}
