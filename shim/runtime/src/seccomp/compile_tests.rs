//! Filters are interpreted and their decisions compared.

use super::*;
use crate::spec::Seccomp;

const NATIVE: u32 = ARCHES[0].audit;

/// Runs a program as the kernel would.
fn run(program: &[Insn], audit: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [0u32; 16];
    data[0] = number;
    data[1] = audit;
    for (i, arg) in args.iter().enumerate() {
        data[4 + 2 * i] = *arg as u32;
        data[5 + 2 * i] = (arg >> 32) as u32;
    }
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let i = program[at];
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { i.jump_true } else { i.jump_false });
        match i.code {
            LOAD => a = data[i.value as usize / 4],
            AND => a &= i.value,
            JUMP => at += i.value as usize,
            JUMP_EQ => jump(a == i.value),
            JUMP_GT => jump(a > i.value),
            JUMP_GE => jump(a >= i.value),
            RETURN => return i.value,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

fn program(json: &str) -> Vec<Insn> {
    compile(&serde_json::from_str::<Seccomp>(json).unwrap()).unwrap().unwrap()
}

fn number(name: &str) -> u32 {
    ARCHES[0].number(name).unwrap()
}

const EPERM: u32 = ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;

#[test]
fn allow_list_for_every_number() {
    let names = ["read", "write", "openat", "exit_group", "futex", "clone3", "no_such_call"];
    let p = program(&format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":{},"action":"SCMP_ACT_ALLOW"}}]}}"#,
        serde_json::to_string(&names).unwrap()
    ));
    let allowed: Vec<u32> = names.iter().filter_map(|n| ARCHES[0].number(n)).collect();
    let newest = *allowed.iter().max().unwrap();
    for n in 0..700 {
        let expected = match n {
            n if allowed.contains(&n) => ALLOW,
            n if n > newest => ENOSYS,
            _ => EPERM,
        };
        assert_eq!(run(&p, NATIVE, n, [0; 6]), expected, "{n}");
    }
}

