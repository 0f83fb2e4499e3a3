//! Which signal stops a container.

use windlass_api::cri;

use super::error::{Result, invalid};

const SIGTERM: u32 = libc::SIGTERM as u32;
/// The kernel's: libraries keep the first two or three for themselves, and count from where they stop.
const SIGRTMIN: u32 = 34;
const SIGRTMAX: u32 = 64;

/// What CRI asks for, else what the image says, else SIGTERM. An image that says nonsense does not keep its container
/// from being made.
pub fn stop_signal(asked: i32, image: &str) -> Result<u32> {
    match cri::Signal::try_from(asked) {
        Ok(cri::Signal::RuntimeDefault) => {}
        // PLUS and MINUS stand for what a name cannot hold.
        Ok(signal) => {
            let name = signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-");
            return parse(&name).map_or_else(|| invalid(format!("stop signal {name} is not known")), Ok);
        }
        Err(_) => return invalid(format!("stop signal {asked} is not known")),
    }
    if image.is_empty() {
        return Ok(SIGTERM);
    }
    Ok(parse(image).unwrap_or_else(|| {
        tracing::warn!(signal = image, "the image's stop signal is not known; SIGTERM is used");
        SIGTERM
    }))
}

/// A number, or a name with or without `SIG`, real-time ones as `RTMIN+1` and `RTMAX-1`.
pub fn parse(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|n| (1..=SIGRTMAX).contains(n));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u32>().ok(),
        Some(_) => None,
        None => rest.is_empty().then_some(0),
    };
    let signal = if let Some(rest) = name.strip_prefix("RTMIN") {
        SIGRTMIN.checked_add(offset(rest, '+')?)?
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        SIGRTMAX.checked_sub(offset(rest, '-')?)?
    } else {
        return named(name);
    };
    (SIGRTMIN..=SIGRTMAX).contains(&signal).then_some(signal)
}

fn named(name: &str) -> Option<u32> {
    Some(match name {
        "ABRT" | "IOT" => libc::SIGABRT,
        "ALRM" => libc::SIGALRM,
        "BUS" => libc::SIGBUS,
        "CHLD" | "CLD" => libc::SIGCHLD,
        "CONT" => libc::SIGCONT,
        "FPE" => libc::SIGFPE,
        "HUP" => libc::SIGHUP,
        "ILL" => libc::SIGILL,
        "INT" => libc::SIGINT,
        "IO" | "POLL" => libc::SIGIO,
        "KILL" => libc::SIGKILL,
        "PIPE" => libc::SIGPIPE,
        "PROF" => libc::SIGPROF,
        "PWR" => libc::SIGPWR,
        "QUIT" => libc::SIGQUIT,
        "SEGV" => libc::SIGSEGV,
        "STKFLT" => libc::SIGSTKFLT,
        "STOP" => libc::SIGSTOP,
        "SYS" => libc::SIGSYS,
        "TERM" => libc::SIGTERM,
        "TRAP" => libc::SIGTRAP,
        "TSTP" => libc::SIGTSTP,
        "TTIN" => libc::SIGTTIN,
        "TTOU" => libc::SIGTTOU,
        "URG" => libc::SIGURG,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "VTALRM" => libc::SIGVTALRM,
        "WINCH" => libc::SIGWINCH,
        "XCPU" => libc::SIGXCPU,
        "XFSZ" => libc::SIGXFSZ,
        _ => return None,
    } as u32)
}

/// The signal as CRI tells it in a status; what CRI has no name for is the runtime's default.
pub fn to_cri(signal: u32) -> cri::Signal {
    (1..=65)
        .filter_map(|n| cri::Signal::try_from(n).ok())
        .find(|s| {
            let name = s.as_str_name().replace("PLUS", "+").replace("MINUS", "-");
            parse(&name) == Some(signal)
        })
        .unwrap_or(cri::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, signal) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-14", Some(50)),
            ("SIGRTMAX", Some(64)),
            ("SIGCLD", Some(17)),
            ("0", None),
            ("65", None),
            ("99999999999", None),
            ("SIGRTMIN+31", None),
            ("SIGRTMAX-31", None),
            ("SIGRTMIN+", None),
            ("SIGRTMIN-1", None),
            ("SIGRTMIN+4294967295", None),
            ("NOPE", None),
        ] {
            assert_eq!(parse(text), signal, "{text}");
        }
    }

    #[test]
    fn every_signal_of_cri_is_known_and_told_again() {
        for n in 1..=65 {
            let signal = stop_signal(n, "SIGHUP").unwrap();
            assert_eq!(
                parse(&to_cri(signal).as_str_name().replace("PLUS", "+").replace("MINUS", "-")),
                Some(signal)
            );
        }
        assert_eq!(stop_signal(cri::Signal::Sigrtminplus15 as i32, "").unwrap(), 49);
        assert_eq!(stop_signal(cri::Signal::Sigrtmaxminus14 as i32, "").unwrap(), 50);
    }

    #[test]
    fn the_request_goes_before_the_image() {
        assert_eq!(stop_signal(0, "").unwrap(), 15);
        assert_eq!(stop_signal(0, "SIGQUIT").unwrap(), 3);
        assert_eq!(stop_signal(0, "nonsense").unwrap(), 15);
        assert_eq!(stop_signal(cri::Signal::Sigusr1 as i32, "SIGQUIT").unwrap(), 10);
        assert!(stop_signal(66, "").is_err());
        assert!(stop_signal(-1, "").is_err());
    }
}
