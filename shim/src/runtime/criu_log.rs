//! Why CRIU failed, out of its log: the runtimes only say that it did.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The log's end that is read, in bytes.
const TAIL: u64 = 256 << 10;
/// Longest reason, in bytes.
const REASON: usize = 512;

/// What CRIU's log says of a failure, in a form to be put behind a message. Empty where it says nothing.
pub fn reason(log: &Path) -> String {
    let Ok(mut file) = File::open(log) else { return String::new() };
    let start = file.metadata().map_or(0, |meta| meta.len().saturating_sub(TAIL));
    let mut text = Vec::new();
    if file.seek(SeekFrom::Start(start)).is_err() || file.take(TAIL).read_to_end(&mut text).is_err() {
        return String::new();
    }
    first_error(&String::from_utf8_lossy(&text)).map_or(String::new(), |line| format!(" (criu: {line})"))
}

/// The first error is the cause; those after it follow from it.
fn first_error(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| Some(&line[line.find("Error (")?..]))?.trim();
    Some(&line[..line.floor_char_boundary(REASON)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_the_reason() {
        let log = "(00.38) 15 fdinfo 1\n(00.39) Error (criu/files-reg.c:1790): Can't lookup mount=28\n\
                   (00.45) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        assert_eq!(first_error(log), Some("Error (criu/files-reg.c:1790): Can't lookup mount=28"));
        assert_eq!(first_error("(00.1) all is well\n"), None);
        let long = format!("Error (x): {}", "ä".repeat(600));
        assert!(first_error(&long).unwrap().len() <= REASON);
        assert_eq!(reason(Path::new("/nowhere/restore.log")), "");
    }

    #[test]
    fn of_a_long_log_the_end_is_read() {
        let dir = std::env::temp_dir().join(format!("windlass-criu-log-{}", std::process::id()));
        let mut log = "x\n".repeat(TAIL as usize);
        log.push_str("(1) Error (a.c:1): because\n");
        std::fs::write(&dir, log).unwrap();
        assert_eq!(reason(&dir), " (criu: Error (a.c:1): because)");
        std::fs::remove_file(&dir).unwrap();
    }
}
