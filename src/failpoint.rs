//! Points between two steps at which a test makes a process die, or do what it must never do.
//!
//! They exist only with the feature `failpoints`. The environment chooses: `FAILPOINTS="commit-done=5*off->return"` lets the
//! point pass five times, then acts. The syntax is that of the crate `fail`.

/// `failpoint!("name")` ends the process on the spot where a test chose `name`, `failpoint!("name", if condition)` only then;
/// `failpoint!("name", value)` returns the value from the function around it. Without the feature they are nothing.
#[cfg(feature = "failpoints")]
macro_rules! failpoint {
    ($name:literal) => {
        fail::eval($name, |_| -> () { std::process::abort() });
    };
    ($name:literal, if $condition:expr) => {
        if $condition {
            failpoint!($name);
        }
    };
    ($name:literal, $value:expr) => {
        fail::fail_point!($name, |_| $value);
    };
}

#[cfg(not(feature = "failpoints"))]
macro_rules! failpoint {
    ($($chosen:tt)*) => {};
}

pub(crate) use failpoint;
