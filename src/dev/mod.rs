//! A Postgres of one's own, for a first look, for tests and for benchmarks: started from installed server binaries, and
//! stopped with the program, however that ends.
//!
//! [`PrivatePostgres`] is the whole of it. Below it: [`binaries`] finds the server, [`account`] picks the user it runs as,
//! [`cluster`] makes the data folder, [`guard`] ties the server's life to ours, [`leftover`] clears away what an earlier
//! program could not stop.

mod account;
mod binaries;
mod cluster;
mod error;
mod guard;
mod leftover;
mod postgres;

pub use binaries::find_program;
pub use error::Error;
pub use postgres::{DataDirEnv, Options, PrivatePostgres, default_data_dir};
