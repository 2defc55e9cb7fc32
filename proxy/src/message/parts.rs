//! The checked parts of a message: names, values and targets. Nothing else can become a part of one, so that no value can end its line.
//!
//! A codec checks what it reads by making one of these. What is configured or evaluated has to pass the same constructors. Names that the
//! proxy itself reads or writes are small numbers, so that a look-up compares a byte instead of a string.

use std::fmt::{self, Write};
use std::ops::Deref;

use super::known::Known;

/// A header name: well-known, or its bytes in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    Known(Known),
    Other(&'a [u8]),
}

impl<'a> Name<'a> {
    /// The name spelled `lower` (in lower case).
    pub(crate) fn of(lower: &'a [u8]) -> Self {
        Known::find(lower).map_or(Self::Other(lower), Self::Known)
    }

    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Known(known) => known.as_str().as_bytes(),
            Self::Other(bytes) => bytes,
        }
    }
}

impl From<Known> for Name<'_> {
    fn from(known: Known) -> Self {
        Self::Known(known)
    }
}

impl<'a> From<&'a str> for Name<'a> {
    fn from(lower: &'a str) -> Self {
        Self::of(lower.as_bytes())
    }
}

/// A value with a control character (CR, LF and NUL above all), or a name that is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid header value")]
pub struct Invalid;

/// A value that may be written as a header: visible characters, spaces, tabs and bytes above ASCII (RFC 9110, 5.5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldValue<'a>(Kind<'a>);

#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
    Bytes(&'a [u8]),
    Number(u64),
    Text(fmt::Arguments<'a>),
}

impl<'a> FieldValue<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Invalid> {
        if is_value(bytes) { Ok(Self(Kind::Bytes(bytes))) } else { Err(Invalid) }
    }

    /// Bytes of a value that was checked before.
    pub(super) fn checked(bytes: &'a [u8]) -> Self {
        debug_assert!(is_value(bytes));
        Self(Kind::Bytes(bytes))
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self.0 {
            Kind::Bytes(bytes) => out.extend_from_slice(bytes),
            Kind::Number(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
            // The writer never fails; a `Display` that does has written a part.
            Kind::Text(text) => drop(Visible(out).write_fmt(text)),
        }
    }
}

/// Drops what no value may hold.
struct Visible<'a>(&'a mut Vec<u8>);

impl Write for Visible<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend(text.bytes().filter(|&byte| VALUE[usize::from(byte)]));
        Ok(())
    }
}

/// A literal of the source.
impl From<&'static str> for FieldValue<'static> {
    fn from(text: &'static str) -> Self {
        Self::checked(text.as_bytes())
    }
}

/// A literal of the source.
impl<const N: usize> From<&'static [u8; N]> for FieldValue<'static> {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self::checked(bytes)
    }
}

impl From<u64> for FieldValue<'_> {
    fn from(number: u64) -> Self {
        Self(Kind::Number(number))
    }
}

impl From<u32> for FieldValue<'_> {
    fn from(number: u32) -> Self {
        Self(Kind::Number(number.into()))
    }
}

impl From<u16> for FieldValue<'_> {
    fn from(number: u16) -> Self {
        Self(Kind::Number(number.into()))
    }
}

impl From<usize> for FieldValue<'_> {
    fn from(number: usize) -> Self {
        Self(Kind::Number(number as u64))
    }
}

/// Formatted text; control characters in it are left out.
impl<'a> From<fmt::Arguments<'a>> for FieldValue<'a> {
    fn from(text: fmt::Arguments<'a>) -> Self {
        Self(Kind::Text(text))
    }
}

impl<'a> From<&'a FieldValueBuf> for FieldValue<'a> {
    fn from(value: &'a FieldValueBuf) -> Self {
        Self(Kind::Bytes(&value.0))
    }
}

impl<'a> From<&'a Path> for FieldValue<'a> {
    fn from(path: &'a Path) -> Self {
        Self(Kind::Bytes(&path.0))
    }
}

impl<'a> From<&'a Authority> for FieldValue<'a> {
    fn from(authority: &'a Authority) -> Self {
        Self(Kind::Bytes(&authority.0))
    }
}

impl<'a> From<&'a http::HeaderValue> for FieldValue<'a> {
    fn from(value: &'a http::HeaderValue) -> Self {
        Self::checked(value.as_bytes())
    }
}

/// A `FieldValue` that is kept: configured, or evaluated and not yet in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldValueBuf(Vec<u8>);

impl FieldValueBuf {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, Invalid> {
        let bytes = bytes.into();
        if is_value(&bytes) { Ok(Self(bytes)) } else { Err(Invalid) }
    }

    /// What of a configured text may be a value. The reader has refused anything else before.
    pub(crate) fn lossy(text: &str) -> Self {
        Self(text.bytes().filter(|&byte| VALUE[usize::from(byte)]).collect())
    }

    pub(crate) fn of(value: FieldValue<'_>) -> Self {
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        Self(bytes)
    }
}

/// A literal of the source.
impl From<&'static str> for FieldValueBuf {
    fn from(text: &'static str) -> Self {
        Self::of(text.into())
    }
}

