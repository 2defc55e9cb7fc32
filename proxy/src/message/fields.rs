//! A list of headers in one buffer: what heads and trailers are made of.

use std::fmt;

use super::known::{Direction, Known};
use super::parts::{FieldName, FieldValue, Invalid, LOWER, Name};
use super::work;

/// Headers or trailers in their order, in one buffer that is reused when the list is cleared.
///
/// Names are tokens in lower case and values are checked: `FieldName` and `FieldValue` are the only way in. Replacing or removing
/// leaves the old bytes in the buffer until `clear`; a head lives for one request.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
    list: Vec<Field>,
    /// The well-known names that were put in since it was empty: the others need no search.
    known: u128,
}

/// Room for a usual head and what the proxy adds to it, so that it does not grow in steps.
const USUAL_BYTES: usize = 512;
const USUAL_FIELDS: usize = 16;

#[derive(Clone, Copy)]
struct Field {
    known: Option<Known>,
    /// The name's place in `bytes`; empty when `known`.
    name: Span,
    value: Span,
}

#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Fields {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
        self.known = 0;
    }

    /// Makes room for a head that is about to be read.
    pub(crate) fn reserve(&mut self) {
        self.bytes.reserve(USUAL_BYTES);
        self.list.reserve(USUAL_FIELDS);
    }

    /// Gives back buffers that a large head has made large. Only for a list that was cleared.
    pub(crate) fn shrink(&mut self) {
        if self.bytes.capacity() > super::KEEP {
            self.bytes = Vec::new();
        }
        if self.list.capacity() * size_of::<Field>() > super::KEEP {
            self.list = Vec::new();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Appends a header; an earlier one of the same name stays.
    pub(crate) fn push<'n, 'v>(&mut self, name: impl Into<FieldName<'n>>, value: impl Into<FieldValue<'v>>) {
        let (known, name) = self.store_name(name.into());
        let value = self.store(value.into());
        self.insert(Field { known, name, value });
    }

    /// Appends a header as an HTTP/1 peer sent it: its name is checked here and may hold capitals. Which well-known name it is.
    pub(crate) fn push_received(
        &mut self,
        name: &[u8],
        value: FieldValue<'_>,
    ) -> Result<Option<Known>, Invalid> {
        let start = self.bytes.len();
        let mut valid = !name.is_empty();
        self.bytes.extend(name.iter().map(|&byte| {
            let lower = LOWER[usize::from(byte)];
            valid &= lower != 0;
            lower
        }));
        if !valid {
            self.bytes.truncate(start);
            return Err(Invalid);
        }
        let stored = Span { start: offset(start), end: offset(self.bytes.len()) };
        let known = Known::find(self.slice(stored));
        let name = if known.is_some() {
            self.bytes.truncate(start);
            Span::default()
        } else {
            stored
        };
        let value = self.store(value);
        self.insert(Field { known, name, value });
        Ok(known)
    }

    /// The first value of a name.
    pub(crate) fn get<'a>(&self, name: impl Into<Name<'a>>) -> Option<&[u8]> {
        let name = name.into();
        let mut list = self.having(name).iter();
        list.find(|field| self.is(field, name)).map(|field| self.slice(field.value))
    }

    /// The first value of a name, to be put elsewhere.
    pub(crate) fn value<'a>(&self, name: impl Into<Name<'a>>) -> Option<FieldValue<'_>> {
        self.get(name).map(FieldValue::checked)
    }

    /// All values of a name, in order.
    pub(crate) fn get_all<'s, 'a: 's>(
        &'s self,
        name: impl Into<Name<'a>>,
    ) -> impl Iterator<Item = &'s [u8]> + 's {
        let name = name.into();
        let list = self.having(name).iter();
        list.filter(move |field| self.is(field, name)).map(|field| self.slice(field.value))
    }

    pub(crate) fn contains<'a>(&self, name: impl Into<Name<'a>>) -> bool {
        self.get(name).is_some()
    }

    /// Whether a list has an element, in any case of letters.
    pub(crate) fn has_token(&self, name: Known, token: &[u8]) -> bool {
        let elements = self.get_all(name).flat_map(|value| value.split(|&byte| byte == b','));
        elements.into_iter().any(|element| element.trim_ascii().eq_ignore_ascii_case(token))
    }

    /// The protocol that a message asks to switch to (RFC 9110, 7.8).
    pub(crate) fn upgrade(&self) -> Option<&[u8]> {
        self.get(Known::Upgrade).filter(|_| self.has_token(Known::Connection, b"upgrade"))
    }

    /// Makes `value` the only value of a name: in the place of the first, or appended.
    pub(crate) fn set<'n, 'v>(&mut self, name: impl Into<FieldName<'n>>, value: impl Into<FieldValue<'v>>) {
        let name = name.into();
        let value = self.store(value.into());
        self.set_stored(name, value);
    }

    /// Appends `item` to the comma-separated list that a name's values make together.
    pub(crate) fn append<'v>(
        &mut self,
        name: Known,
        separator: &'static str,
        item: impl Into<FieldValue<'v>>,
    ) {
        let start = self.bytes.len();
        let mut separate: &[u8] = b"";
        for at in 0..self.having(name.into()).len() {
            let Some(field) = self.list.get(at).copied().filter(|field| field.known == Some(name)) else {
                continue;
            };
            if field.value.start == field.value.end {
                continue;
            }
            self.bytes.extend_from_slice(separate);
            self.bytes.extend_from_within(field.value.start as usize..field.value.end as usize);
            separate = b",";
        }
        if self.bytes.len() > start {
            self.bytes.extend_from_slice(separator.as_bytes());
        }
        item.into().write(&mut self.bytes);
        let value = Span { start: offset(start), end: offset(self.bytes.len()) };
        self.set_stored(name.into(), value);
    }

    /// Adds a value beside those that the name has: in the same line for names that are kept once.
    pub(crate) fn add<'n, 'v>(
        &mut self,
        direction: Direction,
        name: impl Into<FieldName<'n>>,
        value: impl Into<FieldValue<'v>>,
    ) {
        let name = name.into();
        match name.0 {
            Name::Known(known) if known.is_joined(direction) && self.contains(known) => {
                self.append(known, ",", value);
            }
            Name::Known(_) | Name::Other(_) => self.push(name, value),
        }
    }

    /// Removes every value of a name; whether there was one.
    pub(crate) fn remove<'a>(&mut self, name: impl Into<Name<'a>>) -> bool {
        let name = name.into();
        if !self.may_have(name) {
            return false;
        }
        let before = self.list.len();
        self.retain_fields(|fields, field| !fields.is(field, name));
        self.list.len() != before
    }

    /// Keeps the headers for which `keep(name, value)` says so.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Name<'_>, &[u8]) -> bool) {
        self.retain_fields(|fields, field| keep(fields.name(field), fields.slice(field.value)));
    }

    /// Joins repeated headers whose names are kept once (RFC 9110, 5.3), each into the place of its first. Empty values
    /// leave no comma, as in Envoy.
    pub(crate) fn join_repeated(&mut self, direction: Direction) {
        let (mut seen, mut repeated) = (0_u128, 0_u128);
        for known in
            self.list.iter().filter_map(|field| field.known).filter(|known| known.is_joined(direction))
        {
            repeated |= seen & known.bit();
            seen |= known.bit();
        }
        if repeated == 0 {
            return;
        }
        let mut joined: Vec<Vec<u8>> = vec![Vec::new(); Known::COUNT];
        let mut met = 0_u128;
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| {
            work::step(1);
            let Some(known) = field.known.filter(|known| repeated & known.bit() != 0) else { return true };
            let Some(value) = joined.get_mut(known as usize) else { return true };
            let first = met & known.bit() == 0;
            met |= known.bit();
            let more = self.slice(field.value);
            if !value.is_empty() && !more.is_empty() {
                value.push(b',');
            }
            value.extend_from_slice(more);
            first
        });
        for field in &mut list {
            let Some(known) = field.known.filter(|known| repeated & known.bit() != 0) else { continue };
            if let Some(value) = joined.get(known as usize) {
                field.value = self.store(FieldValue::checked(value));
            }
        }
        self.list = list;
    }

    /// Names and values in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Name<'_>, &[u8])> {
        self.list.iter().map(|field| (self.name(field), self.slice(field.value)))
    }

    /// Bytes of all names and values, as Envoy counts them for its limits and `%REQUEST_HEADERS_BYTES%`.
    pub(crate) fn byte_size(&self) -> usize {
        self.iter().map(|(name, value)| name.as_bytes().len() + value.len()).sum()
    }

    fn retain_fields(&mut self, mut keep: impl FnMut(&Self, &Field) -> bool) {
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| keep(self, field));
        self.list = list;
    }

    fn set_stored(&mut self, name: FieldName<'_>, value: Span) {
        let mut found = false;
        if self.may_have(name.0) {
            let mut list = std::mem::take(&mut self.list);
            list.retain_mut(|field| {
                if !self.is(field, name.0) {
                    return true;
                }
                field.value = value;
                !std::mem::replace(&mut found, true)
            });
            self.list = list;
        }
        if !found {
            let (known, name) = self.store_name(name);
            self.insert(Field { known, name, value });
        }
    }

    fn insert(&mut self, field: Field) {
        self.known |= field.known.map_or(0, Known::bit);
        self.list.push(field);
    }

    /// All headers, or none where none has that name.
    fn having(&self, name: Name<'_>) -> &[Field] {
        if self.may_have(name) { &self.list } else { &[] }
    }

    /// False when no header has that name.
    fn may_have(&self, name: Name<'_>) -> bool {
        match name {
            Name::Known(known) => self.known & known.bit() != 0,
            Name::Other(_) => true,
        }
    }

    fn store_name(&mut self, name: FieldName<'_>) -> (Option<Known>, Span) {
        match name.0 {
            Name::Known(known) => (Some(known), Span::default()),
            Name::Other(bytes) => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                (None, Span { start: offset(start), end: offset(self.bytes.len()) })
            }
        }
    }

    fn store(&mut self, value: FieldValue<'_>) -> Span {
        let start = self.bytes.len();
        value.write(&mut self.bytes);
        Span { start: offset(start), end: offset(self.bytes.len()) }
    }

    fn slice(&self, span: Span) -> &[u8] {
        self.bytes.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    fn name(&self, field: &Field) -> Name<'_> {
        field.known.map_or_else(|| Name::Other(self.slice(field.name)), Name::Known)
    }

    fn is(&self, field: &Field, name: Name<'_>) -> bool {
        work::step(1);
        match (field.known, name) {
            (Some(have), Name::Known(want)) => have == want,
            (None, Name::Other(want)) => self.slice(field.name) == want,
            _ => false,
        }
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(name, value)| (text(name.as_bytes()), text(value)))).finish()
    }
}

