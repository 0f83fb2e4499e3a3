//! What every [`Snapshotter`] must show. Mounts file systems: it runs as root.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::TryStreamExt;

use crate::content::Sync;
use crate::mount::{self, Mount};
use crate::snapshot::{CAPABILITY_REBASE, CommitOptions, Kind, Snapshotter};
use crate::{Class, Context, FieldMask, Filters, Labels, Result};

/// A snapshotter under test; the context's namespace must exist.
pub struct Env<'a> {
    pub snapshotter: &'a dyn Snapshotter,
    pub cx: Context,
}

/// Runs all cases. Must be called where it may block.
pub async fn run(env: &Env<'_>) {
    layers_stack(env).await;
    kinds_and_times(env).await;
    taken_names_and_bad_parents(env).await;
    parents_stay_while_they_have_children(env).await;
    views_cannot_be_written(env).await;
    labels_are_kept_and_changed(env).await;
    lists_are_filtered(env).await;
    usage_counts_the_layer_alone(env).await;
    deletions_show_through_layers(env).await;
    owners_and_modes_survive(env).await;
    files_move_between_layers(env).await;
    mounts_are_told_again(env).await;
    many_layers(env).await;
    cleanup_keeps_what_is_named(env).await;
    parallel_prepares_get_their_own(env).await;
    if env.snapshotter.capabilities().iter().any(|c| c == CAPABILITY_REBASE) {
        a_parent_may_come_at_the_end(env).await;
    }
}

fn class<T>(result: Result<T>) -> Class {
    result.err().expect("an error").class()
}

/// A name that no other case has.
fn fresh(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn options(labels: Labels) -> CommitOptions {
    CommitOptions { labels, sync: Sync::Caller, ..CommitOptions::default() }
}

/// Runs `work` where the mounts are mounted.
fn with(mounts: &[Mount], work: impl FnOnce(&Path)) {
    let temp = mount::temp(mounts).unwrap();
    work(temp.path());
}

impl Env<'_> {
    async fn prepare(&self, key: &str, parent: &str) -> Vec<Mount> {
        self.snapshotter.prepare(&self.cx, key, parent, Labels::new()).await.unwrap()
    }

    async fn view(&self, key: &str, parent: &str) -> Vec<Mount> {
        self.snapshotter.view(&self.cx, key, parent, Labels::new()).await.unwrap()
    }

    async fn commit(&self, name: &str, key: &str) {
        self.snapshotter.commit(&self.cx, name, key, options(Labels::new())).await.unwrap();
    }

    async fn remove(&self, key: &str) {
        self.snapshotter.remove(&self.cx, key).await.unwrap();
    }

    /// Commits a layer that `work` makes over `parent`; answers its name.
    async fn layer(&self, parent: &str, work: impl FnOnce(&Path)) -> String {
        let (key, name) = (fresh("key"), fresh("layer"));
        with(&self.prepare(&key, parent).await, work);
        self.commit(&name, &key).await;
        name
    }

    /// Removes layers, the uppermost first.
    async fn clean(&self, names: &[String]) {
        for name in names {
            self.remove(name).await;
        }
    }

    /// The files that a snapshot shows, with what is in them.
    async fn files(&self, name: &str) -> BTreeMap<String, String> {
        let key = fresh("look");
        let mut files = BTreeMap::new();
        with(&self.view(&key, name).await, |root| collect(root, root, &mut files));
        self.remove(&key).await;
        files
    }
}

fn collect(root: &Path, at: &Path, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels(pairs)
}

fn write(path: impl AsRef<Path>, content: &str) {
    std::fs::write(path, content).unwrap();
}

