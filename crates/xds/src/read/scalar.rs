//! Single values: numbers, texts, booleans and enums, with the freedom that Envoy leaves.
//!
//! Pure.

use prost_reflect::{EnumDescriptor, EnumValueDescriptor, Kind as Type, Value};

use super::nearest::nearest;
use super::tree::{Kind, Node, Plain, Scalar};
use crate::diagnostic::Code;
use crate::schema;

/// Why a value cannot be read.
pub(crate) struct Mistake {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) expected: String,
    pub(crate) suggestion: Option<String>,
}

/// The value of a scalar field. Messages are not scalars.
pub(crate) fn read(kind: &Type, node: &Node) -> Result<Value, Mistake> {
    let Kind::Scalar(scalar) = &node.kind else { return Err(wrong(node, name(kind))) };
    if scalar.plain() == Plain::Null {
        return Err(wrong(node, name(kind)));
    }
    match kind {
        Type::String => text(node, scalar).map(|text| Value::String(text.to_owned())),
        Type::Bytes => match base64(text(node, scalar)?) {
            Some(bytes) => Ok(Value::Bytes(bytes.into())),
            None => Err(bad(&scalar.text, "bytes in base64")),
        },
        Type::Bool => boolean(node, scalar).map(Value::Bool),
        Type::Enum(descriptor) => enumeration(descriptor, node, scalar),
        Type::Double => float(node, scalar).map(Value::F64),
        Type::Float => float(node, scalar).map(|value| Value::F32(value as f32)),
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => {
            whole(node, scalar, i32::MIN.into(), i32::MAX.into()).map(|v| Value::I32(v as i32))
        }
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => {
            whole(node, scalar, i64::MIN.into(), i64::MAX.into()).map(|v| Value::I64(v as i64))
        }
        Type::Uint32 | Type::Fixed32 => whole(node, scalar, 0, u32::MAX.into()).map(|v| Value::U32(v as u32)),
        Type::Uint64 | Type::Fixed64 => whole(node, scalar, 0, u64::MAX.into()).map(|v| Value::U64(v as u64)),
        Type::Message(_) => Err(wrong(node, "a mapping")),
    }
}

/// What a person would call this node.
pub(crate) fn describe(node: &Node) -> String {
    match &node.kind {
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "a mapping".to_owned(),
        Kind::Scalar(scalar) => match scalar.plain() {
            Plain::Null => "nothing".to_owned(),
            Plain::Bool(_) => format!("the boolean `{}`", shown(&scalar.text)),
            Plain::Int(_) => format!("the number `{}`", shown(&scalar.text)),
            Plain::Text => format!("the text `{}`", shown(&scalar.text)),
        },
    }
}

/// A value as a message shows it: not endless.
pub(crate) fn shown(text: &str) -> String {
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut shown: String = text.chars().take(140).map(visible).collect();
    if text.chars().nth(140).is_some() {
        shown.push('…');
    }
    shown
}

fn text<'s>(node: &Node, scalar: &'s Scalar) -> Result<&'s str, Mistake> {
    match scalar.plain() {
        Plain::Text => Ok(&scalar.text),
        // Envoy's YAML parser has made something else of it, and its text would be a guess.
        Plain::Bool(_) | Plain::Int(_) | Plain::Null => Err(Mistake {
            suggestion: Some(format!("write it in quotes: \"{}\"", shown(&scalar.text))),
            ..wrong(node, "a text")
        }),
    }
}

fn boolean(node: &Node, scalar: &Scalar) -> Result<bool, Mistake> {
    match (scalar.plain(), scalar.text.as_str()) {
        (Plain::Bool(value), _) => Ok(value),
        // Quoted words are read by protobuf, which knows these.
        (Plain::Text, text) if any(text, &["true", "t", "yes", "y", "1"]) => Ok(true),
        (Plain::Text, text) if any(text, &["false", "f", "no", "n", "0"]) => Ok(false),
        _ => Err(Mistake {
            suggestion: nearest(&scalar.text, ["true", "false"].into_iter())
                .map(|near| format!("did you mean `{near}`?")),
            ..wrong(node, "true or false")
        }),
    }
}