#[test]
fn foreign_ways_in_are_killed() {
    let p = program(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(run(&p, 0x1234, number("read"), [0; 6]), KILL_THREAD);
    assert_eq!(run(&p, NATIVE, number("read"), [0; 6]), ALLOW);
    assert_eq!(run(&p, NATIVE, number("mount"), [0; 6]), EPERM);
    assert_eq!(run(&p, NATIVE, 4000, [0; 6]), ALLOW);
    assert_eq!(run(&p, NATIVE, u32::MAX, [0; 6]), ALLOW);
    #[cfg(target_arch = "x86_64")]
    {
        assert_eq!(run(&p, NATIVE, X32_BIT + number("read"), [0; 6]), KILL_THREAD);
        assert_eq!(run(&p, ARCHES[1].audit, 3, [0; 6]), KILL_THREAD);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn subarchitectures_have_their_own_numbers() {
    let p = program(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
        "syscalls":[{"names":["execve","socket","semop"],"action":"SCMP_ACT_ALLOW"},
        {"names":["connect"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":3,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    let (x86, x32) = (ARCHES[1], ARCHES[2]);
    assert_eq!(run(&p, NATIVE, 59, [0; 6]), ALLOW);
    assert_eq!(run(&p, x86.audit, 11, [0; 6]), ALLOW);
    assert_eq!(run(&p, x86.audit, 59, [0; 6]), EPERM);
    assert_eq!(run(&p, NATIVE, X32_BIT | 520, [0; 6]), ALLOW);
    assert_eq!(run(&p, NATIVE, X32_BIT | 59, [0; 6]), EPERM);
    assert_eq!(run(&p, NATIVE, X32_BIT | 600, [0; 6]), ENOSYS);
    // socketcall: socket is 1, connect is 3 and may not come this way, for its argument cannot be seen.
    assert_eq!(run(&p, x86.audit, 102, [1, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&p, x86.audit, 102, [3, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&p, x86.audit, 117, [1, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&p, x86.audit, x86.number("connect").unwrap(), [3, 0, 0, 0, 0, 0]), ALLOW);
    let _ = x32;
}

#[cfg(target_arch = "x86_64")]
#[test]
fn stricter_rules_hold_for_the_multiplexed_way() {
    let p = program(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
        "syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(run(&p, ARCHES[1].audit, 102, [1, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&p, ARCHES[1].audit, 102, [2, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn every_operator_on_64_bits() {
    let values = [
        0u64,
        1,
        5,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 1,
        (5 << 32) + 5,
        (5 << 32) + 4,
        6 << 32,
        u64::MAX - 1,
        u64::MAX,
    ];
    type Test = fn(u64, u64) -> bool;
    let operators: [(&str, Test); 6] = [
        ("SCMP_CMP_EQ", |a, b| a == b),
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_GT", |a, b| a > b),
        ("SCMP_CMP_GE", |a, b| a >= b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
    ];
    for (name, test) in operators {
        for bound in values {
            let p = program(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["personality"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":2,"value":{bound},"op":"{name}"}}]}}]}}"#
            ));
            for value in values {
                let expected = if test(value, bound) { ALLOW } else { EPERM };
                let got = run(&p, NATIVE, number("personality"), [9, 9, value, 9, 9, 9]);
                assert_eq!(got, expected, "{value:#x} {name} {bound:#x}");
            }
        }
    }
}

#[test]
fn masked_equality() {
    // clone without any of the namespace flags, as the usual profiles have it
    let p = program(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW",
        "args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    let call = |flags: u64| run(&p, NATIVE, number("clone"), [flags, 0, 0, 0, 0, 0]);
    assert_eq!(call(libc::SIGCHLD as u64), ALLOW);
    assert_eq!(call(libc::CLONE_NEWUSER as u64), EPERM);
    assert_eq!(call(libc::CLONE_NEWNS as u64 | 1 << 40), EPERM);
    assert_eq!(call(1 << 40), ALLOW);
}

#[test]
fn conditions_are_and_but_or_on_one_argument() {
    let p = program(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]},
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    let call = |name: &str, a: u64, b: u64| run(&p, NATIVE, number(name), [a, b, 0, 0, 0, 0]);
    assert_eq!(call("socket", 1, 2), ALLOW);
    assert_eq!(call("socket", 1, 3), EPERM);
    assert_eq!(call("socket", 2, 2), EPERM);
    assert_eq!(call("personality", 0, 0), ALLOW);
    assert_eq!(call("personality", 8, 0), ALLOW);
    assert_eq!(call("personality", 4, 0), EPERM);
}

#[test]
fn conditions_come_before_the_rest() {
    let p = program(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["ioctl"],"action":"SCMP_ACT_LOG"},
        {"names":["ioctl"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":21522,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(run(&p, NATIVE, number("ioctl"), [0, 21522, 0, 0, 0, 0]), KILL_PROCESS);
    assert_eq!(run(&p, NATIVE, number("ioctl"), [0, 21523, 0, 0, 0, 0]), LOG);
}

#[test]
fn every_action() {
    for (name, expected) in [
        ("SCMP_ACT_KILL", KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
        ("SCMP_ACT_TRAP", TRAP),
        ("SCMP_ACT_ERRNO", EPERM),
        ("SCMP_ACT_TRACE", TRACE | 1),
        ("SCMP_ACT_LOG", LOG),
        ("SCMP_ACT_NOTIFY", NOTIFY),
    ] {
        let p = program(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mkdir","mkdirat"],"action":"{name}"}}]}}"#
        ));
        assert_eq!(run(&p, NATIVE, number("mkdirat"), [0; 6]), expected, "{name}");
    }
    let p = program(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
    );
    assert_eq!(run(&p, NATIVE, number("mkdirat"), [0; 6]), ENOSYS);
}

#[test]
fn nonsense_is_refused() {
    for json in [
        r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#,
        r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["VAX"]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":65536}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":0,"op":"EQ"}]}]}"#,
    ] {
        assert!(compile(&serde_json::from_str(json).unwrap()).is_err(), "{json}");
    }
    assert!(compile(&Seccomp::default()).unwrap().is_none());
}