async fn layers_stack(env: &Env<'_>) {
    let base = env
        .layer("", |root| {
            write(root.join("foo"), "foo\n");
            std::fs::create_dir_all(root.join("a/b")).unwrap();
        })
        .await;
    let next = env
        .layer(&base, |root| {
            assert_eq!(std::fs::read_to_string(root.join("foo")).unwrap(), "foo\n");
            write(root.join("bar"), "bar\n");
            write(root.join("a/b/deep"), "deep");
        })
        .await;
    let top = env.layer(&next, |root| write(root.join("foo"), "changed")).await;
    assert_eq!(env.files(&base).await, files(&[("foo", "foo\n")]));
    assert_eq!(env.files(&next).await, files(&[("foo", "foo\n"), ("bar", "bar\n"), ("a/b/deep", "deep")]));
    assert_eq!(env.files(&top).await, files(&[("foo", "changed"), ("bar", "bar\n"), ("a/b/deep", "deep")]));
    env.clean(&[top, next, base]).await;
}

async fn kinds_and_times(env: &Env<'_>) {
    let (key, view, name) = (fresh("active"), fresh("view"), fresh("committed"));
    let wanted = labels(&[("containerd.io/snapshot/test", "yes")]);
    env.snapshotter.prepare(&env.cx, &key, "", wanted.clone()).await.unwrap();
    let active = env.snapshotter.stat(&env.cx, &key).await.unwrap();
    assert_eq!((active.kind, active.name.as_str(), active.parent.as_str()), (Kind::Active, key.as_str(), ""));
    for (key, value) in &wanted {
        assert_eq!(active.labels.get(key), Some(value));
    }
    assert_eq!(active.created_at, active.updated_at);
    env.snapshotter.commit(&env.cx, &name, &key, options(labels(&[("other", "label")]))).await.unwrap();
    let committed = env.snapshotter.stat(&env.cx, &name).await.unwrap();
    assert_eq!((committed.kind, committed.name.as_str()), (Kind::Committed, name.as_str()));
    assert_eq!(committed.labels.get("other").map(String::as_str), Some("label"));
    assert!(committed.created_at >= active.created_at);
    assert_eq!(class(env.snapshotter.stat(&env.cx, &key).await), Class::NotFound);
    env.view(&view, &name).await;
    let seen = env.snapshotter.stat(&env.cx, &view).await.unwrap();
    assert_eq!((seen.kind, seen.parent.as_str()), (Kind::View, name.as_str()));
    env.clean(&[view, name]).await;
}

async fn taken_names_and_bad_parents(env: &Env<'_>) {
    let s = env.snapshotter;
    let none = Labels::new;
    let (active, name, other) = (fresh("active"), fresh("name"), fresh("other"));
    env.prepare(&active, "").await;
    assert_eq!(class(s.prepare(&env.cx, &active, "", none()).await), Class::AlreadyExists);
    assert_eq!(class(s.view(&env.cx, &active, "", none()).await), Class::AlreadyExists);
    assert_eq!(class(s.prepare(&env.cx, &other, "no-such-parent", none()).await), Class::NotFound);
    assert_eq!(class(s.view(&env.cx, &other, "no-such-parent", none()).await), Class::NotFound);
    let over_active = class(s.prepare(&env.cx, &other, &active, none()).await);
    assert!(matches!(over_active, Class::InvalidArgument | Class::FailedPrecondition), "{over_active:?}");
    assert_eq!(class(s.commit(&env.cx, &name, &other, options(none())).await), Class::NotFound);
    env.commit(&name, &active).await;
    assert_eq!(class(s.commit(&env.cx, &other, &active, options(none())).await), Class::NotFound);
    env.prepare(&active, "").await;
    assert_eq!(class(s.commit(&env.cx, &name, &active, options(none())).await), Class::AlreadyExists);
    env.view(&other, &name).await;
    assert_eq!(
        class(s.commit(&env.cx, &fresh("x"), &other, options(none())).await),
        Class::FailedPrecondition
    );
    assert_eq!(class(s.mounts(&env.cx, &name).await), Class::FailedPrecondition);
    for missing in [class(s.mounts(&env.cx, "no-such").await), class(s.remove(&env.cx, "no-such").await)] {
        assert_eq!(missing, Class::NotFound);
    }
    assert_eq!(class(s.usage(&env.cx, "no-such").await), Class::NotFound);
    env.clean(&[other, active, name]).await;
}