fn any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn float(node: &Node, scalar: &Scalar) -> Result<f64, Mistake> {
    if let Plain::Bool(_) = scalar.plain() {
        return Err(wrong(node, "a number"));
    }
    if let Some(value) = scalar.integer() {
        return Ok(value as f64);
    }
    match scalar.text.as_str() {
        "NaN" => return Ok(f64::NAN),
        "Infinity" => return Ok(f64::INFINITY),
        "-Infinity" => return Ok(f64::NEG_INFINITY),
        _ => {}
    }
    let numeric = scalar.text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+'));
    scalar.text.parse().ok().filter(|_| numeric).ok_or_else(|| wrong(node, "a number"))
}

/// A whole number in a range; `8e3` and `10.0` are whole.
fn whole(node: &Node, scalar: &Scalar, min: i128, max: i128) -> Result<i128, Mistake> {
    let expected = || match (min, max) {
        (0, max) => format!("a whole number from 0 to {max}"),
        (min, max) => format!("a whole number from {min} to {max}"),
    };
    if let Plain::Bool(_) = scalar.plain() {
        return Err(wrong(node, &expected()));
    }
    let exact = scalar.integer().map(i128::from).or_else(|| scalar.text.parse().ok());
    let value = match exact {
        Some(value) => value,
        None => {
            let value = float(node, scalar).map_err(|_| wrong(node, &expected()))?;
            if value.fract() != 0.0 || value.abs() >= 2f64.powi(64) {
                return Err(bad(&scalar.text, &expected()));
            }
            value as i128
        }
    };
    if (min..=max).contains(&value) { Ok(value) } else { Err(bad(&scalar.text, &expected())) }
}

/// An enum value by name, in any case, or by number.
fn enumeration(descriptor: &EnumDescriptor, node: &Node, scalar: &Scalar) -> Result<Value, Mistake> {
    let text = scalar.text.as_str();
    if let Some(value) = descriptor.values().find(|value| value.name().eq_ignore_ascii_case(text)) {
        return Ok(Value::EnumNumber(value.number()));
    }
    if let Some(number) = scalar.integer().and_then(|number| i32::try_from(number).ok())
        && descriptor.get_value(number).is_some()
    {
        return Ok(Value::EnumNumber(number));
    }
    let values: Vec<_> = descriptor.values().collect();
    let names: Vec<&str> =
        values.iter().filter(|value| implemented(value)).map(EnumValueDescriptor::name).collect();
    let suggestion = nearest(text, names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
    let message = match scalar.plain() {
        Plain::Text => format!("unknown value `{}` of {}", shown(text), descriptor.name()),
        _ => format!("found {}", describe(node)),
    };
    Err(Mistake {
        code: Code::BadValue,
        message,
        expected: format!("one of {}", names.join(", ")),
        suggestion,
    })
}

fn implemented(value: &EnumValueDescriptor) -> bool {
    schema::refused_value(value.parent_enum().full_name(), value.number()).is_none()
}

fn name(kind: &Type) -> &'static str {
    match kind {
        Type::String => "a text",
        Type::Bytes => "bytes in base64",
        Type::Bool => "true or false",
        Type::Enum(_) => "a name",
        Type::Message(_) => "a mapping",
        _ => "a number",
    }
}

fn wrong(node: &Node, expected: &str) -> Mistake {
    let message = format!("found {}", describe(node));
    Mistake { code: Code::WrongType, message, expected: expected.to_owned(), suggestion: None }
}

fn bad(text: &str, expected: &str) -> Mistake {
    let message = format!("`{}` is not allowed here", shown(text));
    Mistake { code: Code::BadValue, message, expected: expected.to_owned(), suggestion: None }
}

/// Bytes in base64, standard or URL-safe, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    // Six bits alone are no byte, and padding fills up to four digits or is absent.
    if digits.len() % 4 == 1 || padding > 0 && !(digits.len() + padding).is_multiple_of(4) {
        return None;
    }
    let digits = digits.bytes();
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len()), 0u32, 0u32);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}
