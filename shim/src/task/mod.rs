//! The task service: what a daemon asks of the containers of one shim.
//!
//! Everything runs on one thread, so state is in cells and nothing is locked but what lasts: a start, a deletion, a
//! change of one container. No lock is held around the work of another container.

mod create;
mod dispatch;
mod exec;
mod exit;
mod manage;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use tokio::sync::{Notify, watch};

pub(crate) use self::dispatch::reply;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::Publisher;
use crate::io::Setup;
use crate::reaper::Reaper;

pub struct Tasks {
    namespace: String,
    publisher: Rc<Publisher>,
    reaper: Rc<Reaper>,
    containers: RefCell<HashMap<String, Rc<Container>>>,
    /// Ids whose creation is under way.
    creating: RefCell<HashSet<String>>,
    stop: watch::Sender<bool>,
    /// Told at every call.
    activity: Rc<Notify>,
}

impl Tasks {
    pub fn new(
        namespace: &str,
        publisher: Rc<Publisher>,
        reaper: Rc<Reaper>,
        stop: watch::Sender<bool>,
        activity: Rc<Notify>,
    ) -> Rc<Tasks> {
        Rc::new(Tasks {
            namespace: namespace.to_owned(),
            publisher,
            reaper,
            containers: RefCell::default(),
            creating: RefCell::default(),
            stop,
            activity,
        })
    }

    fn container(&self, id: &str) -> Result<Rc<Container>> {
        self.containers.borrow().get(id).cloned().ok_or_else(|| Error::not_found("container not created"))
    }

    fn setup<'a>(&'a self, container: &Container, id: &'a str) -> Setup<'a> {
        Setup {
            id,
            namespace: &self.namespace,
            uid: container.options.io_uid,
            gid: container.options.io_gid,
            direct: container.direct_io,
            late_stdin: id == container.id,
        }
    }
}

/// Ids become parts of paths.
fn check_id(id: &str) -> Result<()> {
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || id.contains(['/', '\0']) {
        return Err(Error::invalid(format!("invalid id {id:?}")));
    }
    Ok(())
}
