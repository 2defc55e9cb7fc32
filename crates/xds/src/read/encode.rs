//! A dynamic message to protobuf's binary form, in one walk.
//!
//! The library's own encoder asks for the length of each message before it writes it, and so walks what lies deep once for each level
//! above. This one writes from the end to the beginning: what is inside is there when its length is due.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use crate::schema;

const VARINT: u32 = 0;
const EIGHT_BYTES: u32 = 1;
const BYTES: u32 = 2;
const FOUR_BYTES: u32 = 5;

/// The binary form of a message. Unknown fields are left out: a message that was read from a text has none.
pub(crate) fn message(message: &DynamicMessage) -> Vec<u8> {
    let mut out = Reversed(Vec::new());
    out.message(message);
    out.0.reverse();
    out.0
}

/// Bytes from the last to the first.
struct Reversed(Vec<u8>);

impl Reversed {
    fn message(&mut self, message: &DynamicMessage) {
        let descriptor = message.descriptor();
        for field in schema::marks(&descriptor).all.iter().rev() {
            if !message.has_field(field) {
                continue;
            }
            match &*message.get_field(field) {
                Value::List(items) => self.list(field, items),
                Value::Map(entries) => {
                    let kind = field.kind();
                    let Some(entry) = kind.as_message() else { continue };
                    let (key_kind, value_kind) =
                        (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
                    for (key, value) in entries {
                        let end = self.0.len();
                        self.field(2, &value_kind, value);
                        self.field(1, &key_kind, &key_value(key));
                        self.length(field.number(), end);
                    }
                }
                value => self.field(field.number(), &field.kind(), value),
            }
        }
    }

    fn list(&mut self, field: &FieldDescriptor, items: &[Value]) {
        let kind = field.kind();
        if field.is_packed() {
            let end = self.0.len();
            for item in items.iter().rev() {
                self.value(&kind, item);
            }
            return self.length(field.number(), end);
        }
        for item in items.iter().rev() {
            self.field(field.number(), &kind, item);
        }
    }

    /// A value with its number and, where it needs one, its length.
    fn field(&mut self, number: u32, kind: &Kind, value: &Value) {
        let end = self.0.len();
        match self.value(kind, value) {
            BYTES => self.length(number, end),
            wire => self.varint(u64::from(number << 3 | wire)),
        }
    }

    fn length(&mut self, number: u32, end: usize) {
        self.varint((self.0.len() - end) as u64);
        self.varint(u64::from(number << 3 | BYTES));
    }

    /// A value; says in which of protobuf's forms it is.
    fn value(&mut self, kind: &Kind, value: &Value) -> u32 {
        match value {
            Value::Message(inner) => self.message(inner),
            Value::String(text) => self.0.extend(text.bytes().rev()),
            Value::Bytes(bytes) => self.0.extend(bytes.iter().rev()),
            Value::F64(number) => return self.fixed(&number.to_le_bytes()),
            Value::F32(number) => return self.fixed(&number.to_le_bytes()),
            Value::Bool(yes) => return self.number(u64::from(*yes)),
            Value::EnumNumber(number) => return self.number(i64::from(*number) as u64),
            Value::I32(number) => match kind {
                Kind::Sfixed32 => return self.fixed(&number.to_le_bytes()),
                Kind::Sint32 => return self.number(zigzag((*number).into())),
                _ => return self.number(i64::from(*number) as u64),
            },
            Value::I64(number) => match kind {
                Kind::Sfixed64 => return self.fixed(&number.to_le_bytes()),
                Kind::Sint64 => return self.number(zigzag(*number)),
                _ => return self.number(*number as u64),
            },
            Value::U32(number) => match kind {
                Kind::Fixed32 => return self.fixed(&number.to_le_bytes()),
                _ => return self.number((*number).into()),
            },
            Value::U64(number) => match kind {
                Kind::Fixed64 => return self.fixed(&number.to_le_bytes()),
                _ => return self.number(*number),
            },
            // Lists of lists and maps of maps are no values of protobuf.
            Value::List(_) | Value::Map(_) => {}
        }
        BYTES
    }

    fn fixed(&mut self, bytes: &[u8]) -> u32 {
        self.0.extend(bytes.iter().rev());
        if bytes.len() == 4 { FOUR_BYTES } else { EIGHT_BYTES }
    }

    fn number(&mut self, number: u64) -> u32 {
        self.varint(number);
        VARINT
    }

    fn varint(&mut self, mut number: u64) {
        let start = self.0.len();
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self.0[start..].reverse();
    }
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn key_value(key: &MapKey) -> Value {
    match key {
        MapKey::Bool(key) => Value::Bool(*key),
        MapKey::I32(key) => Value::I32(*key),
        MapKey::I64(key) => Value::I64(*key),
        MapKey::U32(key) => Value::U32(*key),
        MapKey::U64(key) => Value::U64(*key),
        MapKey::String(key) => Value::String(key.clone()),
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DynamicMessage;
    use prost_reflect::prost::Message;

    /// Every kind of field: what is written is read back as the same.
    #[test]
    fn what_is_encoded_is_decoded_as_the_same() {
        for name in ["everything.yaml", "pet-sidecar.yaml", "petstore-sidecar.yaml"] {
            let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            let bootstrap = "envoy.config.bootstrap.v3.Bootstrap";
            let read = crate::read::text(name, &text, bootstrap).map_err(|(found, _)| found).unwrap();
            let bytes = super::message(&read.message);
            let descriptor = crate::schema::message(bootstrap).unwrap();
            let decoded = |bytes: &[u8]| DynamicMessage::decode(descriptor.clone(), bytes).unwrap();
            assert!(decoded(&bytes) == decoded(&read.message.encode_to_vec()), "{name}");
            assert_eq!(bytes.len(), read.message.encoded_len(), "{name}");
        }
    }
}
