//! Layers as they should be, and hostile ones.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fd::AsFd;
use windlass_core::Digest;
use windlass_core::mount::{self, Mount};
use windlass_core::snapshot::XATTR_IMPLIED;

use super::*;
use crate::tar::{Entry, Kind, Time, Writer};

/// A root with a directory beside it that must stay as it is.
struct Bed {
    _dir: tempfile::TempDir,
    root: PathBuf,
    outside: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        std::fs::set_permissions(outside.join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { _dir: dir, root, outside }
    }

    fn bind(&self) -> Vec<Mount> {
        let options = vec!["rbind".into(), "rw".into()];
        vec![Mount { kind: "bind".into(), source: text(&self.root), target: String::new(), options }]
    }

    fn apply(&self, tar: &[u8]) -> Result<Applied> {
        to(tar, &self.bind())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn meta(&self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn exists(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.at(path)).is_ok()
    }

    /// Nothing came or went outside, and nothing there was changed.
    fn outside_is_untouched(&self) {
        let names: Vec<_> =
            std::fs::read_dir(&self.outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(std::fs::read_to_string(self.outside.join("secret")).unwrap(), "secret");
        let meta = std::fs::metadata(self.outside.join("secret")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.nlink()), (0o600, 0, 1));
        let beside = std::fs::read_dir(self.root.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 2, "something was made beside the root");
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn to(tar: &[u8], mounts: &[Mount]) -> Result<Applied> {
    apply(&mut &tar[..], Compression::Detect, Limit::default(), &Target::open(mounts)?)
}

struct Layer(Writer<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Writer::new(Vec::new()))
    }

    fn entry(mut self, entry: Entry, data: &str) -> Self {
        self.0.header(&Entry { size: data.len() as u64, ..entry }).unwrap();
        self.0.data(data.as_bytes()).unwrap();
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.entry(Entry { name: name.into(), mode: 0o644, ..Entry::empty() }, data)
    }

    fn dir(self, name: &str) -> Self {
        self.entry(Entry { kind: Kind::Directory, name: name.into(), mode: 0o755, ..Entry::empty() }, "")
    }

    fn symlink(self, name: &str, link: &str) -> Self {
        self.entry(
            Entry {
                kind: Kind::Symlink,
                name: name.into(),
                link: link.into(),
                mode: 0o777,
                ..Entry::empty()
            },
            "",
        )
    }

    fn hard_link(self, name: &str, link: &str) -> Self {
        self.entry(
            Entry {
                kind: Kind::HardLink,
                name: name.into(),
                link: link.into(),
                mode: 0o777,
                ..Entry::empty()
            },
            "",
        )
    }

    fn tar(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

#[test]
fn everything_that_a_layer_holds_arrives() {
    let bed = Bed::new();
    let time = Time { seconds: 1_600_000_000, nanos: 500_000_000 };
    let base = Entry { mtime: time, mode: 0o644, ..Entry::empty() };
    let owned = Entry { name: b"dir/owned".to_vec(), uid: 1000, gid: 2000, mode: 0o4750, ..base.clone() };
    let xattrs = vec![
        (b"user.one".to_vec(), b"1".to_vec()),
        (b"security.capability".to_vec(), b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
    ];
    let tar = Layer::new()
        .entry(
            Entry { kind: Kind::Directory, name: b"dir/".to_vec(), mode: 0o2711, gid: 5, ..base.clone() },
            "",
        )
        .entry(owned, "data")
        .entry(Entry { name: b"dir/capable".to_vec(), xattrs, uid: 7, ..base.clone() }, "x")
        .symlink("dir/link", "owned")
        .hard_link("hard", "dir/owned")
        .entry(Entry { kind: Kind::Fifo, name: b"fifo".to_vec(), mode: 0o600, ..base.clone() }, "")
        .entry(
            Entry { kind: Kind::Char, name: b"null".to_vec(), device: (1, 3), mode: 0o666, ..base.clone() },
            "",
        )
        .file("no/such/parent/file", "deep")
        .tar();
    let applied = bed.apply(&tar).unwrap();
    assert_eq!(applied, Applied { diff_id: Digest::of(&tar), size: tar.len() as u64 });
    let dir = bed.meta("dir");
    assert_eq!(
        (dir.mode() & 0o7777, dir.gid(), dir.mtime(), dir.mtime_nsec()),
        (0o2711, 5, time.seconds, 500_000_000)
    );
    assert_eq!(bed.read("dir/link"), "data");
    assert_eq!(bed.meta("hard").ino(), bed.meta("dir/owned").ino());
    // The link's header said otherwise, and came last.
    assert_eq!((bed.meta("hard").uid(), bed.meta("hard").mode() & 0o7777), (0, 0o777));
    assert!(bed.meta("fifo").file_type().is_fifo());
    assert_eq!(bed.meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(bed.meta("null").mode() & 0o7777, 0o666);
    assert_eq!(bed.read("no/such/parent/file"), "deep");
    assert_eq!(bed.meta("no/such").mode() & 0o7777, 0o755);
    let mut value = [0; 64];
    assert_eq!(
        rustix::fs::getxattr(bed.at("dir/capable"), c"security.capability", &mut value[..]).unwrap(),
        20
    );
    assert_eq!(bed.meta("dir/capable").uid(), 7);
    assert_eq!(bed.meta("dir/capable").gid(), 0, "a set-group-id directory hands nothing on");
}

#[test]
fn modes_do_not_depend_on_the_process() {
    let bed = Bed::new();
    let entry = |name: &str, mode| Entry { name: name.into(), mode, ..Entry::empty() };
    let directory = Entry { kind: Kind::Directory, ..entry("sticky", 0o1777) };
    let tar = Layer::new()
        .entry(entry("open", 0o666), "")
        .entry(entry("setuid", 0o4755), "")
        .entry(directory, "")
        .tar();
    bed.apply(&tar).unwrap();
    for (name, mode) in [("open", 0o666), ("setuid", 0o4755), ("sticky", 0o1777)] {
        assert_eq!(bed.meta(name).mode() & 0o7777, mode, "{name}");
    }
}

#[test]
fn later_members_replace_earlier_ones() {
    let bed = Bed::new();
    let first =
        Layer::new().file("a", "old").dir("d").file("d/x", "x").symlink("s", "d").file("kept/f", "f").tar();
    bed.apply(&first).unwrap();
    let second = Layer::new().dir("a").file("d", "now a file").file("s", "no link").dir("kept").tar();
    bed.apply(&second).unwrap();
    assert!(bed.meta("a").is_dir());
    assert_eq!(bed.read("d"), "now a file");
    assert!(bed.meta("s").is_file());
    assert_eq!(bed.read("kept/f"), "f");
}

#[test]
fn whiteouts_delete() {
    let bed = Bed::new();
    let base = Layer::new()
        .file("a", "")
        .file("d/x", "")
        .file("d/y", "")
        .file("o/old", "")
        .file("o/sub/old", "")
        .tar();
    bed.apply(&base).unwrap();
    let layer = Layer::new()
        .file(".wh.a", "")
        .file("d/.wh.x", "")
        .file("o/new", "new")
        .file("o/sub/new", "new")
        .file("o/.wh..wh..opq", "")
        .file("o/later", "later")
        .file(".wh..wh.plnk", "")
        .file(".wh.nothing", "")
        .tar();
    bed.apply(&layer).unwrap();
    for gone in ["a", "d/x", "o/old", "o/sub/old", ".wh.a", "o/.wh..wh..opq", ".wh..wh.plnk"] {
        assert!(!bed.exists(gone), "{gone}");
    }
    for there in ["d/y", "o/new", "o/sub/new", "o/later"] {
        assert!(bed.exists(there), "{there}");
    }
}

#[test]
fn an_overlay_gets_its_own_marks_and_shows_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (lower, upper, work) = (make("lower"), make("upper"), make("work"));
    std::fs::create_dir_all(lower.join("o/sub")).unwrap();
    std::fs::create_dir_all(lower.join("again/old")).unwrap();
    std::fs::create_dir(lower.join("private")).unwrap();
    std::fs::set_permissions(lower.join("private"), std::fs::Permissions::from_mode(0o710)).unwrap();
    std::os::unix::fs::chown(lower.join("private"), Some(11), Some(12)).unwrap();
    for file in ["a", "o/old", "o/sub/old", "again/old/x", "kept"] {
        std::fs::write(lower.join(file), "lower").unwrap();
    }
    let layer = Layer::new()
        .file(".wh.a", "")
        .file("o/.wh..wh..opq", "")
        .file("o/new", "new")
        .file(".wh.again", "")
        .dir("again")
        .file("again/new", "new")
        .file("private/file", "f")
        .tar();
    let options = vec![
        format!("workdir={}", text(&work)),
        format!("upperdir={}", text(&upper)),
        format!("lowerdir={}", text(&lower)),
    ];
    let mounts = [Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }];
    to(&layer, &mounts).unwrap();
    let seen = mount::temp(&mounts).unwrap();
    let exists = |path: &str| std::fs::symlink_metadata(seen.path().join(path)).is_ok();
    for gone in ["a", "o/old", "o/sub", "again/old"] {
        assert!(!exists(gone), "{gone}");
    }
    for there in ["o/new", "again/new", "private/file", "kept"] {
        assert!(exists(there), "{there}");
    }
    let private = std::fs::metadata(seen.path().join("private")).unwrap();
    assert_eq!((private.mode() & 0o7777, private.uid(), private.gid()), (0o710, 11, 12));
}

#[test]
fn a_layer_without_a_parent_marks_what_it_does_not_name() {
    let bed = Bed::new();
    let options = vec![format!("upperdir={}", text(&bed.root))];
    let mounts = [Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }];
    to(&Layer::new().dir("named").file("named/implied/f", "").tar(), &mounts).unwrap();
    let marked = |path: &str| rustix::fs::getxattr(bed.at(path), XATTR_IMPLIED, &mut [0u8; 8][..]).is_ok();
    assert!(marked("") && marked("named/implied") && !marked("named"));
    // Named later after all.
    to(&Layer::new().file("late/f", "").dir("late/").tar(), &mounts).unwrap();
    assert!(!marked("late"));
}

#[test]
fn names_that_lead_outside_stay_inside() {
    let bed = Bed::new();
    let outside = text(&bed.outside);
    let tar = Layer::new()
        .file("/absolute", "x")
        .file("../../above", "x")
        .file("a/../../../b", "x")
        .symlink("link", &outside)
        .file("link/through", "x")
        .symlink("up", "../outside")
        .file("up/through", "x")
        .file("up/.wh.secret", "")
        .file("link/.wh..wh..opq", "")
        .symlink("file", &format!("{outside}/secret"))
        .file("file", "replaced")
        .symlink("directory", &outside)
        .entry(
            Entry { kind: Kind::Directory, name: b"directory".to_vec(), mode: 0o777, ..Entry::empty() },
            "",
        )
        .tar();
    bed.apply(&tar).unwrap();
    bed.outside_is_untouched();
    assert_eq!(bed.read("absolute"), "x");
    assert_eq!(bed.read("above"), "x");
    assert_eq!(bed.read("b"), "x");
    assert_eq!(bed.read("file"), "replaced");
    assert!(bed.meta("directory").is_dir());
    assert!(
        bed.at(outside.trim_start_matches('/')).join("through").exists(),
        "links are resolved under the root"
    );
}

#[test]
fn links_do_not_reach_outside() {
    let bed = Bed::new();
    let secret = text(&bed.outside.join("secret"));
    // By its name, through a link to its directory, and by a link itself: the last is a name for the link.
    assert!(bed.apply(&Layer::new().hard_link("h", &secret).tar()).is_err());
    assert!(bed.apply(&Layer::new().hard_link("h", "../outside/secret").tar()).is_err());
    let through = Layer::new().symlink("l", &text(&bed.outside)).hard_link("h", "l/secret").tar();
    assert!(bed.apply(&through).is_err());
    let of_link = Layer::new()
        .symlink("l", &secret)
        .entry(
            Entry {
                kind: Kind::HardLink,
                name: b"h".to_vec(),
                link: b"l".to_vec(),
                mode: 0o777,
                uid: 99,
                ..Entry::empty()
            },
            "",
        )
        .tar();
    bed.apply(&of_link).unwrap();
    assert!(bed.meta("h").is_symlink());
    assert!(bed.apply(&Layer::new().hard_link("x", "x").tar()).is_err());
    assert!(bed.apply(&Layer::new().symlink("x", "").tar()).is_err());
    bed.outside_is_untouched();
}

#[test]
fn a_link_that_points_at_itself_is_refused() {
    let bed = Bed::new();
    assert!(bed.apply(&Layer::new().symlink("loop", "loop").file("loop/x", "").tar()).is_err());
    assert!(bed.apply(&Layer::new().symlink("p", "q").symlink("q", "p").file("p/x", "").tar()).is_err());
    let chain = (0..60).fold(Layer::new(), |l, n| l.symlink(&format!("c{n}"), &format!("c{}", n + 1)));
    assert!(bed.apply(&chain.file("c0/x", "").tar()).is_err());
    // One that leads to what is not there yet makes it, as elsewhere in the field.
    bed.apply(&Layer::new().symlink("var", "/data/var").file("var/x", "x").tar()).unwrap();
    assert_eq!(bed.read("data/var/x"), "x");
}

#[test]
fn whiteouts_that_name_nothing_are_refused() {
    for name in [".wh.", "d/.wh..", "d/.wh..."] {
        let bed = Bed::new();
        bed.apply(&Layer::new().file("d/kept", "").tar()).unwrap();
        assert!(bed.apply(&Layer::new().file(name, "").tar()).is_err(), "{name}");
        assert!(bed.exists("d/kept"));
    }
}

#[test]
fn the_marks_of_overlayfs_cannot_come_from_an_archive() {
    let bed = Bed::new();
    let names: [&[u8]; 4] =
        [b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"user.overlay.opaque", b"user.mine"];
    let xattrs = names.iter().map(|n| (n.to_vec(), b"y".to_vec())).collect();
    let entry = Entry { kind: Kind::Directory, name: b"d".to_vec(), mode: 0o755, xattrs, ..Entry::empty() };
    let options = vec![format!("upperdir={}", text(&bed.root)), "userxattr".into()];
    let mounts = [Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }];
    to(&Layer::new().entry(entry, "").tar(), &mounts).unwrap();
    let root = tree::open_dir(&bed.root).unwrap();
    let place = crate::xattr::path_of(root.as_fd(), b"d");
    let found = crate::xattr::list(&place).unwrap();
    assert!(found.contains(&c"user.mine".to_owned()), "{found:?}");
    assert!(!found.iter().any(|n| n.to_bytes().windows(7).any(|w| w == b"overlay")), "{found:?}");
}

#[test]
fn read_only_and_missing_mounts_are_refused() {
    let bed = Bed::new();
    let mut mounts = bed.bind();
    mounts[0].options = vec!["rbind".into(), "ro".into()];
    assert!(to(&Layer::new().file("a", "").tar(), &mounts).is_err());
    assert!(to(&Layer::new().file("a", "").tar(), &[]).is_err());
    assert!(!bed.exists("a"));
}

#[test]
fn what_follows_the_end_is_hashed() {
    let bed = Bed::new();
    let mut tar = Layer::new().file("a", "a").tar();
    tar.extend_from_slice(&[0; 10240]);
    tar.extend_from_slice(b"whatever");
    assert_eq!(bed.apply(&tar).unwrap().diff_id, Digest::of(&tar));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&tar).unwrap();
    assert_eq!(bed.apply(&packed.finish().unwrap()).unwrap().diff_id, Digest::of(&tar));
}

