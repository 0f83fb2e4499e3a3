//! From the configuration's seccomp section to a BPF program.
//!
//! Decisions are those of libseccomp as runc uses it:
//! - the native architecture is always in; a call from one that is not in kills the thread;
//! - names that an architecture does not have are passed over; a rule whose action is the default's is dropped;
//! - of several rules for one call those with conditions come first, in order; then the one without; then the default;
//! - two conditions on the same argument are alternatives, others must hold together;
//! - with a default that refuses, calls newer than all that the profile names get ENOSYS, for libraries take EPERM as
//!   an answer but ENOSYS as a reason to try the older call;
//! - on i386 a rule for a call that `socketcall` or `ipc` can carry goes for that way, too. Conditions cannot be checked
//!   there (the arguments lie in memory): a stricter rule then counts without them, a laxer one not at all.

use super::arch::{ARCHES, Arch, FOREIGN, X32_BIT, multiplexer};
use crate::error::{Error, Result};
use crate::spec::{Seccomp, SyscallArg};
use std::collections::BTreeMap;

/// One classic BPF instruction, as the kernel lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub value: u32,
}

pub const LOAD: u16 = 0x20;
pub const AND: u16 = 0x54;
pub const JUMP: u16 = 0x05;
pub const JUMP_EQ: u16 = 0x15;
pub const JUMP_GT: u16 = 0x25;
pub const JUMP_GE: u16 = 0x35;
pub const RETURN: u16 = 0x06;

/// Offsets in `seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

pub const KILL_PROCESS: u32 = 0x8000_0000;
pub const KILL_THREAD: u32 = 0;
pub const TRAP: u32 = 0x0003_0000;
pub const ERRNO: u32 = 0x0005_0000;
pub const NOTIFY: u32 = 0x7fc0_0000;
pub const TRACE: u32 = 0x7ff0_0000;
pub const LOG: u32 = 0x7ffc_0000;
pub const ALLOW: u32 = 0x7fff_0000;

/// Most instructions that the kernel takes.
const MAX_PROGRAM: usize = 4096;

fn insn(code: u16, jump_true: u8, jump_false: u8, value: u32) -> Insn {
    Insn { code, jump_true, jump_false, value }
}

fn ret(action: u32) -> Insn {
    insn(RETURN, 0, 0, action)
}

fn action(name: &str, errno: Option<u32>) -> Result<u32> {
    let value = errno.unwrap_or(libc::EPERM as u32);
    if value > 0xffff {
        return Err(Error::Spec(format!("seccomp: errnoRet {value} is out of range")));
    }
    let takes_value = matches!(name, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE");
    if errno.is_some() && !takes_value {
        return Err(Error::Spec(format!("seccomp: errnoRet is not for {name}")));
    }
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_ERRNO" => ERRNO | value,
        "SCMP_ACT_TRACE" => TRACE | value,
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        other => return Err(Error::Spec(format!("seccomp: unknown action {other:?}"))),
    })
}

/// How much an action permits, for comparing two: the kernel's own order of precedence.
fn laxity(action: u32) -> i32 {
    (action & 0xffff_0000) as i32
}

