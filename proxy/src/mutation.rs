//! Header additions and removals, as routes, virtual hosts, route tables and clusters configure them.

use crate::format::{Context, Format};
use crate::message::Fields;

/// The configured changes of one level.
#[derive(Debug, Default)]
pub struct Mutations {
    pub request: Changes,
    pub response: Changes,
}

impl Mutations {
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

/// Removals are done first, then additions.
#[derive(Debug, Default)]
pub struct Changes {
    pub add: Vec<Addition>,
    /// Names in lower case.
    pub remove: Vec<Box<str>>,
}

#[derive(Debug)]
pub struct Addition {
    /// In lower case.
    pub name: Box<str>,
    pub value: Format,
    pub action: Append,
    pub keep_empty: bool,
}

/// Envoy's `append_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Append {
    #[default]
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Applies the changes; values are evaluated first, as they may read the fields that change.
    pub fn apply(&self, fields: &mut Fields, values: &[Vec<u8>]) {
        for name in &self.remove {
            fields.remove(&**name);
        }
        for (addition, value) in self.add.iter().zip(values) {
            addition.apply(fields, value);
        }
    }

    /// The values to add, in their order.
    pub fn evaluate(&self, context: &Context<'_>) -> Vec<Vec<u8>> {
        self.add.iter().map(|addition| addition.value.bytes(context)).collect()
    }
}

impl Addition {
    /// Applies an evaluated value.
    pub fn apply(&self, fields: &mut Fields, value: &[u8]) {
        if value.is_empty() && !self.keep_empty {
            return;
        }
        match self.action {
            Append::AppendIfExistsOrAdd => fields.push(&*self.name, value),
            Append::AddIfAbsent if !fields.contains(&*self.name) => fields.push(&*self.name, value),
            Append::OverwriteIfExistsOrAdd => fields.set(&*self.name, value),
            Append::OverwriteIfExists if fields.contains(&*self.name) => fields.set(&*self.name, value),
            Append::AddIfAbsent | Append::OverwriteIfExists => {}
        }
    }
}