/// Heads are limited to a few hundred KiB by the codecs, far below 4 GiB.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_a_field_replaces_every_value_in_the_place_of_the_first() {
        let mut fields = Fields::default();
        fields.push_received(b"X-A", b"1".into()).unwrap();
        fields.push_received(b"Content-Type", b"text/plain".into()).unwrap();
        fields.push("x-a", b"2");
        fields.set("x-a", b"3");
        let all: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
        assert_eq!(
            all,
            [(b"x-a".to_vec(), b"3".to_vec()), (b"content-type".to_vec(), b"text/plain".to_vec())]
        );
    }

    proptest::proptest! {
        /// The model is a plain list, which is searched from end to end.
        #[test]
        fn look_ups_find_what_a_plain_list_has(
            steps in proptest::collection::vec((0_u8..7, 0_usize..4, 0_u64..100), 0..40),
        ) {
            let names = ["date", "via", "x-one", "x-two"];
            let (mut fields, mut model) = (Fields::default(), Vec::<(&str, String)>::new());
            for (step, at, value) in steps {
                let name = names[at];
                let has = model.iter().any(|(have, _)| *have == name);
                match step {
                    0 => {
                        fields.push_received(name.to_ascii_uppercase().as_bytes(), value.into()).unwrap();
                        model.push((name, value.to_string()));
                    }
                    1 => {
                        fields.push(name, value);
                        model.push((name, value.to_string()));
                    }
                    2 if has => {
                        fields.set(name, value);
                        let first = model.iter().position(|(have, _)| *have == name).unwrap();
                        model[first].1 = value.to_string();
                        let mut seen = false;
                        model.retain(|(have, _)| *have != name || !std::mem::replace(&mut seen, true));
                    }
                    2 => {
                        fields.set(name, value);
                        model.push((name, value.to_string()));
                    }
                    3 => {
                        proptest::prop_assert_eq!(fields.remove(name), has);
                        model.retain(|(have, _)| *have != name);
                    }
                    4 => {
                        fields.retain(|have, _| have != name.into());
                        model.retain(|(have, _)| *have != name);
                    }
                    5 => fields = fields.clone(),
                    _ => {
                        fields.clear();
                        model.clear();
                    }
                }
                for name in names {
                    let expected = || model.iter().filter(|(have, _)| *have == name);
                    let all: Vec<_> = expected().map(|(_, value)| value.as_bytes()).collect();
                    proptest::prop_assert_eq!(fields.get_all(name).collect::<Vec<_>>(), &*all);
                    proptest::prop_assert_eq!(fields.get(name), all.first().copied());
                    proptest::prop_assert_eq!(fields.contains(name), !all.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_known_name_is_found_however_it_was_spelled() {
        let mut fields = Fields::default();
        fields.push_received(b"x-REQUEST-id", b"7".into()).unwrap();
        assert_eq!(fields.get(Known::XRequestId), Some(&b"7"[..]));
        assert_eq!(fields.get("x-request-id"), Some(&b"7"[..]));
        assert!(fields.remove("x-request-id"));
        assert!(!fields.contains(Known::XRequestId));
    }
}
