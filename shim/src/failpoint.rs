//! Named steps at which a test may stop the process. Without the feature `failpoints` nothing is left of them.

/// `failpoint!("shim.create.mounted")` inside a function that returns this crate's `Result`.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |text: Option<String>| {
            Err($crate::error::Error::unknown(
                text.unwrap_or_else(|| concat!("failpoint ", $name).to_owned()),
            ))
        });
    };
}
pub(crate) use failpoint;
