//! The process ends, as by `kill -9`, at the step that WINDLASS_KILL_AT names. Only with the feature `failpoints`.

/// Arms the step; a name that no step has is never reached.
pub fn arm() {
    if let Ok(step) = std::env::var("WINDLASS_KILL_AT") {
        let armed = fail::cfg_callback(step.as_str(), || {
            // Tells the test that the step was reached. The results do not matter: nothing runs after this.
            if let Ok(mark) = std::env::var("WINDLASS_KILL_MARK") {
                let _ = std::fs::write(mark, "");
            }
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        });
        armed.expect("failpoints are built in, so arming one succeeds");
    }
}
