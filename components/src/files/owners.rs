//! Names of owners, from the host's own files: numbers mean other people on another host.

use std::collections::HashMap;

use store::file_table::Attributes;

/// Names by number.
#[derive(Debug, Default)]
pub struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    /// As `/etc/passwd` and `/etc/group` say (passwd(5), group(5)); users of a directory service have numbers alone.
    #[must_use]
    pub fn of_system() -> Self {
        let read = |path: &str| names(&std::fs::read_to_string(path).unwrap_or_default());
        Owners {
            users: read("/etc/passwd"),
            groups: read("/etc/group"),
        }
    }

    /// Name of a user.
    #[must_use]
    pub fn user(&self, uid: u32) -> Option<String> {
        self.users.get(&uid).cloned()
    }

    /// Name of a group.
    #[must_use]
    pub fn group(&self, gid: u32) -> Option<String> {
        self.groups.get(&gid).cloned()
    }

    /// Numbers here of an entry's owner and group: by name where the name is known, as they were otherwise.
    #[must_use]
    pub fn owner(&self, of: &Attributes) -> (u32, u32) {
        let uid = of.user.as_deref().and_then(|name| self.uid(name));
        let gid = of.group.as_deref().and_then(|name| self.gid(name));
        (uid.unwrap_or(of.uid), gid.unwrap_or(of.gid))
    }

    /// Number of a user.
    #[must_use]
    pub fn uid(&self, name: &str) -> Option<u32> {
        number(&self.users, name)
    }

    /// Number of a group.
    #[must_use]
    pub fn gid(&self, name: &str) -> Option<u32> {
        number(&self.groups, name)
    }
}

fn number(names: &HashMap<u32, String>, wanted: &str) -> Option<u32> {
    let found = names.iter().filter(|(_, name)| *name == wanted);
    found.map(|(number, _)| *number).min()
}

/// `name:password:number:...` a line.
fn names(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_files_of_the_system() {
        let users = names("root:x:0:0:root:/root:/bin/sh\nbroken\ntoor:x:0:0::/:\nwww-data:x:33:33::/:\n");
        assert_eq!(users.len(), 2);
        assert_eq!((users[&0].as_str(), users[&33].as_str()), ("root", "www-data"));
        let owners = Owners {
            users,
            groups: HashMap::new(),
        };
        assert_eq!(
            (owners.uid("www-data"), owners.uid("nobody"), owners.gid("root")),
            (Some(33), None, None)
        );
    }
}