async fn parents_stay_while_they_have_children(env: &Env<'_>) {
    let base = env.layer("", |_| {}).await;
    let next = env.layer(&base, |_| {}).await;
    let key = fresh("child");
    env.prepare(&key, &next).await;
    for parent in [&base, &next] {
        assert_eq!(class(env.snapshotter.remove(&env.cx, parent).await), Class::FailedPrecondition);
    }
    env.remove(&key).await;
    env.clean(&[next, base.clone()]).await;
    assert_eq!(class(env.snapshotter.stat(&env.cx, &base).await), Class::NotFound);
}

async fn views_cannot_be_written(env: &Env<'_>) {
    let base = env.layer("", |root| write(root.join("f"), "x")).await;
    let next = env.layer(&base, |root| write(root.join("g"), "x")).await;
    for parent in ["", base.as_str(), next.as_str()] {
        let key = fresh("view");
        let mounts = env.view(&key, parent).await;
        with(&mounts, |root| {
            let error = std::fs::write(root.join("new"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "over {parent:?}");
        });
        env.remove(&key).await;
    }
    env.clean(&[next, base]).await;
}

async fn labels_are_kept_and_changed(env: &Env<'_>) {
    let (key, name) = (fresh("key"), fresh("labels"));
    env.prepare(&key, "").await;
    env.snapshotter.commit(&env.cx, &name, &key, options(labels(&[("a", "1"), ("b", "2")]))).await.unwrap();
    let mut info = env.snapshotter.stat(&env.cx, &name).await.unwrap();
    info.labels = labels(&[("a", "changed"), ("c", "not asked for")]);
    let updated = env.snapshotter.update(&env.cx, info.clone(), &FieldMask::of(&["labels.a"])).await.unwrap();
    assert_eq!(updated.labels.get("a").map(String::as_str), Some("changed"));
    assert_eq!(updated.labels.get("b").map(String::as_str), Some("2"));
    assert!(!updated.labels.contains_key("c"));
    assert!(updated.updated_at >= info.updated_at);
    assert_eq!(updated.created_at, info.created_at);
    info.labels = labels(&[("only", "one")]);
    let updated = env.snapshotter.update(&env.cx, info.clone(), &FieldMask::of(&["labels"])).await.unwrap();
    assert_eq!(updated.labels, info.labels);
    let refused = env.snapshotter.update(&env.cx, info.clone(), &FieldMask::of(&["parent"])).await;
    assert_eq!(class(refused), Class::InvalidArgument);
    info.name = "no-such".into();
    assert_eq!(class(env.snapshotter.update(&env.cx, info, &FieldMask::all()).await), Class::NotFound);
    env.remove(&name).await;
}

async fn lists_are_filtered(env: &Env<'_>) {
    let base = env.layer("", |_| {}).await;
    let (active, view) = (fresh("active"), fresh("view"));
    env.prepare(&active, &base).await;
    env.view(&view, &base).await;
    let names = async |filters: &[String]| {
        let filters = Filters::parse(filters).unwrap();
        let found: Vec<_> = env.snapshotter.list(&env.cx, &filters).try_collect().await.unwrap();
        let mut names: Vec<String> = found.into_iter().map(|i| i.name).collect();
        names.sort();
        names
    };
    let mut all = vec![active.clone(), base.clone(), view.clone()];
    all.sort();
    assert_eq!(names(&[]).await, all);
    assert_eq!(names(&["kind==active".into()]).await, std::slice::from_ref(&active));
    assert_eq!(names(&["kind==view".into(), "kind==committed".into()]).await, [base.clone(), view.clone()]);
    assert_eq!(names(&[format!("parent=={base},kind==view")]).await, std::slice::from_ref(&view));
    assert_eq!(names(&[format!("name=={base}")]).await, std::slice::from_ref(&base));
    env.clean(&[active, view, base]).await;
}

async fn usage_counts_the_layer_alone(env: &Env<'_>) {
    let key = fresh("usage");
    let mounts = env.prepare(&key, "").await;
    let empty = env.snapshotter.usage(&env.cx, &key).await.unwrap();
    assert_eq!(empty.inodes, 1, "the root itself");
    with(&mounts, |root| {
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), vec![7; 100_000]).unwrap();
        std::fs::hard_link(root.join("d/f"), root.join("twin")).unwrap();
    });
    let full = env.snapshotter.usage(&env.cx, &key).await.unwrap();
    assert_eq!(full.inodes, 3);
    assert!(full.size >= empty.size + 100_000, "{full:?} after {empty:?}");
    let base = fresh("base");
    env.commit(&base, &key).await;
    assert_eq!(env.snapshotter.usage(&env.cx, &base).await.unwrap(), full);
    env.remove(&base).await;
}