/// All that a filter has to say about one call.
#[derive(Debug, Default, Clone, PartialEq)]
struct Decision {
    conditional: Vec<(Vec<Condition>, u32)>,
    otherwise: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Condition {
    index: u32,
    operator: Operator,
    value: u64,
    mask: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

impl Condition {
    fn new(arg: &SyscallArg) -> Result<Condition> {
        if arg.index > 5 {
            return Err(Error::Spec(format!("seccomp: argument {} does not exist", arg.index)));
        }
        let operator = match arg.op.as_str() {
            "SCMP_CMP_EQ" | "SCMP_CMP_MASKED_EQ" => Operator::Equal,
            "SCMP_CMP_NE" => Operator::NotEqual,
            "SCMP_CMP_GT" => Operator::Greater,
            "SCMP_CMP_GE" => Operator::GreaterEqual,
            "SCMP_CMP_LT" => Operator::Less,
            "SCMP_CMP_LE" => Operator::LessEqual,
            other => return Err(Error::Spec(format!("seccomp: unknown operator {other:?}"))),
        };
        // The masked form carries the mask first.
        let (value, mask) = match arg.op.as_str() {
            "SCMP_CMP_MASKED_EQ" => (arg.value_two, arg.value),
            _ => (arg.value, u64::MAX),
        };
        Ok(Condition { index: arg.index, operator, value, mask })
    }

    /// Code that falls through when the condition holds and jumps over `after` instructions when it does not; `after`
    /// counts from the end of this code.
    fn code(&self, wide: bool, after: usize) -> Vec<Insn> {
        let fail = after as u8;
        let offset = ARGS + 8 * self.index;
        let (low, high) = (self.value as u32, (self.value >> 32) as u32);
        let (low_mask, high_mask) = (self.mask as u32, (self.mask >> 32) as u32);
        let masked = |offset: u32, mask: u32| {
            let mut code = vec![insn(LOAD, 0, 0, offset)];
            if mask != u32::MAX {
                code.push(insn(AND, 0, 0, mask));
            }
            code
        };
        // The last comparison, on the low word.
        let (jump, inverted) = match self.operator {
            Operator::Equal => (JUMP_EQ, false),
            Operator::NotEqual => (JUMP_EQ, true),
            Operator::Greater => (JUMP_GT, false),
            Operator::GreaterEqual => (JUMP_GE, false),
            Operator::Less => (JUMP_GE, true),
            Operator::LessEqual => (JUMP_GT, true),
        };
        let mut low_code = masked(offset, low_mask);
        let (on_true, on_false) = if inverted { (fail, 0) } else { (0, fail) };
        low_code.push(insn(jump, on_true, on_false, low));
        if !wide {
            return low_code;
        }
        let low_len = low_code.len();
        let mut code = masked(offset + 4, high_mask);
        let (pass, fail) = (low_len as u8, (low_len + after) as u8);
        match self.operator {
            Operator::Equal => code.push(insn(JUMP_EQ, 0, fail, high)),
            Operator::NotEqual => code.push(insn(JUMP_EQ, 0, pass, high)),
            Operator::Greater | Operator::GreaterEqual => {
                code.push(insn(JUMP_GT, pass + 1, 0, high));
                code.push(insn(JUMP_EQ, 0, fail, high));
            }
            Operator::Less | Operator::LessEqual => {
                code.push(insn(JUMP_GT, fail + 1, 0, high));
                code.push(insn(JUMP_EQ, 0, pass, high));
            }
        }
        code.extend(low_code);
        code
    }
}

impl Decision {
    fn code(&self, arch: &Arch, default: u32) -> Vec<Insn> {
        let mut code = Vec::new();
        for (conditions, action) in &self.conditional {
            // Built from the end, for a condition that fails jumps over all that follows.
            let mut rule = vec![ret(*action)];
            for condition in conditions.iter().rev() {
                let mut head = condition.code(arch.wide, rule.len());
                head.extend(rule);
                rule = head;
            }
            code.extend(rule);
        }
        code.push(ret(self.otherwise.unwrap_or(default)));
        code
    }

    fn add(&mut self, conditions: Vec<Condition>, action: u32) {
        if conditions.is_empty() {
            self.otherwise.get_or_insert(action);
        } else {
            self.conditional.push((conditions, action));
        }
    }
}

/// A filter in terms of numbers, per architecture.
struct Filter {
    default: u32,
    arches: Vec<(Arch, BTreeMap<u32, Decision>)>,
    /// The newest call that the profile names, per architecture.
    newest: Vec<u32>,
    enosys: bool,
}

impl Filter {
    fn new(config: &Seccomp) -> Result<Filter> {
        let default = action(&config.default_action, config.default_errno_ret)?;
        if default == NOTIFY {
            return Err(Error::Spec("SCMP_ACT_NOTIFY cannot be used as default action".into()));
        }
        if let Some(name) = config.architectures.iter().find(|a| !FOREIGN.contains(&a.as_str())) {
            return Err(Error::Spec(format!("seccomp: unknown architecture {name:?}")));
        }
        let used = |(at, arch): (usize, &Arch)| {
            (at == 0 || config.architectures.iter().any(|n| n == arch.name)).then_some(*arch)
        };
        let arches: Vec<Arch> = ARCHES.iter().enumerate().filter_map(used).collect();
        let enosys =
            !matches!(default & 0xffff_0000, ALLOW | LOG | TRACE) && default != ERRNO | libc::ENOSYS as u32;
        let mut filter = Filter {
            default,
            newest: vec![0; arches.len()],
            arches: arches.into_iter().map(|a| (a, BTreeMap::new())).collect(),
            enosys,
        };
        for rule in &config.syscalls {
            let action = action(&rule.action, rule.errno_ret)?;
            let conditions = rule.args.iter().map(Condition::new).collect::<Result<Vec<_>>>()?;
            for name in &rule.names {
                if action == NOTIFY && matches!(name.as_str(), "write" | "sendmsg") {
                    return Err(Error::Spec(format!(
                        "SCMP_ACT_NOTIFY cannot be used for the {name} syscall"
                    )));
                }
                filter.add(name, &conditions, action);
            }
        }
        Ok(filter)
    }

    fn add(&mut self, name: &str, conditions: &[Condition], action: u32) {
        let repeated =
            (0..conditions.len()).any(|i| conditions[..i].iter().any(|c| c.index == conditions[i].index));
        let alternatives: Vec<Vec<Condition>> =
            if repeated { conditions.iter().map(|c| vec![*c]).collect() } else { vec![conditions.to_vec()] };
        for ((arch, decisions), newest) in self.arches.iter_mut().zip(&mut self.newest) {
            if let Some(number) = arch.number(name) {
                *newest = (*newest).max(number);
                if action != self.default {
                    let decision = decisions.entry(number).or_default();
                    alternatives.iter().for_each(|a| decision.add(a.clone(), action));
                }
            }
            if arch.multiplexed
                && action != self.default
                && (conditions.is_empty() || laxity(action) < laxity(self.default))
                && let Some((carrier, call)) = multiplexer(name)
                && let Some(number) = arch.number(carrier)
            {
                let condition =
                    Condition { index: 0, operator: Operator::Equal, value: call, mask: u64::MAX };
                decisions.entry(number).or_default().add(vec![condition], action);
                *newest = (*newest).max(number);
            }
        }
    }

    /// The decision tree of one architecture, the number being loaded.
    fn section(&self, at: usize) -> Vec<Insn> {
        let (arch, decisions) = &self.arches[at];
        // Runs of numbers with the same decision; the first starts at the lowest number there is.
        let plain = Decision::default();
        let newer = Decision { otherwise: Some(ERRNO | libc::ENOSYS as u32), ..Decision::default() };
        let mut runs: Vec<(u32, &Decision)> = vec![(arch.bit, &plain)];
        for (number, decision) in decisions {
            runs.push((*number, decision));
            runs.push((number + 1, &plain));
        }
        if self.enosys && self.newest[at] != 0 {
            runs.push((self.newest[at] + 1, &newer));
        }
        // Of runs that start at the same number the last counts.
        runs.reverse();
        let mut starts: Vec<(u32, Vec<Insn>)> = Vec::new();
        for (start, decision) in runs {
            if starts.last().is_some_and(|(next, _)| *next == start) {
                continue;
            }
            starts.push((start, decision.code(arch, self.default)));
        }
        starts.reverse();
        starts.dedup_by(|next, earlier| next.1 == earlier.1);
        tree(&starts)
    }

    fn compile(&self) -> Vec<Insn> {
        let mut program = vec![insn(LOAD, 0, 0, ARCH)];
        let mut audits: Vec<u32> = Vec::new();
        for (arch, _) in &self.arches {
            if !audits.contains(&arch.audit) {
                audits.push(arch.audit);
            }
        }
        for audit in audits {
            let find = |bit: u32| self.arches.iter().position(|(a, _)| a.audit == audit && a.bit == bit);
            let mut section = vec![insn(LOAD, 0, 0, NUMBER)];
            let base = find(0).map_or_else(|| vec![ret(KILL_THREAD)], |at| self.section(at));
            if cfg!(target_arch = "x86_64") && audit == ARCHES[0].audit {
                // x32 calls come with the audit value of x86_64. -1 is not one of them: it gets the default.
                let x32 = find(X32_BIT).map_or_else(|| vec![ret(KILL_THREAD)], |at| self.section(at));
                let x32 = branch(u32::MAX, x32, vec![ret(self.default)]);
                section.extend(branch(X32_BIT, base, x32));
            } else {
                section.extend(base);
            }
            program.push(insn(JUMP_EQ, 1, 0, audit));
            program.push(insn(JUMP, 0, 0, section.len() as u32));
            program.extend(section);
        }
        program.push(ret(KILL_THREAD));
        program
    }
}

/// `low` when the number is below `from`, else `high`.
fn branch(from: u32, low: Vec<Insn>, high: Vec<Insn>) -> Vec<Insn> {
    let mut code = match u8::try_from(low.len()) {
        Ok(distance) => vec![insn(JUMP_GE, distance, 0, from)],
        Err(_) => vec![insn(JUMP_GE, 0, 1, from), insn(JUMP, 0, 0, low.len() as u32)],
    };
    code.extend(low);
    code.extend(high);
    code
}

/// Binary search over where each run starts.
fn tree(runs: &[(u32, Vec<Insn>)]) -> Vec<Insn> {
    match runs {
        [] => Vec::new(),
        [(_, code)] => code.clone(),
        _ => {
            let (low, high) = runs.split_at(runs.len() / 2);
            branch(high[0].0, tree(low), tree(high))
        }
    }
}

/// The program, or `None` when the section is empty and nothing is to be filtered.
pub fn compile(config: &Seccomp) -> Result<Option<Vec<Insn>>> {
    if config.default_action.is_empty() && config.syscalls.is_empty() {
        return Ok(None);
    }
    let program = Filter::new(config)?.compile();
    if program.len() > MAX_PROGRAM {
        return Err(Error::Unsupported(format!(
            "seccomp: the profile needs {} instructions, the kernel takes {MAX_PROGRAM}",
            program.len()
        )));
    }
    Ok(Some(program))
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
