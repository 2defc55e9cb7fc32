//! Tree to message, guided by the descriptor: accepts what Envoy accepts and collects every error on the way.

use std::collections::{HashMap, HashSet};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as Type, MapKey, MessageDescriptor, Value};

use super::nearest::nearest;
use super::path::Path;
use super::tree::{Entry, Kind, Node, Plain, Span};
use super::{check, scalar, wellknown};
use crate::diagnostic::{self, Code, Diagnostic};
use crate::schema::{self, MessageMarks, Status};

/// Most findings of one file; a file with more is not worth reading on.
pub const MAX_FINDINGS: usize = 500;

/// What is found while one file is read.
pub(crate) struct Converter<'f> {
    pub(crate) file: &'f str,
    pub(crate) findings: Vec<Diagnostic>,
    pub(crate) errors: usize,
    /// Those of the errors that say only what petmesh does not implement.
    pub(crate) not_implemented: usize,
    /// Findings that were too many.
    left_out: usize,
}

impl<'f> Converter<'f> {
    pub(crate) fn new(file: &'f str) -> Self {
        Self { file, findings: Vec::new(), errors: 0, not_implemented: 0, left_out: 0 }
    }

    /// The message that a node describes. A finding is recorded for whatever cannot be read.
    pub(crate) fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        node: &mut Node,
        path: &Path<'_>,
    ) -> Option<DynamicMessage> {
        if let Some(read) = wellknown::message(self, descriptor, node, path) {
            return read;
        }
        let span = node.span;
        let mut message = DynamicMessage::new(descriptor.clone());
        let Kind::Map(entries) = &mut node.kind else {
            if !node.is_null() {
                self.wrong_type(node, path, "a mapping");
            }
            return None;
        };
        let marks = schema::marks(descriptor);
        let mut faulty = Faulty::default();
        let mut places = Vec::with_capacity(entries.len().min(marks.all.len()));
        let fields: Vec<_> = entries.iter().map(|entry| lookup(descriptor, &entry.name)).collect();
        let again = given_again(&fields);
        // A text whose opening quote is missing falls into pieces at its commas: one of them has the closing quote.
        let torn =
            entries.iter().zip(&fields).any(|(entry, field)| field.is_none() && ends_quote(&entry.name));
        for (index, (entry, field)) in entries.iter_mut().zip(fields).enumerate() {
            let Some(field) = field else {
                if torn && entry.value.is_null() && !ends_quote(&entry.name) {
                    continue;
                }
                faulty.unknown.push(self.unknown_field(descriptor, entry, path));
                continue;
            };
            if again.contains(&index) {
                let name = entry.spelling().to_owned();
                let message = format!("`{name}` is given twice; the last one counts");
                self.warn(Code::DuplicateKey, message, entry.span, &path.key(&name));
                continue;
            }
            places.push((field.number(), entry.value.span));
            let errors = self.errors;
            self.field_value(&field, &marks, entry, path, &mut message);
            if self.errors > errors && !(message.has_field(&field) && field.is_list()) {
                faulty.fields.push(field.number());
            }
        }
        for violation in check::message(&message) {
            if !faulty.explains(&violation, &places) {
                self.violation(violation, span, &places, path);
            }
        }
        Some(message)
    }

    /// A key that is no field; the field that was probably meant.
    fn unknown_field(
        &mut self,
        descriptor: &MessageDescriptor,
        entry: &Entry,
        path: &Path<'_>,
    ) -> Option<u32> {
        let name = entry.name.as_str();
        let path = path.key(entry.spelling());
        if name == "<<" {
            let message = "merge keys (`<<`) are refused, as Envoy refuses them";
            let help = "write the values out, or use an alias for the whole value";
            self.push(self.error(Code::MergeKey, message, entry.span, &path).suggestion(help));
            return None;
        }
        if self.errors >= MAX_FINDINGS {
            self.leave_out();
            return None;
        }
        let fields: Vec<_> = descriptor.fields().collect();
        let message = format!("unknown field `{}` in {}", entry.spelling(), descriptor.name());
        let mut finding = self.error(Code::UnknownField, message, entry.span, &path);
        let near = nearest(name, fields.iter().map(FieldDescriptor::name));
        if ends_quote(name) {
            finding = finding.suggestion("the quote that it ends with has no beginning");
        } else if let Some(near) = near {
            finding = finding.suggestion(format!("did you mean `{near}`?"));
        }
        self.push(finding);
        near.and_then(|near| descriptor.get_field_by_name(near)).map(|field| field.number())
    }

    fn field_value(
        &mut self,
        field: &FieldDescriptor,
        marks: &MessageMarks,
        entry: &mut Entry,
        path: &Path<'_>,
        message: &mut DynamicMessage,
    ) {
        if entry.value.is_null() && !takes_null(field) {
            return;
        }
        let Entry { name, written, span, value, .. } = entry;
        let spelling = written.as_deref().unwrap_or(name);
        let today = if spelling == name { String::new() } else { format!(", today's `{name}`,") };
        match &marks.field(field.number()).status {
            Status::Implemented => {}
            _ if is_default(field, value) => return,
            Status::Refused(reason) => {
                let text =
                    format!("`{spelling}`{today} is valid in Envoy, but petmesh does not implement it");
                let path = path.key(spelling);
                return self
                    .push(self.error(Code::NotImplemented, text, *span, &path).suggestion(reason.as_str()));
            }
            Status::Harmless(reason) => {
                let text = format!("`{spelling}` has no effect in petmesh: {reason}");
                self.warn(Code::Harmless, text, *span, &path.key(spelling));
                if field.kind().as_message().is_some_and(|inner| inner.full_name() == "petmesh.Opaque") {
                    return;
                }
            }
        }
        if let Some(oneof) = field.containing_oneof()
            && let Some(other) = oneof.fields().find(|other| message.has_field(other))
        {
            let text = format!("`{spelling}` and `{}` exclude each other", other.name());
            return self.push(
                self.error(Code::OneOf, text, *span, &path.key(spelling)).suggestion("remove one of them"),
            );
        }
        let moved = value.written.take();
        let here = path.key(spelling);
        let here = here.moved(moved.as_deref());
        let read = if field.is_map() {
            self.map(field, value, &here)
        } else if field.is_list() {
            Some(self.list(field, value, &here))
        } else {
            self.value(&field.kind(), value, &here)
        };
        value.written = moved;
        if let Some(read) = read {
            message.set_field(field, read);
        }
    }

    /// A list; a single value counts as a list of one, as in Envoy.
    fn list(&mut self, field: &FieldDescriptor, node: &mut Node, path: &Path<'_>) -> Value {
        let kind = field.kind();
        let Kind::List(items) = &mut node.kind else {
            return Value::List(self.value(&kind, node, path).into_iter().collect());
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter_mut().enumerate() {
            let path = path.index(index);
            // Envoy takes `null` in a list for an empty value, and a list in a list for its items.
            if item.is_null() && !takes_null(field) {
                if kind.as_message().is_none() {
                    values.push(Value::default_value(&kind));
                    continue;
                }
                item.kind = Kind::Map(Vec::new());
            }
            if matches!(item.kind, Kind::List(_)) && !takes_null(field) {
                if let Value::List(inner) = self.list(field, item, &path) {
                    values.extend(inner);
                }
                continue;
            }
            let moved = item.written.take();
            let read = self.value(&kind, item, &path.moved(moved.as_deref()));
            // What could not be read keeps its place, so that the paths of later findings count it.
            values.push(read.unwrap_or_else(|| Value::default_value(&kind)));
            item.written = moved;
        }
        Value::List(values)
    }

    fn map(&mut self, field: &FieldDescriptor, node: &mut Node, path: &Path<'_>) -> Option<Value> {
        let kind = field.kind().as_message().map(MessageDescriptor::map_entry_value_field)?.kind();
        let Kind::Map(entries) = &mut node.kind else {
            self.wrong_type(node, path, "a mapping");
            return None;
        };
        let mut values = HashMap::new();
        for Entry { name, value, .. } in entries {
            // Envoy takes `null` for free data without members.
            if value.is_null() && kind.as_message().is_some_and(|m| m.full_name() == "google.protobuf.Struct")
            {
                values.insert(MapKey::String(name.clone()), Value::default_value(&kind));
            } else if let Some(read) = self.value(&kind, value, &path.key(name)) {
                values.insert(MapKey::String(name.clone()), read);
            }
        }
        Some(Value::Map(values))
    }

    /// One value of a kind.
    pub(crate) fn value(&mut self, kind: &Type, node: &mut Node, path: &Path<'_>) -> Option<Value> {
        if let Type::Message(descriptor) = kind {
            return self.message(descriptor, node, path).map(Value::Message);
        }
        match scalar::read(kind, node) {
            Ok(value) => {
                if let (Type::Enum(descriptor), Value::EnumNumber(number)) = (kind, &value)
                    && let Some(reason) = schema::refused_value(descriptor.full_name(), *number)
                {
                    let name = descriptor.get_value(*number).map(|v| v.name().to_owned()).unwrap_or_default();
                    let text = format!("`{name}` is valid in Envoy, but petmesh does not implement it");
                    let finding = self.error(Code::NotImplemented, text, node.span, path);
                    self.push(finding.suggestion(reason));
                    return None;
                }
                Some(value)
            }
            Err(mistake) => {
                let mut finding =
                    self.error(mistake.code, mistake.message, node.span, path).expected(mistake.expected);
                finding.suggestion = mistake.suggestion;
                self.push(finding);
                None
            }
        }
    }

    /// Records that a node is of another kind than needed.
    pub(crate) fn wrong_type(&mut self, node: &Node, path: &Path<'_>, expected: &str) {
        let found = scalar::describe(node);
        let finding = self.error(Code::WrongType, format!("found {found}"), node.span, path);
        self.push(finding.expected(expected));
    }

    pub(crate) fn error(
        &self,
        code: Code,
        message: impl Into<String>,
        span: Span,
        path: &Path<'_>,
    ) -> Diagnostic {
        Diagnostic::error(self.file, code, message).at(span).path(path.to_string())
    }

    pub(crate) fn warn(&mut self, code: Code, message: String, span: Span, path: &Path<'_>) {
        self.push(Diagnostic::warning(self.file, code, message).at(span).path(path.to_string()));
    }

    pub(crate) fn push(&mut self, finding: Diagnostic) {
        let error = finding.is_error();
        self.errors += usize::from(error);
        self.not_implemented += usize::from(error && finding.code == Code::NotImplemented);
        // Many warnings must not hide an error.
        let count = if error { self.errors } else { self.findings.len() + 1 };
        if count <= MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    /// Counts an error that is one too many, without the work of describing it.
    fn leave_out(&mut self) {
        self.errors += 1;
        self.left_out += 1;
    }

    /// All findings, ordered by place.
    pub(crate) fn into_findings(mut self) -> Vec<Diagnostic> {
        diagnostic::sort(&mut self.findings);
        diagnostic::keep_once(&mut self.findings);
        if self.left_out > 0 {
            let text = format!("{} further findings are not shown", self.left_out);
            self.findings.push(Diagnostic::warning(self.file, Code::Limit, text));
        }
        self.findings
    }

    fn violation(
        &mut self,
        mut violation: check::Violation,
        span: Span,
        places: &[(u32, Span)],
        path: &Path<'_>,
    ) {
        let (span, field_path) = match &violation.field {
            Some(field) => match places.iter().find(|(number, _)| *number == field.number()) {
                Some((_, value)) => {
                    if violation.code == Code::MissingField {
                        violation.code = Code::BadValue;
                        violation.message = format!("`{}` is empty", field.name());
                        violation.expected = "a value".to_owned();
                    }
                    (*value, path.key(field.name()))
                }
                None => (span, *path),
            },
            None => (span, *path),
        };
        let finding = self.error(violation.code, violation.message, span, &field_path);
        self.push(finding.expected(violation.expected));
    }
}

/// What of a message could not be read.
#[derive(Default)]
struct Faulty {
    /// Fields whose values have errors.
    fields: Vec<u32>,
    /// For each key that is no field, the field that was probably meant.
    unknown: Vec<Option<u32>>,
}

impl Faulty {
    /// Whether a rule is only broken because something could not be read, which has been said.
    fn explains(&self, violation: &check::Violation, places: &[(u32, Span)]) -> bool {
        let wanted = violation.field.iter().chain(&violation.choices).map(FieldDescriptor::number);
        let given = |field: &FieldDescriptor| places.iter().any(|(number, _)| *number == field.number());
        let missing = violation.field.as_ref().is_none_or(|field| !given(field));
        wanted
            .into_iter()
            .any(|number| self.fields.contains(&number) || missing && self.unknown.contains(&Some(number)))
            || missing && self.unknown.contains(&None)
    }
}

/// The entries of whose field a later one says something too: the last one counts.
fn given_again(fields: &[Option<FieldDescriptor>]) -> HashSet<usize> {
    let number = |field: &Option<FieldDescriptor>| field.as_ref().map(FieldDescriptor::number);
    if fields.len() <= 16 {
        let again = |at: &usize| {
            number(&fields[*at])
                .is_some_and(|n| fields[at + 1..].iter().any(|other| number(other) == Some(n)))
        };
        return (0..fields.len()).filter(again).collect();
    }
    let mut later = HashSet::new();
    let again = |at: &usize| number(&fields[*at]).is_some_and(|number| !later.insert(number));
    (0..fields.len()).rev().filter(again).collect()
}

/// Whether a key ends with a quote that does not begin it.
fn ends_quote(key: &str) -> bool {
    key.ends_with(['"', '\''])
}

/// A field by its name or its camel-case name.
fn lookup(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name))
}

/// `google.protobuf.Value` is the one message for which null is a value.
fn takes_null(field: &FieldDescriptor) -> bool {
    !field.is_map()
        && field.kind().as_message().is_some_and(|message| message.full_name() == "google.protobuf.Value")
}

/// Whether the value says the same as its absence.
fn is_default(field: &FieldDescriptor, node: &Node) -> bool {
    match &node.kind {
        Kind::List(items) => items.is_empty() && (field.is_list() || field.is_map()),
        Kind::Map(entries) => entries.is_empty() && field.is_map(),
        Kind::Scalar(scalar) if field.kind().as_message().is_none() && !field.supports_presence() => {
            matches!(scalar.plain(), Plain::Bool(false) | Plain::Int(0)) || scalar.text.is_empty()
        }
        Kind::Scalar(_) => false,
    }
}
