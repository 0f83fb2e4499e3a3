//! Users by name: looked up in the image's own files, never in this machine's.

use anyhow::{Result, bail};

use super::container::Options;
use super::image::Image;
use super::spec::{User, numeric_user};
use crate::client::Client;

/// The user that a container starts as: the option's, else the image's, else root.
pub async fn resolve(_client: &Client, image: &Image, options: &Options) -> Result<User> {
    let text = options.spec.user.as_deref().unwrap_or(&image.defaults.user);
    if text.is_empty() {
        return Ok(User::default());
    }
    match numeric_user(text) {
        Some(user) => Ok(user),
        None => bail!("user {text:?} is not uid:gid"),
    }
}
