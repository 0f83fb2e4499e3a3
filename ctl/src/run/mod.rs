//! What running a container takes: the image's configuration, a specification, standard streams, a terminal.

pub mod container;
pub mod image;
pub mod io;
pub mod log;
pub mod record;
pub mod spec;
pub mod task;
pub mod terminal;
pub mod unpack;
pub mod user;
