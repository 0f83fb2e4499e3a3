//! Figures out of version 2's files: one directory per group.

use super::cgroup::{Controller, Group, Hierarchy};
use super::figures::{Cpu, Detail, Device, Figures, Memory, Pids, Pressure, Stall, Swap, Throttling};
use super::files::{Reader, number, pairs};

pub fn read(hierarchy: &Hierarchy, reader: &mut Reader, group: &Group, detail: Detail) -> Figures {
    let everything = detail == Detail::Everything;
    // There is but one directory.
    if !hierarchy.enter(reader, group, Controller::Cpu) {
        return Figures::default();
    }
    let mut figures = Figures {
        cpu: reader.text("cpu.stat").and_then(cpu),
        memory: memory(reader, everything),
        io_pressure: pressure(reader, "io.pressure"),
        ..Figures::default()
    };
    if let Some(cpu) = &mut figures.cpu {
        cpu.pressure = pressure(reader, "cpu.pressure");
    }
    if detail >= Detail::Usual {
        figures.pids = reader.number("pids.current").map(|current| Pids { current, limit: None });
    }
    if detail >= Detail::Usual && figures.memory.is_some() {
        figures.swap = reader
            .number("memory.swap.current")
            .map(|usage| Swap { usage, limit: reader.limit("memory.swap.max") });
    }
    if everything {
        if let Some(pids) = &mut figures.pids {
            pids.limit = reader.limit("pids.max");
        }
        let text = reader.text("io.stat").unwrap_or_default();
        figures.devices = text.lines().filter_map(device).collect();
    }
    figures
}

fn cpu(text: &str) -> Option<Cpu> {
    let mut cpu = Cpu::default();
    let mut throttling = None::<Throttling>;
    let mut told = false;
    for (name, value) in pairs(text) {
        let nanos = value.saturating_mul(1000);
        match name {
            "usage_usec" => (cpu.usage, told) = (nanos, true),
            "user_usec" => cpu.user = nanos,
            "system_usec" => cpu.system = nanos,
            "nr_periods" => throttling.get_or_insert_default().periods = value,
            "nr_throttled" => throttling.get_or_insert_default().throttled = value,
            "throttled_usec" => throttling.get_or_insert_default().time = nanos,
            _ => {}
        }
    }
    cpu.throttling = throttling;
    told.then_some(cpu)
}

fn memory(reader: &mut Reader, everything: bool) -> Option<Memory> {
    let mut memory = Memory { usage: reader.number("memory.current")?, ..Memory::default() };
    memory.limit = reader.limit("memory.max");
    let (mut kernel, mut parts) = (None, 0_u64);
    for (name, value) in pairs(reader.text("memory.stat").unwrap_or_default()) {
        match name {
            "anon" => memory.rss = value,
            "file" => memory.cache = value,
            "file_mapped" => memory.mapped_file = value,
            "active_file" => memory.active_file = value,
            "inactive_file" => memory.inactive_file = value,
            "pgfault" => memory.faults = value,
            "pgmajfault" => memory.major_faults = value,
            "kernel" => kernel = Some(value),
            // What older kernels tell of it.
            "kernel_stack" | "pagetables" | "percpu" | "sock" | "slab" => parts = parts.saturating_add(value),
            _ => {}
        }
    }
    if everything {
        memory.kernel = Some(kernel.unwrap_or(parts));
        memory.max_usage = reader.number("memory.peak");
        for (name, value) in pairs(reader.text("memory.events").unwrap_or_default()) {
            match name {
                "max" => memory.failures = Some(value),
                "oom_kill" => memory.oom_kills = Some(value),
                _ => {}
            }
        }
    }
    memory.pressure = pressure(reader, "memory.pressure");
    Some(memory)
}

/// Lines of `some|full avg10=… avg60=… avg300=… total=…`. Kernels that do not account for it have no such file, or one
/// that cannot be read.
fn pressure(reader: &mut Reader, file: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in reader.text(file)?.lines() {
        match line.split_once(' ') {
            Some(("some", rest)) => pressure.some = Some(stall(rest)),
            Some(("full", rest)) => pressure.full = Some(stall(rest)),
            _ => {}
        }
    }
    (pressure != Pressure::default()).then_some(pressure)
}

fn stall(text: &str) -> Stall {
    let mut stall = Stall::default();
    let average =
        |value: &str| value.parse().ok().filter(|share: &f64| share.is_finite()).unwrap_or_default();
    for (name, value) in text.split_whitespace().filter_map(|part| part.split_once('=')) {
        match name {
            "avg10" => stall.avg10 = average(value),
            "avg60" => stall.avg60 = average(value),
            "avg300" => stall.avg300 = average(value),
            "total" => stall.total = number(value).unwrap_or_default(),
            _ => {}
        }
    }
    stall
}

/// A line of `major:minor name=value …`.
fn device(line: &str) -> Option<Device> {
    let mut parts = line.split_whitespace();
    let (major, minor) = parts.next()?.split_once(':')?;
    let mut device = Device { major: number(major)?, minor: number(minor)?, ..Device::default() };
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = number(value).unwrap_or_default();
        match name {
            "rbytes" => device.read_bytes = value,
            "wbytes" => device.written_bytes = value,
            "rios" => device.reads = value,
            "wios" => device.writes = value,
            _ => {}
        }
    }
    Some(device)
}
