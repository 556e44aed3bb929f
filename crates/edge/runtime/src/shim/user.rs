//! Who a container's processes are, by its own `/etc/passwd` and `/etc/group`.
//!
//! Called with the container's root as ours. A file that is not there, or too long, names nobody; invariant: nothing in
//! these files gives a user or group other than the settings ask for.

use crate::security::Security;
use std::{fs::File, io::Read};

/// Longest part of a file that is read, in bytes.
const BYTES_MAX: u64 = 1 << 20;
/// More groups than this are not taken on (the kernel's limit is 65,536).
const GROUPS_MAX: usize = 1024;

/// A user with all that comes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// Supplementary group ids.
    pub(crate) groups: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
}

impl User {
    /// Finds out who `security` means in this root directory, or else the image's `user[:group]`.
    ///
    /// # Errors
    /// If the image means somebody by a name that its files do not have.
    pub(crate) fn of(security: &Security, image_user: &str) -> Result<Self, String> {
        resolve(security, image_user, &read("/etc/passwd"), &read("/etc/group"))
    }

    /// Whether it is who we are anyhow.
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0 && self.gid == 0 && self.groups.is_empty()
    }
}

fn read(path: &str) -> String {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => text,
        Err(_) => String::new(),
    }
}

/// A number, or the id that follows this name in lines of a passwd or group file; containerd's words if there is none.
fn id(name: &str, text: &str, kind: &str, file: &str) -> Result<u32, String> {
    let named = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    name.parse()
        .ok()
        .or_else(|| text.lines().find_map(named))
        .ok_or_else(|| format!("unable to find {kind} {name}: no matching entries in {file} file"))
}

fn resolve(security: &Security, image_user: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, group_of_image) = image_user.split_once(':').unwrap_or((image_user, ""));
    let (uid, group_of_image) = match security.user {
        Some(uid) => (uid, None),
        None if user.is_empty() => (0, None),
        None if group_of_image.is_empty() => (id(user, passwd, "user", "passwd")?, None),
        None => (id(user, passwd, "user", "passwd")?, Some(id(group_of_image, group, "group", "group")?)),
    };
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, gid, _, home, ..] = fields[..] else { return None };
        (id.parse() == Ok(uid)).then(|| (name, gid.parse::<u32>().ok(), home))
    });
    let gid = security.group.or(group_of_image).or_else(|| entry.and_then(|(_, gid, _)| gid)).unwrap_or(0);
    let mut groups = security.groups.clone();
    // As for a login of that user; Kubernetes gives them to root too, which needs none of them here.
    if let (false, Some((name, ..))) = (security.strict_groups || uid == 0, entry) {
        groups.extend(group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, id, members, ..] = fields[..] else { return None };
            members.split(',').any(|member| member == name).then(|| id.parse::<u32>().ok()).flatten()
        }));
    }
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(GROUPS_MAX);
    let home = match entry.map(|(_, _, home)| home) {
        Some(home) if home.starts_with('/') => home,
        _ if uid == 0 => "/root",
        _ => "/",
    };
    Ok(User { uid, gid, groups, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:103:web:/srv/web:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nlogs:x:7:web,other\nwebs:x:8:webb\nadm:x:4:root\n";

    fn of_image(security: Security, image: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        let User { uid, gid, groups, home } = resolve(&security, image, PASSWD, GROUP)?;
        Ok((uid, gid, groups, home))
    }

    fn user(security: Security) -> (u32, u32, Vec<u32>, String) {
        of_image(security, "nobody-there:x").unwrap()
    }

    #[test]
    fn the_images_user_is_one_of_its_own_or_a_number() {
        let image = |user| of_image(Security::default(), user);
        assert_eq!(image("").unwrap().0, 0);
        assert_eq!(image("web").unwrap(), (101, 103, vec![7], "/srv/web".into()));
        assert_eq!(image("web:adm").unwrap().1, 4);
        assert_eq!(image("101:9").unwrap(), (101, 9, vec![7], "/srv/web".into()));
        assert_eq!(image("77").unwrap(), (77, 0, vec![], "/".into()));
        assert!(
            image("none").unwrap_err().contains("unable to find user none: no matching entries in passwd")
        );
        assert!(image("web:none").unwrap_err().contains("group none"));
    }

    #[test]
    fn users_have_the_images_groups_and_home_but_for_what_is_said() {
        let security = |user: u32| Security { user: Some(user), ..Security::default() };
        assert_eq!(user(security(0)), (0, 0, vec![], "/root".into()));
        assert_eq!(user(security(101)), (101, 103, vec![7], "/srv/web".into()));
        assert_eq!(user(security(4242)), (4242, 0, vec![], "/".into()));
        let said = Security { group: Some(5), groups: vec![9, 7, 9], ..security(101) };
        assert_eq!(user(said.clone()), (101, 5, vec![7, 9], "/srv/web".into()));
        let strict = Security { groups: vec![9], strict_groups: true, ..said };
        assert_eq!(user(strict), (101, 5, vec![9], "/srv/web".into()));
    }
}
