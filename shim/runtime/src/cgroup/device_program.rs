//! Device rules as the eBPF program that v2 groups ask.
//!
//! The program keeps, for each access asked for (read, write, mknod), whether a rule has decided it, and goes through
//! the rules from the last to the first: a denying rule that meets an undecided one refuses, an allowing one decides
//! those it names. What stays undecided is refused.

use super::devices::{ALL, DeviceKind, Rule};
use crate::error::{Context, Result};
use crate::sys::check;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One eBPF instruction, as the kernel lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_U32: u8 = 0x61;
const MOV_IMM: u8 = 0xb7;
const MOV_REG: u8 = 0xbf;
const AND_IMM: u8 = 0x57;
const SHIFT_RIGHT_IMM: u8 = 0x77;
const JUMP_EQ_IMM: u8 = 0x15;
const JUMP_NE_IMM: u8 = 0x55;
/// As JUMP_NE_IMM, on the lower halves: the value is not sign-extended.
const JUMP_NE_IMM_32: u8 = 0x56;
const EXIT: u8 = 0x95;

/// The registers: result, context, device kind, undecided access, major, minor, scratch.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const fn insn(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> Insn {
    Insn { code, registers: destination | source << 4, offset, value }
}

pub fn compile(rules: &[Rule]) -> Vec<Insn> {
    let mut program = vec![
        insn(LOAD_U32, KIND, CONTEXT, 0, 0),
        insn(MOV_REG, ACCESS, KIND, 0, 0),
        insn(AND_IMM, KIND, 0, 0, 0xffff),
        insn(SHIFT_RIGHT_IMM, ACCESS, 0, 0, 16),
        insn(LOAD_U32, MAJOR, CONTEXT, 4, 0),
        insn(LOAD_U32, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut block = Vec::new();
        match rule.kind {
            DeviceKind::Any => {}
            // BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR
            DeviceKind::Block => block.push(insn(JUMP_NE_IMM, KIND, 0, 0, 1)),
            DeviceKind::Char => block.push(insn(JUMP_NE_IMM, KIND, 0, 0, 2)),
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = number {
                block.push(insn(JUMP_NE_IMM_32, register, 0, 0, number as i32));
            }
        }
        if rule.allow {
            block.push(insn(AND_IMM, ACCESS, 0, 0, i32::from(ALL & !rule.access)));
            block.push(insn(JUMP_NE_IMM, ACCESS, 0, 0, 0));
        } else {
            block.push(insn(MOV_REG, SCRATCH, ACCESS, 0, 0));
            block.push(insn(AND_IMM, SCRATCH, 0, 0, i32::from(rule.access)));
            block.push(insn(JUMP_EQ_IMM, SCRATCH, 0, 0, 0));
        }
        block.push(insn(MOV_IMM, RESULT, 0, 0, i32::from(rule.allow)));
        block.push(insn(EXIT, 0, 0, 0, 0));
        // Every jump leads to the next rule.
        let end = block.len();
        for (at, insn) in block.iter_mut().enumerate() {
            if matches!(insn.code, JUMP_EQ_IMM | JUMP_NE_IMM | JUMP_NE_IMM_32) {
                insn.offset = (end - at - 1) as i16;
            }
        }
        program.extend(block);
    }
    program.push(insn(MOV_IMM, RESULT, 0, 0, 0));
    program.push(insn(EXIT, 0, 0, 0, 0));
    program
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads the program and binds it to the group; it goes with the group.
pub fn attach(group: &OwnedFd, program: &[Insn]) -> Result<()> {
    let load = LoadAttr {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: `load` is a valid (shorter) bpf_attr of the size given; what it points to outlives the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &load, size_of::<LoadAttr>()) })
        .op("load device program")?;
    // SAFETY: the kernel has just given us this descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attach = AttachAttr {
        target: group.as_fd().as_raw_fd() as u32,
        program: fd.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attach` is a valid (shorter) bpf_attr of the size given.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attach, size_of::<AttachAttr>()) })
        .op("attach device program")
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::devices::{MKNOD, READ, WRITE};

    /// Runs the program on one question, as the kernel would.
    fn run(program: &[Insn], kind: u64, access: u8, major: u32, minor: u32) -> bool {
        let context = [kind | u64::from(access) << 16, major.into(), minor.into()];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (d, s) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            let mut jump = |yes: bool| at = if yes { (at as i64 + i64::from(i.offset)) as usize } else { at };
            match i.code {
                LOAD_U32 => registers[d] = context[(i.offset / 4) as usize],
                MOV_IMM => registers[d] = i.value as u64,
                MOV_REG => registers[d] = registers[s],
                AND_IMM => registers[d] &= i.value as u64,
                SHIFT_RIGHT_IMM => registers[d] >>= i.value,
                JUMP_EQ_IMM => jump(registers[d] == i.value as u64),
                JUMP_NE_IMM => jump(registers[d] != i.value as u64),
                JUMP_NE_IMM_32 => jump(registers[d] as u32 != i.value as u32),
                EXIT => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    /// The meaning of the rules, said another way: for each kind of access the last rule that names it decides.
    fn expected(rules: &[Rule], kind: u64, access: u8, major: u32, minor: u32) -> bool {
        [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            rules
                .iter()
                .rev()
                .find(|r| {
                    let same_kind = match r.kind {
                        DeviceKind::Any => true,
                        DeviceKind::Block => kind == 1,
                        DeviceKind::Char => kind == 2,
                    };
                    same_kind
                        && r.major.is_none_or(|n| n == major)
                        && r.minor.is_none_or(|n| n == minor)
                        && r.access & bit != 0
                })
                .is_some_and(|r| r.allow)
        })
    }

    #[test]
    fn program_decides_as_the_rules_do() {
        let rule = |allow, kind, major, minor, access| Rule { allow, kind, major, minor, access };
        let rules = [
            rule(false, DeviceKind::Any, None, None, ALL),
            rule(true, DeviceKind::Char, None, None, MKNOD),
            rule(true, DeviceKind::Char, Some(1), None, READ),
            rule(true, DeviceKind::Char, Some(1), Some(3), WRITE),
            rule(false, DeviceKind::Char, Some(1), Some(4), READ | WRITE),
            rule(true, DeviceKind::Block, Some(8), Some(u32::MAX), ALL),
            rule(true, DeviceKind::Any, Some(5), None, ALL),
            rule(false, DeviceKind::Block, Some(5), Some(1), WRITE),
        ];
        let program = compile(&rules);
        for kind in [1, 2] {
            for access in 1..=ALL {
                for major in [0, 1, 5, 8, 9] {
                    for minor in [0, 1, 3, 4, u32::MAX] {
                        assert_eq!(
                            run(&program, kind, access, major, minor),
                            expected(&rules, kind, access, major, minor),
                            "kind {kind} access {access} {major}:{minor}"
                        );
                    }
                }
            }
        }
    }
}
