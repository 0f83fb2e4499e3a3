//! Annotations: those that tell a runtime what it runs, those that configuration lets through, and the classes that
//! some of them ask for.

use std::collections::BTreeMap;

use windlass_api::cri;

use crate::classes::Origin;

type Labels = BTreeMap<String, String>;

/// What a specification is for.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    Sandbox { image: &'a str },
    Container { name: &'a str, image: &'a str },
}

/// `io.kubernetes.cri.*`, the names by which runtimes and tools know containerd's pods.
pub fn annotations(sandbox: &str, config: &cri::PodSandboxConfig, subject: Subject<'_>) -> Labels {
    let mut all = Labels::new();
    let mut set = |key: &str, value: &str| {
        all.insert(format!("io.kubernetes.cri.{key}"), value.to_owned());
    };
    set("sandbox-id", sandbox);
    let metadata = config.metadata.as_ref();
    set("sandbox-namespace", metadata.map_or("", |m| &m.namespace));
    set("sandbox-uid", metadata.map_or("", |m| &m.uid));
    set("sandbox-name", metadata.map_or("", |m| &m.name));
    match subject {
        Subject::Sandbox { image } => {
            set("container-type", "sandbox");
            set("sandbox-log-directory", &config.log_directory);
            set("podsandbox.image-name", image);
            if let Some(resources) = config.linux.as_ref().and_then(|l| l.resources.as_ref()) {
                set("sandbox-cpu-period", &resources.cpu_period.to_string());
                set("sandbox-cpu-quota", &resources.cpu_quota.to_string());
                set("sandbox-cpu-shares", &resources.cpu_shares.to_string());
                set("sandbox-memory", &resources.memory_limit_in_bytes.to_string());
            }
        }
        Subject::Container { name, image } => {
            set("container-type", "container");
            set("container-name", name);
            set("image-name", image);
        }
    }
    all
}

/// Those whose keys match one of the patterns.
pub fn passed(annotations: &Labels, patterns: &[String]) -> Labels {
    let wanted = |key: &str| patterns.iter().any(|p| matches(p, key));
    annotations.iter().filter(|(key, _)| wanted(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Go's `path.Match`: `*` and `?` do not cross a slash, `[a-z]` and `[^a-z]` are classes, `\` quotes. A pattern that is
/// none matches nothing.
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // The last star seen, and where it has come to: going back to the last one is enough, so that time is bounded.
    let (mut p, mut t, mut star) = (0, 0, None);
    loop {
        if pattern.get(p) == Some(&'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        match one(&pattern[p..], text.get(t).copied()) {
            Step::Took(n) => (p, t) = (p + n, t + 1),
            Step::End => return true,
            Step::Wrong => return false,
            Step::No => match star {
                Some((after, at)) if text.get(at).is_some_and(|&c| c != '/') => {
                    star = Some((after, at + 1));
                    (p, t) = (after, at + 1);
                }
                _ => return false,
            },
        }
    }
}

enum Step {
    /// One character of the text, and so many of the pattern.
    Took(usize),
    No,
    /// Both are at their ends.
    End,
    /// The pattern is none.
    Wrong,
}

fn one(pattern: &[char], next: Option<char>) -> Step {
    let took = |n, yes| if yes { Step::Took(n) } else { Step::No };
    match (pattern.first(), next) {
        (None, None) => Step::End,
        (None, Some(_)) => Step::No,
        (Some('?'), c) => took(1, c.is_some_and(|c| c != '/')),
        (Some('['), c) => match class(pattern, c) {
            Some((n, yes)) => took(n, yes),
            None => Step::Wrong,
        },
        (Some('\\'), c) => match pattern.get(1) {
            Some(&quoted) => took(2, c == Some(quoted)),
            None => Step::Wrong,
        },
        (Some(&wanted), c) => took(1, c == Some(wanted)),
    }
}

/// How long the class is and whether the character is in it; `None` for one that does not end.
fn class(pattern: &[char], c: Option<char>) -> Option<(usize, bool)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&'^');
    at += usize::from(negated);
    let first = at;
    let mut within = false;
    let single = |at: &mut usize| -> Option<char> {
        let mut c = *pattern.get(*at)?;
        if c == '\\' {
            *at += 1;
            c = *pattern.get(*at)?;
        } else if c == '-' || c == ']' {
            return None;
        }
        *at += 1;
        Some(c)
    };
    while at == first || *pattern.get(at)? != ']' {
        let low = single(&mut at)?;
        let high = if pattern.get(at) == Some(&'-') {
            at += 1;
            single(&mut at)?
        } else {
            low
        };
        within |= c.is_some_and(|c| (low..=high).contains(&c));
    }
    Some((at + 1, c.is_some() && within != negated))
}

