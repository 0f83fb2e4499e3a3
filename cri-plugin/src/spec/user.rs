//! Who a container's process is: the user that CRI or the image names, and its groups, by the image's own files.

use std::collections::BTreeSet;

use windlass_api::cri;

use super::error::{Error, Result, invalid};
use super::passwd::{self, Key};
use super::rootfs::Rootfs;

/// Runtimes take ids up to here.
const MAX_ID: i64 = i32::MAX as i64;

/// Numbers for `process.user`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// In order, the primary group among them.
    pub groups: Vec<u32>,
}

/// What a request says about the user.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    pub username: &'a str,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub supplemental: &'a [i64],
    /// Groups that the image's files add are left out.
    pub strict: bool,
}

impl<'a> Asked<'a> {
    pub fn by_container(security: &'a cri::LinuxContainerSecurityContext) -> Result<Self> {
        Ok(Self {
            username: &security.run_as_username,
            uid: security.run_as_user.as_ref().map(|v| v.value),
            gid: security.run_as_group.as_ref().map(|v| v.value),
            supplemental: &security.supplemental_groups,
            strict: strict(security.supplemental_groups_policy)?,
        })
    }

    pub fn by_pod(security: &'a cri::LinuxSandboxSecurityContext) -> Result<Self> {
        Ok(Self {
            username: "",
            uid: security.run_as_user.as_ref().map(|v| v.value),
            gid: security.run_as_group.as_ref().map(|v| v.value),
            supplemental: &security.supplemental_groups,
            strict: strict(security.supplemental_groups_policy)?,
        })
    }

    /// `user` or `user:group`: what was asked for, else what the image says.
    fn text(&self, image: &str) -> Result<String> {
        let user = match (self.username, self.uid) {
            ("", None) => match self.gid {
                Some(gid) => return invalid(format!("user group {gid} is specified without user")),
                None => return Ok(image.to_owned()),
            },
            ("", Some(uid)) => uid.to_string(),
            (name, _) => name.to_owned(),
        };
        Ok(match self.gid {
            Some(gid) => format!("{user}:{gid}"),
            None => user,
        })
    }
}

fn strict(policy: i32) -> Result<bool> {
    match cri::SupplementalGroupsPolicy::try_from(policy) {
        Ok(cri::SupplementalGroupsPolicy::Merge) => Ok(false),
        Ok(cri::SupplementalGroupsPolicy::Strict) => Ok(true),
        Err(_) => invalid(format!("supplemental groups policy {policy} is not known")),
    }
}

/// A part of a user string.
enum Part<'a> {
    Id(u32),
    Name(&'a str),
}

fn part<'a>(text: &'a str, whole: &str) -> Result<Part<'a>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return match text {
            "" => invalid(format!("user {whole:?}: a part is empty")),
            name => Ok(Part::Name(name)),
        };
    }
    // Looks like a number, so it is none of the image's names: a line for it could stand for any id.
    match text.parse::<i64>() {
        Ok(id @ 0..=MAX_ID) => Ok(Part::Id(id as u32)),
        _ => invalid(format!("user {whole:?}: {text} is out of range, ids are below 2147483648")),
    }
}

/// Looks everything up that needs to be.
pub fn resolve(asked: &Asked<'_>, image: &str, root: &dyn Rootfs) -> Result<User> {
    let text = asked.text(image)?;
    let mut parts = text.split(':');
    let (user, group, rest) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if rest.is_some() {
        return invalid(format!("user {text:?} has more than a user and a group"));
    }
    let user = if text.is_empty() { Part::Id(0) } else { part(user, &text)? };
    let account = match user {
        Part::Name(name) => Some(
            passwd::account(root, Key::Name(name))?
                .ok_or_else(|| Error::Invalid(format!("user {name:?} is not in /etc/passwd of the image")))?,
        ),
        Part::Id(id) if needs_account(&text, group, asked.strict) => passwd::account(root, Key::Id(id))?,
        Part::Id(_) => None,
    };
    let uid = match user {
        Part::Id(id) => id,
        Part::Name(_) => account.as_ref().map_or(0, |a| a.uid),
    };
    let gid = match group.map(|g| part(g, &text)).transpose()? {
        Some(Part::Id(id)) => id,
        Some(Part::Name(name)) => passwd::group(root, name)?
            .ok_or_else(|| Error::Invalid(format!("group {name:?} is not in /etc/group of the image")))?,
        // Nobody named a user: that is root's group, whatever the image says.
        None if text.is_empty() => 0,
        None => account.as_ref().map_or(0, |a| a.gid),
    };
    let mut groups = BTreeSet::from([gid]);
    for &group in asked.supplemental {
        match group {
            0..=MAX_ID => groups.insert(group as u32),
            _ => {
                return invalid(format!(
                    "supplemental group {group} is out of range, ids are below 2147483648"
                ));
            }
        };
    }
    if !asked.strict
        && let Some(account) = account
    {
        groups.extend(passwd::memberships(root, &account.name)?);
    }
    Ok(User { uid, gid, groups: groups.into_iter().collect() })
}

/// Whether a user that is a number has to be looked up at all.
fn needs_account(text: &str, group: Option<&str>, strict: bool) -> bool {
    !strict || (group.is_none() && !text.is_empty())
}

impl User {
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"uid": self.uid, "gid": self.gid, "additionalGids": self.groups})
    }

    pub fn to_cri(&self) -> cri::ContainerUser {
        cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: self.uid.into(),
                gid: self.gid.into(),
                supplemental_groups: self.groups.iter().map(|&g| g.into()).collect(),
            }),
        }
    }
}

#[cfg(test)]
#[path = "tests/user.rs"]
mod tests;
