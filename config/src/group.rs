//! `[group.<name>]`: the cluster and components that are brought back to one point.

use std::collections::BTreeMap;

use crate::component::{Component, cluster};
use crate::keys::{GROUP, join};
use crate::raw::Raw;
use crate::reader::{Outcome, Reader};
use crate::schedule::Schedule;

/// The cluster and components that are brought back to one point.
#[derive(Debug, Clone)]
pub struct Group {
    /// As a component's.
    pub name: String,
    /// `cluster`: whose WAL the point lies in. The only one there is, when not set.
    pub cluster: String,
    /// `components`.
    pub components: Vec<String>,
    /// `schedule`; `None`: by hand.
    pub schedule: Option<Schedule>,
}

/// Reads all of `[group.<name>]`.
pub(crate) fn check(raw: &Raw, components: &BTreeMap<String, Component>, out: &mut Outcome) -> BTreeMap<String, Group> {
    let mut all = BTreeMap::new();
    for name in &raw.groups {
        let mut reader = Reader::at(raw, &join("group", name), &GROUP, out);
        let group = group(&mut reader, raw, name, components);
        all.extend(group.map(|group| (name.clone(), group)));
    }
    all
}

fn group(reader: &mut Reader<'_>, raw: &Raw, name: &str, components: &BTreeMap<String, Component>) -> Option<Group> {
    let cluster = cluster(reader, raw);
    let members = reader.list("components");
    let schedule = reader.text("schedule").and_then(|text| Schedule::parse(&text).ok());
    let names: Vec<&str> = raw.components.iter().map(String::as_str).collect();
    if members.is_empty() {
        let hint = format!(
            "The configuration has: {}. The cluster itself always belongs to it.",
            names.join(", ")
        );
        reader.complain("components", "names nothing", hint);
    }
    for member in &members {
        if !raw.components.contains(member) {
            let what = format!("names \"{}\", which is not in the configuration", member.escape_debug());
            reader.complain(
                "components",
                &what,
                format!("The configuration has: {}.", names.join(", ")),
            );
        }
        if members.iter().filter(|other| *other == member).count() > 1 {
            let what = format!("names \"{}\" twice", member.escape_debug());
            reader.complain("components", &what, "Once is enough.");
        }
    }
    let cluster = cluster?;
    let elsewhere = members
        .iter()
        .filter_map(|member| components.get(member))
        .find(|component| component.cluster != cluster);
    if let Some(component) = elsewhere {
        let what = format!(
            "names \"{}\", which belongs to cluster \"{}\"",
            component.name, component.cluster
        );
        let hint = format!("All of a group lie in one cluster's part of the repository, here that of \"{cluster}\".");
        reader.complain("components", &what, hint);
    }
    Some(Group {
        name: name.to_owned(),
        cluster,
        components: members,
        schedule,
    })
}
