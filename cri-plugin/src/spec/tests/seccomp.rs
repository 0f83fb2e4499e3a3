//! The default filter, and which filter a container gets.

use super::*;

fn caps(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

fn allowed(profile: &Value) -> Vec<&str> {
    profile["syscalls"][0]["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect()
}

fn rules<'a>(profile: &'a Value, call: &str) -> Vec<&'a Value> {
    let all = profile["syscalls"].as_array().unwrap().iter();
    all.filter(|r| r["names"].as_array().unwrap().iter().any(|n| n == call)).collect()
}

#[test]
fn the_table_is_read() {
    let profile = default(&caps(&windlass_core::capability::DEFAULT));
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let names = allowed(&profile);
    assert!(names.len() > 350 && names.windows(2).all(|w| w[0] < w[1]));
    for name in ["read", "openat2", "futex_waitv", "ptrace", "chroot", "mseal", "waitpid"] {
        assert!(names.contains(&name), "{name}");
    }
    for name in
        ["mount", "bpf", "reboot", "keyctl", "add_key", "userfaultfd", "io_uring_setup", "clone", "socket"]
    {
        assert!(!names.contains(&name), "{name}");
    }
    // Every line of the table is one of its forms.
    for line in TABLE.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let form = match words[..] {
            ["allow"] | ["allow", "arch", _, ..] => true,
            ["allow", "cap", cap] => windlass_core::capability::ALL.contains(&cap),
            ["if", _, _, "<" | ">" | "==", _] => true,
            _ => {
                line.starts_with("  ")
                    && words
                        .iter()
                        .all(|w| w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
            }
        };
        assert!(form, "{line}");
    }
}

#[test]
fn conditions_are_alternatives() {
    let profile = default(&[]);
    let of = |call| {
        let rules = rules(&profile, call).into_iter().map(|r| r["args"][0].clone());
        rules
            .map(|a| (a["op"].as_str().unwrap().to_owned(), a["value"].as_u64().unwrap()))
            .collect::<Vec<_>>()
    };
    let pair = |op: &str, value| (op.to_owned(), value);
    assert_eq!(of("socket"), [pair("SCMP_CMP_LT", 38), pair("SCMP_CMP_EQ", 39), pair("SCMP_CMP_GT", 40)]);
    assert_eq!(of("personality").len(), 5);
    assert_eq!(of("clone"), [pair("SCMP_CMP_MASKED_EQ", 0x7e02_0000)]);
    assert_eq!(rules(&profile, "clone3")[0]["errnoRet"], libc::ENOSYS);
}

#[test]
fn capabilities_allow_more() {
    for (cap, call) in [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "clone"),
        ("CAP_SYS_ADMIN", "clone3"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_PTRACE", "kcmp"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_SYS_CHROOT", "chroot"),
    ] {
        assert!(!allowed(&default(&[])).contains(&call), "{call}");
        assert!(allowed(&default(&caps(&[cap]))).contains(&call), "{cap} {call}");
    }
    let admin = default(&caps(&["CAP_SYS_ADMIN"]));
    assert_eq!(rules(&admin, "clone").len(), 1);
    assert_eq!(rules(&admin, "clone3").len(), 1);
}

fn of(kind: ProfileType, file: &str) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref: file.into() }
}

#[test]
fn which_profile_it_is() {
    let host = Host { seccomp: true, ..Host::default() };
    let unset = Settings::with(|config, _| config.unset_seccomp_profile = "runtime/default".into());
    let plain = Settings::default();
    let run = |settings: &Settings, asked: Option<cri::SecurityProfile>, older: &str, privileged| {
        profile(&host, settings, asked.as_ref(), older, privileged, &[]).map(|p| p.is_some())
    };
    assert!(!run(&plain, None, "", false).unwrap());
    assert!(run(&unset, None, "", false).unwrap());
    assert!(!run(&unset, None, "unconfined", false).unwrap());
    assert!(!run(&unset, Some(of(ProfileType::Unconfined, "")), "", false).unwrap());
    assert!(run(&plain, Some(of(ProfileType::RuntimeDefault, "")), "", false).unwrap());
    assert!(run(&plain, None, "docker/default", false).unwrap());
    assert!(!run(&plain, Some(of(ProfileType::RuntimeDefault, "")), "", true).unwrap());
    assert!(run(&plain, None, "nonsense", false).is_err());
    assert!(run(&plain, Some(of(ProfileType::RuntimeDefault, "x")), "", false).is_err());
    assert!(
        run(&plain, Some(cri::SecurityProfile { profile_type: 5, ..Default::default() }), "", false).is_err()
    );
    let none = Host::default();
    let asked = of(ProfileType::RuntimeDefault, "");
    assert!(matches!(profile(&none, &plain, Some(&asked), "", false, &[]), Err(Error::Unsupported(_))));
    assert!(profile(&none, &plain, None, "unconfined", false, &[]).unwrap().is_none());
}

#[test]
fn files_of_the_node_are_read_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.json");
    let name = path.to_str().unwrap().to_owned();
    let host = Host { seccomp: true, ..Host::default() };
    let run = |asked: Option<cri::SecurityProfile>, older: &str| {
        profile(&host, &Settings::default(), asked.as_ref(), older, false, &[])
    };
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "unknown": 1}"#;
    std::fs::write(&path, text).unwrap();
    let expected: Value = serde_json::from_str(text).unwrap();
    assert_eq!(run(Some(of(ProfileType::Localhost, &name)), "").unwrap().unwrap(), expected);
    assert_eq!(
        run(Some(of(ProfileType::Localhost, &format!("localhost/{name}"))), "").unwrap().unwrap(),
        expected
    );
    assert_eq!(run(None, &format!("localhost/{name}")).unwrap().unwrap(), expected);
    for wrong in ["", "{}", "[]", "{\"defaultAction\": 1}"] {
        std::fs::write(&path, wrong).unwrap();
        assert!(run(Some(of(ProfileType::Localhost, &name)), "").is_err(), "{wrong:?}");
    }
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(run(Some(of(ProfileType::Localhost, &name)), "").is_err());
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    for wrong in [fifo.to_str().unwrap(), "relative.json", "/nosuch/p.json", "/dev/zero", ""] {
        assert!(run(Some(of(ProfileType::Localhost, wrong)), "").is_err(), "{wrong:?}");
    }
}