async fn deletions_show_through_layers(env: &Env<'_>) {
    let base = env
        .layer("", |root| {
            std::fs::create_dir_all(root.join("dir1/sub")).unwrap();
            write(root.join("dir1/f1"), "1");
            write(root.join("dir1/sub/f2"), "2");
            write(root.join("gone"), "x");
        })
        .await;
    let next = env
        .layer(&base, |root| {
            std::fs::remove_file(root.join("gone")).unwrap();
            std::fs::remove_dir_all(root.join("dir1")).unwrap();
        })
        .await;
    // The same name again: what was in it before stays gone.
    let again = env
        .layer(&next, |root| {
            std::fs::create_dir(root.join("dir1")).unwrap();
            write(root.join("dir1/new"), "new");
        })
        .await;
    assert!(env.files(&next).await.is_empty());
    assert_eq!(env.files(&again).await, files(&[("dir1/new", "new")]));
    assert_eq!(env.files(&base).await.len(), 3);
    env.clean(&[again, next, base]).await;
}

async fn owners_and_modes_survive(env: &Env<'_>) {
    let base = env
        .layer("", |root| {
            std::fs::create_dir(root.join("d")).unwrap();
            std::os::unix::fs::chown(root.join("d"), Some(1), Some(2)).unwrap();
            std::fs::set_permissions(root.join("d"), std::fs::Permissions::from_mode(0o2771)).unwrap();
            std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o751)).unwrap();
            std::os::unix::fs::chown(root, Some(0), Some(7)).unwrap();
        })
        .await;
    let next =
        env.layer(&base, |root| std::os::unix::fs::chown(root.join("d"), Some(3), Some(4)).unwrap()).await;
    let key = fresh("look");
    with(&env.view(&key, &next).await, |root| {
        let meta = std::fs::metadata(root.join("d")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (3, 4, 0o2771));
    });
    env.remove(&key).await;
    let key = fresh("look");
    with(&env.prepare(&key, &base).await, |root| {
        let meta = std::fs::metadata(root.join("d")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1, 2));
        assert_eq!(std::fs::metadata(root).unwrap().gid(), 7, "a new root belongs to whom its parent's does");
    });
    env.clean(&[key, next, base]).await;
    // A root is open to all, whatever mask this process has.
    let key = fresh("root");
    with(&env.prepare(&key, "").await, |root| {
        assert_eq!(std::fs::metadata(root).unwrap().mode() & 0o7777, 0o755);
    });
    env.remove(&key).await;
}

async fn files_move_between_layers(env: &Env<'_>) {
    let base = env
        .layer("", |root| {
            std::fs::create_dir(root.join("d1")).unwrap();
            write(root.join("d1/f"), "f");
            write(root.join("top"), "top");
        })
        .await;
    let next = env
        .layer(&base, |root| {
            std::fs::rename(root.join("d1/f"), root.join("moved")).unwrap();
            std::fs::rename(root.join("top"), root.join("d1/top")).unwrap();
        })
        .await;
    assert_eq!(env.files(&next).await, files(&[("moved", "f"), ("d1/top", "top")]));
    env.clean(&[next, base]).await;
}