/// The class of a kind (`blockio`, `rdt`) that a container's own annotations ask for, or else its pod's.
pub fn class_of<'a>(
    kind: &str,
    name: &str,
    container: &'a Labels,
    pod: &'a Labels,
) -> Option<(&'a str, Origin)> {
    let own = || Some((container.get(&format!("io.kubernetes.cri.{kind}-class"))?, Origin::Container));
    let of_pod =
        |whose: &str| Some((pod.get(&format!("{kind}.resources.beta.kubernetes.io/{whose}"))?, Origin::Pod));
    let (class, origin) = own().or_else(|| of_pod(&format!("container.{name}"))).or_else(|| of_pod("pod"))?;
    (!class.is_empty()).then_some((class, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_gos() {
        for (pattern, text, yes) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("io.x.*", "io.x.y", true),
            ("io.x.*", "io.x/y", false),
            ("a*b*c", "aXbYbZc", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a?", "a", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]a]", "]", false),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[\\]]", "]", true),
            ("", "", true),
            ("", "a", false),
            ("**", "abc", true),
            ("a*", "a", true),
        ] {
            assert_eq!(matches(pattern, text), yes, "{pattern} {text}");
        }
        let long = "a".repeat(20_000);
        assert!(!matches("*a*a*a*a*a*a*a*a*b", &long));
    }

    #[test]
    fn only_what_is_let_through_passes() {
        let all = Labels::from([("a.b/c".into(), "1".into()), ("x".into(), "2".into())]);
        assert_eq!(passed(&all, &["a.b/*".into()]), Labels::from([("a.b/c".into(), "1".into())]));
        assert!(passed(&all, &[]).is_empty());
    }

    #[test]
    fn classes_are_the_containers_then_the_pods() {
        let container = Labels::from([("io.kubernetes.cri.blockio-class".into(), "own".into())]);
        let pod = Labels::from([
            ("blockio.resources.beta.kubernetes.io/container.c".into(), "named".into()),
            ("blockio.resources.beta.kubernetes.io/pod".into(), "pod".into()),
        ]);
        let none = Labels::new();
        assert_eq!(class_of("blockio", "c", &container, &pod), Some(("own", Origin::Container)));
        assert_eq!(class_of("blockio", "c", &none, &pod), Some(("named", Origin::Pod)));
        assert_eq!(class_of("blockio", "d", &none, &pod), Some(("pod", Origin::Pod)));
        assert_eq!(class_of("rdt", "d", &none, &pod), None);
    }

    #[test]
    fn runtimes_are_told_what_they_run() {
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "n".into(),
                uid: "u".into(),
                namespace: "ns".into(),
                attempt: 1,
            }),
            log_directory: "/logs".into(),
            linux: Some(cri::LinuxPodSandboxConfig {
                resources: Some(cri::LinuxContainerResources { cpu_period: 7, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let of = |subject| {
            let all = annotations("s", &config, subject).into_iter();
            all.map(|(k, v)| (k.strip_prefix("io.kubernetes.cri.").unwrap().to_owned(), v))
                .collect::<Labels>()
        };
        let container = of(Subject::Container { name: "c", image: "i" });
        let expected = [
            ("container-name", "c"),
            ("container-type", "container"),
            ("image-name", "i"),
            ("sandbox-id", "s"),
            ("sandbox-name", "n"),
            ("sandbox-namespace", "ns"),
            ("sandbox-uid", "u"),
        ];
        assert_eq!(container, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let sandbox = of(Subject::Sandbox { image: "p" });
        assert_eq!(sandbox["podsandbox.image-name"], "p");
        assert_eq!(sandbox["sandbox-log-directory"], "/logs");
        assert_eq!(sandbox["sandbox-cpu-period"], "7");
        assert_eq!(sandbox["container-type"], "sandbox");
    }
}
