//! The extensions of Envoy 1.40, so that those that petmesh lacks are not taken for misspelt ones.
//!
//! `tests/extensions.py` writes `extensions.txt`: each line is a category, a name, and the types of
//! the settings.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::schema;

const TABLE: &str = include_str!("extensions.txt");

struct Index {
    types: HashSet<&'static str>,
    /// Category and name, or category and type.
    members: HashSet<(&'static str, &'static str)>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let (mut types, mut members) = (HashSet::new(), HashSet::new());
    for line in TABLE.lines() {
        let mut words = line.split(' ');
        let category = words.next().unwrap_or_default();
        members.extend(words.next().map(|name| (category, name)));
        for full_name in words {
            types.insert(full_name);
            members.insert((category, full_name));
        }
    }
    Index { types, members }
});

/// Whether Envoy has an extension whose settings are of this type.
pub(crate) fn is_type(full_name: &str) -> bool {
    INDEX.types.contains(full_name)
}

/// The types of the settings of all extensions.
pub(crate) fn types() -> impl Iterator<Item = &'static str> {
    TABLE.lines().flat_map(|line| line.split(' ').skip(2))
}

/// Whether Envoy has an extension of this category with this name, or with settings of this type.
pub fn is_extension(category: &str, name: &str) -> bool {
    INDEX.members.contains(&(category, name))
}

/// Whether petmesh implements an extension: it has the type of its settings.
pub fn is_implemented_extension(category: &str, name: &str) -> bool {
    implemented_extensions().any(|(of, called, _)| (of, called) == (category, name))
}

/// The extensions that petmesh implements, each with its category, its name and the types of its settings.
pub fn implemented_extensions() -> impl Iterator<Item = (&'static str, &'static str, Vec<&'static str>)> {
    TABLE.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (category, name, types) = (words.next()?, words.next()?, words.collect::<Vec<_>>());
        types.iter().any(|full_name| schema::message(full_name).is_some()).then_some((category, name, types))
    })
}

/// The names of a category.
pub fn extension_names(category: &str) -> impl Iterator<Item = &'static str> {
    TABLE.lines().filter_map(move |line| {
        let mut words = line.split(' ');
        (words.next() == Some(category)).then(|| words.next()).flatten()
    })
}
