//! What a daemon that was killed left half done between a stream and its log.
//!
//! The journal names the write that was under way; the log's size says how much of it happened. Lines that stand there
//! whole count as taken, a torn one is cut off and comes again.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::Output;
use super::journal::{Intent, Journal};
use super::line;
use super::spool::Spool;

/// No write is longer; what says so is not a record of ours.
const LONGEST_WRITE: u64 = 8 << 20;

/// Settles the journal. Where the log is another file than the one written to, it cannot be known whether the write was
/// done: it is done (again), which may repeat lines but loses none.
pub fn recover(journal: &mut Journal, log: Option<&File>, spools: [&Spool; 2]) -> io::Result<()> {
    if let Some(intent) = journal.intent {
        let spool = spools[intent.output as usize];
        let from = journal.done(intent.output);
        let taken = match log {
            Some(log) if intent.length <= LONGEST_WRITE && intent.to <= spool.size() => {
                taken(&intent, from, log, spool)?
            }
            _ => 0,
        };
        journal.end(intent.output, from + taken);
    }
    for (output, spool) in [Output::Stdout, Output::Stderr].into_iter().zip(spools) {
        if journal.done(output) > spool.size() {
            journal.end(output, spool.size());
        }
    }
    journal.settle()
}

/// Bytes of the stream, from `from`, that the write has brought into the log.
fn taken(intent: &Intent, from: u64, log: &File, spool: &Spool) -> io::Result<u64> {
    let metadata = log.metadata()?;
    let size = metadata.len();
    if (metadata.dev(), metadata.ino()) != (intent.device, intent.inode) || size <= intent.before {
        return Ok(0);
    }
    if size - intent.before >= intent.length {
        return Ok(intent.to - from);
    }
    let mut lines = vec![0; usize::try_from(size - intent.before).map_err(io::Error::other)?];
    log.read_exact_at(&mut lines, intent.before)?;
    let whole = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    log.set_len(intent.before + whole as u64)?;
    let count = lines[..whole].iter().filter(|byte| **byte == b'\n').count();
    let mut input = Vec::new();
    spool.read(from, &mut input)?;
    input.truncate(usize::try_from(intent.to - from).map_err(io::Error::other)?);
    let limit = usize::try_from(intent.limit).map_err(io::Error::other)?;
    Ok(line::length_of(&input, limit.min(line::LONGEST), count) as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::super::line::Piece;
    use super::super::stamp::Stamp;
    use super::*;

    const INPUT: &[u8] = b"one\ntwo\r\nthree is long\n\nlast\nhalf";
    const LIMIT: usize = 6;

    fn lines(input: &[u8], end: bool) -> Vec<u8> {
        let (mut out, mut at, mut stamp) = (Vec::new(), 0, Stamp::default());
        while let Some(piece) = line::next(&input[at..], LIMIT, end) {
            line::write(&mut out, &mut stamp, Output::Stderr, &Piece { ..piece });
            at += piece.length;
        }
        out
    }

    fn contents(log: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(log).unwrap();
        text.lines().map(|line| line.get(31..).unwrap_or(line).to_owned()).collect()
    }

    /// A spool with the input, a log with an older line, and a journal whose write was begun.
    fn crashed(dir: &Path, written: &[u8], length: usize) -> (Journal, File, Spool) {
        std::fs::write(dir.join("stderr.spool"), INPUT).unwrap();
        let log = dir.join("log");
        let mut file = File::options().read(true).append(true).create(true).open(&log).unwrap();
        file.write_all(b"older\n").unwrap();
        let metadata = file.metadata().unwrap();
        let to = INPUT.len() as u64 - 4;
        let intent = Intent {
            output: Output::Stderr,
            to,
            limit: LIMIT as u64,
            device: metadata.dev(),
            inode: metadata.ino(),
            before: metadata.len(),
            length: length as u64,
        };
        file.write_all(written).unwrap();
        let mut journal = Journal::create(&dir.join("journal")).unwrap();
        journal.begin(intent).unwrap();
        drop(journal);
        let journal = Journal::open(&dir.join("journal")).unwrap();
        (journal, file, Spool::open(dir.join("stderr.spool")).unwrap())
    }

    #[test]
    fn a_write_cut_off_anywhere_is_neither_lost_nor_repeated() {
        let whole = lines(&INPUT[..INPUT.len() - 4], false);
        for cut in 0..=whole.len() {
            let dir = tempfile::tempdir().unwrap();
            let (mut journal, file, spool) = crashed(dir.path(), &whole[..cut], whole.len());
            let other = Spool::open(dir.path().join("none")).unwrap();
            recover(&mut journal, Some(&file), [&other, &spool]).unwrap();
            let done = usize::try_from(journal.done(Output::Stderr)).unwrap();
            std::fs::write(dir.path().join("rest"), lines(&INPUT[done..], true)).unwrap();
            let mut found = contents(&dir.path().join("log"));
            found.extend(contents(&dir.path().join("rest")));
            let expected =
                ["older", "stderr F one", "stderr F two", "stderr P three ", "stderr P is lon", "stderr F g"];
            assert_eq!(found[..6], expected, "cut at {cut}");
            assert_eq!(found[6..], ["stderr F ", "stderr F last", "stderr P half"], "cut at {cut}");
            // And it is settled: the next one finds nothing to do.
            let again = Journal::open(&dir.path().join("journal")).unwrap();
            assert_eq!((again.intent, again.done(Output::Stderr)), (None, done as u64));
        }
    }

    #[test]
    fn what_was_written_to_another_file_is_written_again() {
        let whole = lines(&INPUT[..INPUT.len() - 4], false);
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _, spool) = crashed(dir.path(), &whole, whole.len());
        let other = File::create_new(dir.path().join("new")).unwrap();
        recover(&mut journal, Some(&other), [&spool, &spool]).unwrap();
        assert_eq!(journal.done(Output::Stderr), 0);
    }

    #[test]
    fn a_record_that_cannot_be_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, file, spool) = crashed(dir.path(), b"", 3);
        let mut intent = journal.intent.unwrap();
        (intent.to, intent.length) = (u64::MAX, u64::MAX);
        journal.end(Output::Stdout, u64::MAX);
        journal.begin(intent).unwrap();
        recover(&mut journal, Some(&file), [&spool, &spool]).unwrap();
        assert_eq!((journal.done(Output::Stdout), journal.done(Output::Stderr)), (INPUT.len() as u64, 0));
    }
}
