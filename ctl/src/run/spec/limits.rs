//! Limits: cgroup resources and rlimits.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::output::size;

#[derive(Args, Default)]
#[command(next_help_heading = "Limits")]
pub struct Options {
    /// Most memory: 64m, 1g
    #[arg(long, short, value_parser = size, value_name = "SIZE")]
    pub memory: Option<i64>,
    /// Most memory and swap together; -1 for no limit
    #[arg(long, value_parser = signed_size, allow_hyphen_values = true, value_name = "SIZE")]
    pub memory_swap: Option<i64>,
    /// Processors: 0.5, 2
    #[arg(long, value_parser = processors, value_name = "NUMBER")]
    pub cpus: Option<f64>,
    /// Weight against other containers, 2 to 262144; 1024 is usual
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=262_144), value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// Processors to run on: 0-2,5
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Most processes; -1 for no limit
    #[arg(long, allow_hyphen_values = true, value_name = "NUMBER")]
    pub pids_limit: Option<i64>,
    /// Limit of a process: nofile=1024:2048, core=0, memlock=unlimited
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// How early to be killed when memory runs out, -1000 to 1000
    #[arg(long, allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-1000..=1000),
        value_name = "SCORE")]
    pub oom_score_adj: Option<i32>,
    /// Parameter of the kernel: net.ipv4.ip_forward=1
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<String>,
    /// Cgroup below which the container's own is made
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
}

fn signed_size(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { size(text) }
}

fn processors(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    // A quota below a millisecond is refused by the kernel.
    if (0.01..=65536.0).contains(&number) { Ok(number) } else { Err("between 0.01 and 65536".to_owned()) }
}

/// Names of the kernel's resource limits.
const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn rlimit(text: &str) -> Result<Value> {
    let (name, values) =
        text.split_once('=').with_context(|| format!("ulimit {text:?} is not name=soft[:hard]"))?;
    ensure!(RLIMITS.contains(&name), "no limit is called {name:?}; there are {}", RLIMITS.join(", "));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text.parse::<u64>().with_context(|| format!("ulimit {name}: {text:?} is not a number")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    ensure!(soft <= hard, "ulimit {name}: the soft limit {soft} is above the hard one {hard}");
    Ok(json!({"type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": soft, "hard": hard}))
}

impl Options {
    pub fn rlimits(&self) -> Result<Vec<Value>> {
        let mut all = vec![json!({"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024})];
        for text in &self.ulimit {
            let limit = rlimit(text)?;
            all.retain(|l| l["type"] != limit["type"]);
            all.push(limit);
        }
        Ok(all)
    }

    pub fn resources(&self, devices: Vec<Value>) -> Value {
        let mut resources = json!({"devices": devices});
        if let Some(limit) = self.memory {
            resources["memory"]["limit"] = json!(limit);
        }
        if let Some(swap) = self.memory_swap {
            resources["memory"]["swap"] = json!(swap);
        }
        if let Some(cpus) = self.cpus {
            resources["cpu"]["period"] = json!(100_000);
            resources["cpu"]["quota"] = json!((cpus * 100_000.0) as i64);
        }
        if let Some(shares) = self.cpu_shares {
            resources["cpu"]["shares"] = json!(shares);
        }
        if let Some(cpus) = &self.cpuset_cpus {
            resources["cpu"]["cpus"] = json!(cpus);
        }
        if let Some(limit) = self.pids_limit {
            resources["pids"] = json!({"limit": limit});
        }
        resources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rlimits_parse() {
        assert_eq!(rlimit("nofile=1:2").unwrap(), json!({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}));
        assert_eq!(rlimit("core=unlimited").unwrap()["hard"], u64::MAX);
        for bad in ["nofile", "nofile=2:1", "nope=1", "nofile=x"] {
            assert!(rlimit(bad).is_err(), "{bad}");
        }
        let options = Options { ulimit: vec!["nofile=5".into(), "nproc=6".into()], ..Options::default() };
        assert_eq!(options.rlimits().unwrap().len(), 2);
    }

    #[test]
    fn numbers_have_bounds() {
        assert!(processors("0").is_err() && processors("nan").is_err() && processors("1e9").is_err());
        assert_eq!(processors("0.5"), Ok(0.5));
        assert_eq!(signed_size("-1"), Ok(-1));
    }
}
