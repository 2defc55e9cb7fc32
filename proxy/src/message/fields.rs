//! A list of fields in one buffer: what heads and trailers are made of.

use std::fmt;

use super::names::{Known, Name};

/// Header or trailer fields in their order, in one buffer that is reused when the list is cleared.
///
/// Names are in lower case. Replacing or removing leaves the old bytes in the buffer until `clear`; a head lives for one request.
#[derive(Clone, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    list: Vec<Field>,
}

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
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Appends a field; an earlier one of the same name stays.
    pub fn push<'a>(&mut self, name: impl Into<Name<'a>>, value: &[u8]) {
        let (known, name) = match name.into() {
            Name::Known(known) => (Some(known), Span::default()),
            Name::Other(bytes) => (None, self.store(bytes)),
        };
        let value = self.store(value);
        self.list.push(Field { known, name, value });
    }

    /// Appends a field whose name may hold capitals, as HTTP/1 peers send them; which well-known name it is.
    pub fn push_any_case(&mut self, name: &[u8], value: &[u8]) -> Option<Known> {
        let start = self.bytes.len();
        self.bytes.extend(name.iter().map(u8::to_ascii_lowercase));
        let stored = Span { start: offset(start), end: offset(self.bytes.len()) };
        let known = Known::find(self.slice(stored));
        let name = if known.is_some() {
            self.bytes.truncate(start);
            Span::default()
        } else {
            stored
        };
        let value = self.store(value);
        self.list.push(Field { known, name, value });
        known
    }

    /// The first value of a name.
    pub fn get<'a>(&self, name: impl Into<Name<'a>>) -> Option<&[u8]> {
        let name = name.into();
        self.list.iter().find(|field| self.is(field, name)).map(|field| self.slice(field.value))
    }

    /// All values of a name, in order.
    pub fn get_all<'s, 'a: 's>(&'s self, name: impl Into<Name<'a>>) -> impl Iterator<Item = &'s [u8]> + 's {
        let name = name.into();
        self.list.iter().filter(move |field| self.is(field, name)).map(|field| self.slice(field.value))
    }

    pub fn contains<'a>(&self, name: impl Into<Name<'a>>) -> bool {
        self.get(name).is_some()
    }

    /// Makes `value` the only value of a name: in the place of the first, or appended.
    pub fn set<'a>(&mut self, name: impl Into<Name<'a>>, value: &[u8]) {
        let name = name.into();
        let Some(first) = self.list.iter().position(|field| self.is(field, name)) else {
            self.push(name, value);
            return;
        };
        let value = self.store(value);
        let mut at = 0;
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| {
            let keep = at <= first || !self.is(field, name);
            at += 1;
            keep
        });
        if let Some(field) = list.get_mut(first) {
            field.value = value;
        }
        self.list = list;
    }

    /// Removes every value of a name; whether there was one.
    pub fn remove<'a>(&mut self, name: impl Into<Name<'a>>) -> bool {
        let name = name.into();
        let before = self.list.len();
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| !self.is(field, name));
        self.list = list;
        self.list.len() != before
    }

    /// Keeps the fields for which `keep(name, value)` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(Name<'_>, &[u8]) -> bool) {
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| keep(self.name(field), self.slice(field.value)));
        self.list = list;
    }

    /// Joins repeated lines of the names that are kept once (RFC 9110, 5.3).
    pub fn join_repeated(&mut self) {
        let mut seen = 0_u128;
        let mut repeated: Vec<Known> = Vec::new();
        for known in self.list.iter().filter_map(|field| field.known).filter(|known| known.is_joined()) {
            let bit = 1 << (known as u8);
            if seen & bit != 0 && !repeated.contains(&known) {
                repeated.push(known);
            }
            seen |= bit;
        }
        for known in repeated {
            let joined = self.get_all(known).collect::<Vec<_>>().join(&b","[..]);
            self.set(known, &joined);
        }
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (Name<'_>, &[u8])> {
        self.list.iter().map(|field| (self.name(field), self.slice(field.value)))
    }

    /// Bytes of all names and values, as Envoy counts them for its limits and `%REQUEST_HEADERS_BYTES%`.
    pub fn byte_size(&self) -> usize {
        self.iter().map(|(name, value)| name.as_bytes().len() + value.len()).sum()
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span { start: offset(start), end: offset(self.bytes.len()) }
    }

    fn slice(&self, span: Span) -> &[u8] {
        self.bytes.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    fn name(&self, field: &Field) -> Name<'_> {
        field.known.map_or_else(|| Name::Other(self.slice(field.name)), Name::Known)
    }

    fn is(&self, field: &Field, name: Name<'_>) -> bool {
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
        fields.push_any_case(b"X-A", b"1");
        fields.push_any_case(b"Content-Type", b"text/plain");
        fields.push("x-a", b"2");
        fields.set("x-a", b"3");
        let all: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
        assert_eq!(
            all,
            [(b"x-a".to_vec(), b"3".to_vec()), (b"content-type".to_vec(), b"text/plain".to_vec())]
        );
    }

    #[test]
    fn a_known_name_is_found_however_it_was_spelled() {
        let mut fields = Fields::default();
        fields.push_any_case(b"x-REQUEST-id", b"7");
        assert_eq!(fields.get(Known::XRequestId), Some(&b"7"[..]));
        assert_eq!(fields.get("x-request-id"), Some(&b"7"[..]));
        assert!(fields.remove("x-request-id"));
        assert!(!fields.contains(Known::XRequestId));
    }
}