#[test]
fn broken_layers_say_why() {
    let bed = Bed::new();
    let whole = Layer::new().file("a", &"x".repeat(2000)).tar();
    for cut in [1, 511, 513, 600, 2000] {
        let error = windlass_core::Error::from(bed.apply(&whole[..cut]).unwrap_err());
        assert!(error.chain().contains("tar"), "{cut}: {}", error.chain());
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&whole).unwrap();
    let packed = packed.finish().unwrap();
    let error = windlass_core::Error::from(bed.apply(&packed[..packed.len() - 3]).unwrap_err());
    assert!(error.chain().contains("read layer"), "{}", error.chain());
}

#[test]
fn a_bomb_is_stopped() {
    let bed = Bed::new();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut layer = Writer::new(&mut packed);
    layer.header(&Entry { name: b"zeros".to_vec(), size: 64 << 20, mode: 0o644, ..Entry::empty() }).unwrap();
    for _ in 0..64 {
        layer.data(&vec![0; 1 << 20]).unwrap();
    }
    layer.finish().unwrap();
    let packed = packed.finish().unwrap();
    let limit = Limit { ratio: 100, free: 8 << 20 };
    let target = Target::open(&bed.bind()).unwrap();
    let error = apply(&mut &packed[..], Compression::Detect, limit, &target).unwrap_err();
    let error = windlass_core::Error::from(error);
    assert!(error.is(windlass_core::Class::ResourceExhausted), "{}", error.chain());
    assert!(bed.meta("zeros").size() < 32 << 20);
}