impl Deref for FieldValueBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A name that may be written as a header: a token in lower case (RFC 9110, 5.6.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldName<'a>(pub(super) Name<'a>);

impl From<Known> for FieldName<'_> {
    fn from(known: Known) -> Self {
        Self(Name::Known(known))
    }
}

/// A literal of the source, in lower case.
impl From<&'static str> for FieldName<'static> {
    fn from(lower: &'static str) -> Self {
        debug_assert!(is_lower_token(lower.as_bytes()), "{lower:?}");
        Self(Name::of(lower.as_bytes()))
    }
}

impl<'a> From<&'a FieldNameBuf> for FieldName<'a> {
    fn from(name: &'a FieldNameBuf) -> Self {
        Self(name.as_name())
    }
}

/// The `http` crate takes some names from HTTP/2 that are no tokens.
impl<'a> TryFrom<&'a http::HeaderName> for FieldName<'a> {
    type Error = Invalid;

    fn try_from(name: &'a http::HeaderName) -> Result<Self, Invalid> {
        match Name::of(name.as_str().as_bytes()) {
            Name::Other(bytes) if !is_lower_token(bytes) => Err(Invalid),
            name => Ok(Self(name)),
        }
    }
}

/// A `FieldName` that is kept: configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FieldNameBuf {
    Known(Known),
    Other(OtherName),
}

/// A name that is not well known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtherName(Box<[u8]>);

impl FieldNameBuf {
    /// A configured name, in any case.
    pub(crate) fn new(name: &str) -> Result<Self, Invalid> {
        let lower = name.to_ascii_lowercase();
        if !is_lower_token(lower.as_bytes()) {
            return Err(Invalid);
        }
        Ok(Known::find(lower.as_bytes())
            .map_or_else(|| Self::Other(OtherName(lower.into_bytes().into())), Self::Known))
    }

    pub(crate) fn as_name(&self) -> Name<'_> {
        match self {
            Self::Known(known) => Name::Known(*known),
            Self::Other(OtherName(bytes)) => Name::Other(bytes),
        }
    }
}

impl<'a> From<&'a FieldNameBuf> for Name<'a> {
    fn from(name: &'a FieldNameBuf) -> Self {
        name.as_name()
    }
}

macro_rules! part_of_target {
    ($(#[$doc:meta])* $type:ident, $table:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $type(Vec<u8>);

        impl $type {
            pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, Invalid> {
                let bytes = bytes.into();
                if bytes.iter().all(|&byte| $table[usize::from(byte)]) { Ok(Self(bytes)) } else { Err(Invalid) }
            }

            /// Replaces it, in its own buffer; unchanged when the new one is not valid.
            pub fn set(&mut self, bytes: &[u8]) -> Result<(), Invalid> {
                if !bytes.iter().all(|&byte| $table[usize::from(byte)]) {
                    return Err(Invalid);
                }
                self.0.clear();
                self.0.extend_from_slice(bytes);
                Ok(())
            }

            pub fn clear(&mut self) {
                self.0.clear();
            }

            pub fn truncate(&mut self, length: usize) {
                self.0.truncate(length);
            }

            /// Takes a byte out of the middle.
            pub fn remove(&mut self, at: usize) {
                if at < self.0.len() {
                    self.0.remove(at);
                }
            }

            /// Gives back a buffer that a long one has made large.
            pub fn shrink(&mut self) {
                if self.0.capacity() > super::KEEP {
                    self.0 = Vec::new();
                }
            }
        }

        impl Deref for $type {
            type Target = [u8];

            fn deref(&self) -> &[u8] {
                &self.0
            }
        }

        /// A literal of the source.
        impl From<&'static str> for $type {
            fn from(text: &'static str) -> Self {
                let made = Self::new(text);
                debug_assert!(made.is_ok(), "{text:?}");
                made.unwrap_or_default()
            }
        }

        impl From<$type> for Vec<u8> {
            fn from(part: $type) -> Self {
                part.0
            }
        }
    };
}

part_of_target! {
    /// A request's path and query: without a space, which would end it.
    Path, PATH
}

part_of_target! {
    /// A request's host and port (RFC 3986, 3.2.2 and 3.2.3), without user information, which is only ever there to deceive.
    Authority, AUTHORITY
}

fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| VALUE[usize::from(byte)])
}

pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| LOWER[usize::from(byte)] != 0)
}

fn is_lower_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| LOWER[usize::from(byte)] == byte && byte != 0)
}

/// The lower case of each byte of a token; 0 for what no token has.
pub(super) const LOWER: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = b'!';
    while byte < 0x7f {
        let mark = matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        if byte.is_ascii_alphanumeric() || mark {
            table[byte as usize] = byte.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

const VALUE: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte < b' ' {
        table[byte as usize] = byte == b'\t';
        byte += 1;
    }
    table[0x7f] = false;
    table
};

const PATH: [bool; 256] = {
    let mut table = VALUE;
    table[b'\t' as usize] = false;
    table[b' ' as usize] = false;
    table
};

const AUTHORITY: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b'!';
    while byte < 0x7f {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b':'
                    | b'['
                    | b']'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
            )
            || matches!(byte, b'*' | b'+' | b',' | b';' | b'=');
        byte += 1;
    }
    table
};
