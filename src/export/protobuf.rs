//! Messages in the encoding of Protocol Buffers, field by field: the few kinds that TensorBoard and ONNX take.

/// Types of fields on the wire.
const VARINT: u32 = 0;
const EIGHT_BYTES: u32 = 1;
const LENGTH: u32 = 2;
const FOUR_BYTES: u32 = 5;

/// A message that fields are added to.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// An `int64`, an `int32` or an enum.
    pub fn integer(mut self, field: u32, value: i64) -> Self {
        self.key(field, VARINT);
        // Negative numbers take ten bytes, as in every other encoder.
        self.varint(value as u64);
        self
    }

    /// Integers one by one, as in messages of the second edition of the language.
    pub fn integers(self, field: u32, values: impl IntoIterator<Item = i64>) -> Self {
        values.into_iter().fold(self, |message, value| message.integer(field, value))
    }

    /// A `float`.
    pub fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, FOUR_BYTES);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// A `double`.
    pub fn double(mut self, field: u32, value: f64) -> Self {
        self.key(field, EIGHT_BYTES);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// A packed list of `double`.
    pub fn doubles(self, field: u32, values: &[f64]) -> Self {
        let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.raw(field, &packed)
    }

    /// A `string`.
    pub fn text(self, field: u32, value: &str) -> Self {
        self.raw(field, value.as_bytes())
    }

    /// `bytes`.
    pub fn raw(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, LENGTH);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    /// A message within this one.
    pub fn message(self, field: u32, value: Self) -> Self {
        self.raw(field, &value.bytes)
    }

    /// Messages within this one, in their order.
    pub fn messages(self, field: u32, values: impl IntoIterator<Item = Self>) -> Self {
        values.into_iter().fold(self, |message, value| message.message(field, value))
    }

    /// The bytes of all fields.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn key(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the encoding's public description, and numbers at the edges of the widths.
    #[test]
    fn fields_are_encoded_as_described() {
        let bytes = |message: Message| message.into_bytes();
        assert_eq!(bytes(Message::new().integer(1, 150)), [0x08, 0x96, 0x01]);
        assert_eq!(bytes(Message::new().text(2, "testing")), *b"\x12\x07testing");
        let inner = Message::new().integer(1, 150);
        assert_eq!(bytes(Message::new().message(3, inner)), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(bytes(Message::new().integers(4, [1, 127, 128])), [0x20, 1, 0x20, 127, 0x20, 0x80, 1]);
        assert_eq!(bytes(Message::new().integer(16, -1))[2..], [&[0xff; 9][..], &[1]].concat());
        assert_eq!(bytes(Message::new().float(1, 1.0)), [0x0d, 0, 0, 0x80, 0x3f]);
        assert_eq!(bytes(Message::new().double(1, 1.0)), [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(bytes(Message::new().doubles(6, &[0.0; 2])), [&[0x32, 16][..], &[0; 16]].concat());
    }
}
