//! Giving memory back soon after something was asked: most shims wait for hours, or are probed every few seconds.
//!
//! The heap's free pages go back to the kernel, and the pages of program code that only starting a container needs are
//! unmapped; they come back from the page cache when they are needed again.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

/// From activity to the trim after it. Long enough that a container's start is over; a probe every second then pays the
/// page faults of one exec.
const PAUSE: Duration = Duration::from_secs(1);

/// Trims after activity, also while it goes on.
pub async fn run(activity: Rc<Notify>) {
    loop {
        activity.notified().await;
        sleep(PAUSE).await;
        trim();
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes nothing but the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
    unmap_code();
}

fn unmap_code() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let page = rustix::param::page_size();
    let start = (&raw const __executable_start as usize).next_multiple_of(page);
    let end = (&raw const etext as usize) / page * page;
    if start < end {
        // SAFETY: between these two the linker puts headers, constants and code, mapped from the file and never written:
        // a page that is dropped reads the same when it comes back. A refusal changes nothing.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}