#[test]
fn the_deepest_path_is_applied_and_a_longer_one_refused() {
    let bed = Bed::new();
    let deep = format!("{}f", "d/".repeat(2000));
    bed.apply(&Layer::new().file(&deep, "x").tar()).unwrap();
    assert!(bed.apply(&Layer::new().file(&"d/".repeat(2100), "x").tar()).is_err());
    assert!(bed.apply(&Layer::new().file(&"n".repeat(300), "x").tar()).is_err());
    tree::remove_path(&bed.at("d")).unwrap();
}

#[test]
fn names_of_directories_in_a_changing_tree_are_found_again() {
    let bed = Bed::new();
    symlink("one", bed.at("link")).unwrap();
    let layer = Layer::new()
        .dir("one")
        .dir("two")
        .file("link/first", "1")
        .symlink("link", "two")
        .file("link/second", "2")
        .tar();
    bed.apply(&layer).unwrap();
    assert_eq!(bed.read("one/first"), "1");
    assert_eq!(bed.read("two/second"), "2");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever bytes come: no panic, and nothing outside.
    #[test]
    fn damaged_archives_do_no_harm(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let bed = Bed::new();
        let outside = text(&bed.outside);
        let mut tar = Layer::new()
            .dir("d")
            .symlink("d/l", &outside)
            .entry(Entry { name: vec![b'n'; 300], mode: 0o644, uid: 3_000_000, ..Entry::empty() }, "data")
            .hard_link("h", "d/l")
            .file("d/.wh.x", "")
            .file("d/l/x", "")
            .tar();
        for (at, value) in flips {
            let at = at.index(tar.len());
            tar[at] = value;
            // A right checksum lets the damage through to what comes after it.
            let block = at / 512 * 512;
            let sum: u32 = tar[block..block + 512].iter().enumerate()
                .map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) }).sum();
            tar[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = bed.apply(&tar);
        bed.outside_is_untouched();
    }
}
