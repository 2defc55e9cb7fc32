//! Header additions and removals, as routes, virtual hosts, route tables and clusters configure them.

use crate::format::{Context, Format};
use crate::message::{Direction, FieldNameBuf, FieldValue, FieldValueBuf, Fields, Invalid};

/// The configured changes of one level.
#[derive(Debug, Default)]
pub(crate) struct Mutations {
    pub request: Changes,
    pub response: Changes,
}

impl Mutations {
    pub(crate) fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

/// Removals are done first, then additions.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub add: Vec<Addition>,
    pub remove: Vec<FieldNameBuf>,
}

#[derive(Debug)]
pub(crate) struct Addition {
    pub name: FieldNameBuf,
    pub value: Format,
    pub action: AppendAction,
    pub keep_empty: bool,
}

/// Envoy's `append_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AppendAction {
    #[default]
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}

/// What the additions of one level evaluate to, in their order. An operator may have brought a client's bytes that no header may hold.
pub(crate) type Values = Vec<Result<FieldValueBuf, Invalid>>;

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// The values to add. All levels are evaluated before the first is applied, as values may read the headers that change.
    pub(crate) fn evaluate(&self, context: &Context<'_>) -> Values {
        self.add.iter().map(|addition| FieldValueBuf::new(addition.value.bytes(context))).collect()
    }

    /// Applies the changes. A value that no header may hold is left out: the response is still sent
    /// (Envoy would send the value, and so would let a client split the response).
    pub(crate) fn apply(&self, fields: &mut Fields, values: &Values) {
        self.remove_from(fields);
        for (addition, value) in self.add.iter().zip(values) {
            if let Ok(value) = value {
                addition.apply(Direction::Response, fields, value);
            }
        }
    }

    /// Applies the changes to a request; the error is the name of a header whose value no header may hold.
    pub(crate) fn apply_to_request(&self, fields: &mut Fields, values: &Values) -> Result<(), &FieldNameBuf> {
        self.remove_from(fields);
        for (addition, value) in self.add.iter().zip(values) {
            addition.apply(Direction::Request, fields, value.as_ref().map_err(|Invalid| &addition.name)?);
        }
        Ok(())
    }

    fn remove_from(&self, fields: &mut Fields) {
        for name in &self.remove {
            fields.remove(name);
        }
    }
}

impl Addition {
    fn apply(&self, direction: Direction, fields: &mut Fields, value: &FieldValueBuf) {
        if value.is_empty() && !self.keep_empty {
            return;
        }
        let (name, value) = (&self.name, FieldValue::from(value));
        match self.action {
            AppendAction::AppendIfExistsOrAdd => fields.add(direction, name, value),
            AppendAction::AddIfAbsent if !fields.contains(name) => fields.push(name, value),
            AppendAction::OverwriteIfExistsOrAdd => fields.set(name, value),
            AppendAction::OverwriteIfExists if fields.contains(name) => fields.set(name, value),
            AppendAction::AddIfAbsent | AppendAction::OverwriteIfExists => {}
        }
    }
}