async fn mounts_are_told_again(env: &Env<'_>) {
    let base = env.layer("", |_| {}).await;
    let (active, view) = (fresh("active"), fresh("view"));
    let first = env.prepare(&active, &base).await;
    assert_eq!(env.snapshotter.mounts(&env.cx, &active).await.unwrap(), first);
    let first = env.view(&view, &base).await;
    assert_eq!(env.snapshotter.mounts(&env.cx, &view).await.unwrap(), first);
    env.clean(&[active, view, base]).await;
}

async fn many_layers(env: &Env<'_>) {
    let mut names: Vec<String> = Vec::new();
    for n in 0..128 {
        let parent = names.last().cloned().unwrap_or_default();
        names.push(env.layer(&parent, |root| write(root.join(format!("f{n}")), "x")).await);
    }
    assert_eq!(env.files(&names[127]).await.len(), 128);
    names.reverse();
    env.clean(&names).await;
    env.snapshotter.cleanup(&env.cx).await.unwrap();
}

async fn cleanup_keeps_what_is_named(env: &Env<'_>) {
    let base = env.layer("", |root| write(root.join("f"), "x")).await;
    let gone = env.layer("", |root| write(root.join("f"), "x")).await;
    let key = fresh("active");
    let mounts = env.prepare(&key, &base).await;
    env.remove(&gone).await;
    env.snapshotter.cleanup(&env.cx).await.unwrap();
    with(&mounts, |root| write(root.join("g"), "y"));
    assert_eq!(env.files(&base).await, files(&[("f", "x")]));
    // A removed name is free again at once.
    env.prepare(&gone, "").await;
    env.clean(&[key, gone, base]).await;
}

async fn parallel_prepares_get_their_own(env: &Env<'_>) {
    let base = env.layer("", |_| {}).await;
    let keys: Vec<String> = (0..20).map(|_| fresh("parallel")).collect();
    let all = keys.iter().map(|key| env.snapshotter.prepare(&env.cx, key, &base, Labels::new()));
    let cleanup = env.snapshotter.cleanup(&env.cx);
    let (mounts, swept) = futures::future::join(futures::future::join_all(all), cleanup).await;
    swept.unwrap();
    for (n, mounts) in mounts.into_iter().enumerate() {
        with(&mounts.unwrap(), |root| {
            assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
            write(root.join(n.to_string()), "");
        });
    }
    // Of several who want the same key one gets it.
    let same = fresh("same");
    let all = (0..8).map(|_| env.snapshotter.prepare(&env.cx, &same, &base, Labels::new()));
    let got = futures::future::join_all(all).await;
    assert_eq!(got.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(got.into_iter().filter_map(Result::err).all(|e| e.is(Class::AlreadyExists)));
    env.clean(&keys).await;
    env.clean(&[same, base]).await;
}

async fn a_parent_may_come_at_the_end(env: &Env<'_>) {
    let base = env.layer("", |root| write(root.join("base"), "b")).await;
    let (key, name) = (fresh("rebase"), fresh("rebased"));
    with(&env.prepare(&key, "").await, |root| write(root.join("top"), "t"));
    let parent = |name: &str| CommitOptions { parent: Some(name.to_owned()), ..options(Labels::new()) };
    let missing = env.snapshotter.commit(&env.cx, &name, &key, parent("no-such-parent")).await;
    assert_eq!(class(missing), Class::NotFound);
    env.snapshotter.commit(&env.cx, &name, &key, parent(&base)).await.unwrap();
    assert_eq!(env.snapshotter.stat(&env.cx, &name).await.unwrap().parent, base);
    assert_eq!(env.files(&name).await, files(&[("base", "b"), ("top", "t")]));
    assert_eq!(class(env.snapshotter.remove(&env.cx, &base).await), Class::FailedPrecondition);
    env.prepare(&key, &name).await;
    let changed = env.snapshotter.commit(&env.cx, &fresh("x"), &key, parent(&base)).await;
    assert_eq!(class(changed), Class::InvalidArgument);
    env.clean(&[key, name, base]).await;
}
